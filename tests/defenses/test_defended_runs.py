"""A defence in the architecture reaches the target, and the shadow models of the attacker who knows it alone."""

from functools import partial

import pytest
import torch
from torch import nn

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.dropout import Dropout
from mia_lightning.errors import InputError
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack

QUICK = {
    "membership": mia.Disjoint(train_size=20),
    "shadow": mia.Real(count=2),
    "training": Recipe(epochs=2, batch_size=10, optimizer=partial(torch.optim.SGD, lr=0.1)),
    "trainer": mia.TrainerSettings(accelerator="cpu"),
}


def rates(models: object) -> list[float]:
    assert isinstance(models, TrainedStack)
    return [layer.p for layer in models.stack.model(0).modules() if isinstance(layer, nn.Dropout)]


@pytest.mark.costly
@pytest.mark.parametrize("adaptive", [True, False])
def test_dropout_is_in_the_target_and_in_the_shadow_models_that_imitate_it(adaptive: bool, blobs: Population) -> None:
    observed = mia.observe(
        blobs, model=partial(MLP, hidden=[4]), defenses=[Dropout(rate=0.25)], adaptive=adaptive, **QUICK
    )
    assert rates(observed.targets) == [0.25]
    assert rates(observed.shadows) == ([0.25] if adaptive else [])


def test_a_model_without_a_place_for_it_is_refused_before_training(pictures: Population) -> None:
    with pytest.raises(InputError, match=r"CNN takes none"):
        mia.observe(pictures, model=partial(CNN, channels=[2]), defenses=[Dropout()], **QUICK)
