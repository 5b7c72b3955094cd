"""Estimators that are fitted as a stack would be trained, and each by itself."""

from typing import Any

import numpy as np
import torch

from mia_lightning.datasets.population import Population
from mia_lightning.training.engine import Engine
from mia_lightning.training.estimators.answers import log_probabilities, way_of
from mia_lightning.training.estimators.estimators import EstimatorModels, fit_estimators
from mia_lightning.training.estimators.making import Making


def blobs(N: int = 120, C: int = 3, F: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    label = np.arange(N) % C
    return (draw.normal(size=(N, F)) + label[:, None]).astype(np.float32), label


def population(N: int = 120, C: int = 3) -> Population:
    x, label = blobs(N, C)
    return Population(
        name="blobs", x_N=torch.from_numpy(x), label_N=torch.from_numpy(label), class_names=tuple("abcdefgh"[:C])
    )


def fitted(
    make: Any,
    *,
    role: str = "shadow",
    engine: Engine | None = None,
    records: list[torch.Tensor] | None = None,
    **how: Any,
) -> EstimatorModels:
    people = how.pop("people", None) or population()
    N = len(people)
    records = records or [torch.arange(0, N, 2), torch.arange(1, N, 2)]
    asked = torch.ones(len(records), N, dtype=torch.bool)
    making = Making(make=make, **{"processes": 1, **how})
    return fit_estimators(making, engine or Engine(seed=3), people, records, asked, role=role)


def asked_alone(estimator: Any, x: Any, y: np.ndarray, C: int) -> np.ndarray:
    way = way_of(estimator, x, y, range(C))
    return log_probabilities(estimator, way, x, C, range(C))
