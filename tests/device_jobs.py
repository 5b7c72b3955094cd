"""What tests on several devices train."""

import multiprocessing
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.models.mlp import MLP

ADAM = partial(torch.optim.Adam, lr=0.02)


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before = multiprocessing.active_children()  # the pool of estimators keeps its processes for a while
    yield
    assert [each for each in multiprocessing.active_children() if each not in before] == []


class Scaled(MLP):
    """A network with a buffer of its own, as attack networks have."""

    def __init__(self) -> None:
        super().__init__((6,), 3, hidden=(8,), dropout=0.2)
        self.register_buffer("scale", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x * self.scale)
        return logits


def records() -> Population:
    x_N = torch.randn(160, 6, generator=torch.Generator().manual_seed(0))
    label_N = (x_N[:, 0] + 0.5 * torch.randn(160, generator=torch.Generator().manual_seed(1)) > 0).long()
    return Population(name="plane", x_N=x_N, label_N=label_N + (x_N[:, 1] > 1), class_names=("a", "b", "c"))
