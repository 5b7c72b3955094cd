"""What a target is connected to in tests of protocols."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.terminal.progress import Stages


def population_of(x_N: Tensor, class_names: tuple[str, ...] = ("a", "b", "c")) -> Population:
    """These records, with labels in turn."""
    label_N = torch.arange(len(x_N)) % len(class_names)
    return Population(name="records", x_N=x_N, label_N=label_N, class_names=class_names)


def setup_of(population: Population, *, seed: int = 3) -> Any:
    """Of a `Setup` what a served target looks at; remarks are in `engine.stages.remarks`."""
    return SimpleNamespace(population=population, engine=SimpleNamespace(seed=seed, stages=Stages()))
