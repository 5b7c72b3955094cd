"""Modules whose own training leans on what a plain network does not have: scalars, hooks, their own dtype."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from quick import slow_but
from torch import nn

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError

pytestmark = pytest.mark.usefixtures("global_generators")


class Plain(nn.Module):
    """With a temperature that is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale = nn.Linear(6, 3), nn.Parameter(torch.ones([]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) * self.scale


class Scaled(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale = nn.Linear(6, 3), nn.Parameter(torch.ones([]))

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x) * self.scale

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.05)


class Weighted(Scaled):
    """What its step reads is set when epochs start, and has the module's own type."""

    def on_train_start(self) -> None:
        self.base = 1.0

    def on_train_epoch_start(self) -> None:
        self.weight = self.base / (1 + self.current_epoch)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        weight = torch.full((3,), self.weight, dtype=self.dtype, device=self.device)
        return nn.functional.cross_entropy(self(batch[0]), batch[1], weight=weight)


class Lazy(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.LazyLinear(3)


@pytest.mark.costly
@pytest.mark.parametrize("execution", ["stack", "loop"])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("model", [Plain, Scaled])
def test_a_scalar_parameter_is_trained(
    blobs: Population, model: type[nn.Module], clip: float | None, execution: Any
) -> None:
    observation = mia.observe(
        blobs,
        model=model,
        membership=mia.Disjoint(train_size=20),
        shadow=mia.Real(count=2),
        attacks=[mia.Loss()],
        training=mia.Recipe(epochs=3, batch_size=10, gradient_clip_norm=clip, execution=execution),
        trainer=mia.TrainerSettings(accelerator="cpu"),
    )
    scale_K = observation.shadows.stack.networks.scale.detach()
    observation.close()
    assert scale_K.shape == (2,)
    assert (scale_K != 1).all()
    assert scale_K[0] != scale_K[1]


@pytest.mark.costly
@pytest.mark.parametrize("precision", slow_but(["32"], ["32", "64"]))
def test_what_hooks_at_starts_set_is_there_in_the_steps(blobs: Population, precision: str) -> None:
    report = mia.audit(
        blobs,
        model=Weighted,
        membership=mia.Disjoint(train_size=20),
        shadow=mia.Real(count=4),
        attacks=[mia.Loss()],
        training=mia.Recipe(epochs=40, batch_size=10),  # long enough to be probed
        trainer=mia.TrainerSettings(accelerator="cpu", precision=precision),
    )
    assert report.target.train_accuracy > 0.6


def test_lazy_layers_are_named(blobs: Population) -> None:
    with pytest.raises(InputError, match="lazy layers"):
        mia.audit(blobs, model=Lazy, attacks=[mia.Loss()])
