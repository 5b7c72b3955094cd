"""One record more changes neither the number of steps nor the sampling rate."""

from functools import partial

import pytest
import torch

from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.fixed_size import of_fixed_size
from mia_lightning.defenses.interface import defended_recipe
from mia_lightning.defenses.poisson import PoissonSampler
from mia_lightning.training.step.recipe import Recipe

pytest.importorskip("opacus")
RECIPE = Recipe(epochs=2, batch_size=10, optimizer=partial(torch.optim.SGD, lr=0.1))


def test_without_it_one_record_more_adds_a_batch_and_with_it_none() -> None:
    assert RECIPE.steps_per_epoch(31) == RECIPE.steps_per_epoch(30) + 1
    trainings, recipe = of_fixed_size((), RECIPE, 30)
    assert trainings == ()
    assert recipe.steps_per_epoch(31) == recipe.steps_per_epoch(30) == 3


def test_private_training_samples_at_one_rate_and_promises_one_epsilon() -> None:
    (defense,), recipe = of_fixed_size((DPSGD(noise_multiplier=1.3),), RECIPE, 30)
    assert isinstance(defense, DPSGD)
    adapted = defended_recipe((defense,), recipe)
    assert isinstance(adapted.sampler, PoissonSampler)
    for size in (30, 31):
        assert adapted.steps_per_epoch(size) == 3
        assert adapted.sampler.rate(size, 3) == pytest.approx(1 / 3)
    assert defense.guarantee(recipe, 30) == defense.guarantee(recipe, 31)
    assert defense.guarantee(recipe, 30) == DPSGD(noise_multiplier=1.3).guarantee(RECIPE, 30)


def test_a_number_of_records_that_was_given_is_kept() -> None:
    (defense,), _ = of_fixed_size((DPSGD(noise_multiplier=1.3, num_records=50),), RECIPE, 30)
    assert isinstance(defense, DPSGD)
    assert defense.num_records == 50
