"""A LightningModule that is refused, and the sentence that refuses it."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F  # noqa: N812
from own_training import own_job
from torch import Tensor, nn

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(torch.tanh(self.layer(x)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def refusal(kind: type[nn.Module], population: Population, **recipe: Any) -> str:
    """The sentence with which a module is refused before training."""
    with pytest.raises(InputError) as refused:
        own_job(kind, population, **recipe).check()
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert kind.__name__ in sentence
    return sentence


def with_method(name: str, function: Any) -> type[nn.Module]:
    return type("Own", (Net,), {name: function})
