"""Stacks whose models hold buffers of their own from the start."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from training_jobs import train_with

from mia_lightning.datasets.population import Population
from mia_lightning.models.mlp import MLP
from mia_lightning.training.engine import Engine
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

MODELS = [4, 1, 4]  # a number may come twice: the same initialisation and order of records
MEAN_KF = torch.tensor([[0.0, 1.0], [0.5, -2.0], [-1.0, 0.3]])
STD_KF = torch.tensor([[1.0, 3.0], [0.5, 2.0], [4.0, 0.1]])
RECORDS_K = [torch.arange(0, 40), torch.arange(30, 100), torch.arange(20, 60)]  # two steps, four, two


class Shifted(MLP):
    def __init__(self, *shapes: object) -> None:
        super().__init__(*shapes, hidden=(5,))
        self.norm = nn.Module()  # a buffer of a part is named as in the state of a network
        self.norm.register_buffer("mean", torch.zeros(2))
        self.register_buffer("std", torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.norm.mean) / self.std
        for name in ("flatten", "linear_0", "activation_0", "logits"):
            x = self.get_submodule(name)(x)
        return x


def population(mean: Tensor | None = None, std: Tensor | None = None) -> Population:
    x_N = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    label_N = (x_N.sum(1) > 0).long()
    return Population(name="plane", x_N=x_N, label_N=label_N, class_names=("a", "b"), mean=mean, std=std)


def engine() -> Engine:
    return Engine(seed=3, settings=TrainerSettings(accelerator="cpu", precision="64"))


def recipe(**settings: object) -> Recipe:
    return Recipe(**{"epochs": 4, "batch_size": 20, "optimizer": partial(torch.optim.Adam, lr=0.02), **settings})


def train(**settings: object) -> TrainedStack:
    return train_with(
        engine(),
        partial(Shifted, (2,), 2),
        population(),
        RECORDS_K,
        recipe(**settings),
        role="shifted",
        models=MODELS,
        buffers={"norm.mean": MEAN_KF, "std": STD_KF},
    )


@pytest.mark.costly
@pytest.mark.parametrize("other", [{}, {"chunk": 1}, {"execution": "loop"}], ids=["stack", "chunk1", "loop"])
def test_each_model_is_one_trained_alone_on_records_of_its_own_scale(other: dict[str, object]) -> None:
    together = train(**other).stack
    assert torch.equal(together.networks.norm.mean, MEAN_KF.double())
    for k in range(3):
        alone = train_with(
            engine(),
            partial(MLP, (2,), 2, hidden=(5,)),
            population(MEAN_KF[k], STD_KF[k]),
            [RECORDS_K[k]],
            recipe(),
            role="shifted",
            models=[MODELS[k]],
        )
        for name, tensor in alone.stack.state_of(0).items():
            torch.testing.assert_close(together.state_of(k)[name], tensor, rtol=1e-9, atol=1e-9)
