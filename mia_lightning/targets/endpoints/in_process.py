"""What endpoints in this process have in common: how they are asked, and how they take records."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.form import one_tensor
from mia_lightning.datasets.population import Population
from mia_lightning.store.identity import digest, digest_of_tensor, identity
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.training.estimators.table import given_records
from mia_lightning.training.setup import Setup

# Answers cost nothing, do not change, and either come at once or never.
IN_PROCESS = Asking(batch_size=1024, concurrency=1, retries=0, sentinels=0)


def classes_of(asking: Asking, setup: Setup) -> tuple[str, ...]:
    """The classes in the order of the answers."""
    return setup.population.class_names if asking.classes is None else tuple(asking.classes)


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordIntake:
    """How a model in this process takes records: as they are, or normalised.

    Attributes:
        population: by whose constants they are normalised; None for records as they are.
    """

    population: Population | None = None

    def array(self, x_B: Tensor) -> np.ndarray[Any, Any]:
        """`[B, *features]`, in float32 where they are normalised or numpy does not know their type."""
        if self.population is not None:
            return one_tensor(self.population.normalised(x_B)).numpy()
        try:
            return x_B.numpy()
        except TypeError:  # bfloat16
            return x_B.float().numpy()

    def given(self, x_B: Tensor) -> Any:
        """As an estimator takes them: `[B, features]`, or a table where columns have names."""
        if self.population is None or self.population.form is None:
            return self.array(x_B).reshape(len(x_B), -1)
        label_B = torch.zeros(len(x_B), dtype=torch.int64)
        asked = replace(
            self.population,
            x_N=x_B.cpu(),
            label_N=label_B,
            member_N=None,
            group_N=None,
            group_names=(),
            record_names=(),
            origin=None,
        )
        return given_records(asked)

    @staticmethod
    def describe(given: Any) -> str:
        """What they look like, for messages."""
        kind = getattr(given, "dtype", None)
        return f"{given.shape[1]} " + ("named columns" if kind is None else f"features of {kind}")

    @property
    def identity(self) -> Mapping[str, object]:
        """What answers depend on beside the model, as JSON."""
        if self.population is None:
            return {"normalised": False}
        if self.population.form is not None:
            return {"form": digest(identity(self.population.form.described()))}
        constants = {"mean": self.population.mean, "std": self.population.std}
        of_tensors = {name: None if value is None else digest_of_tensor(value) for name, value in constants.items()}
        return {"normalised": True, "scale": self.population.scale, **of_tensors}
