"""The check that members and non-members are one random draw."""

import pytest
import torch
from quick import slow_but

import mia_lightning as mia
from mia_lightning.datasets.digits import load_digits
from mia_lightning.datasets.population import Population
from mia_lightning.metrics.model_free import model_free_warning
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import generator


def masks(member: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return member, ~member


@pytest.mark.parametrize("seed", slow_but([0], range(3)))
def test_a_random_split_raises_no_warning(seed: int) -> None:
    population = load_digits()
    member_N = torch.rand(len(population), generator=generator(seed, "split")) < 0.5
    assert model_free_warning(population, *masks(member_N), seed=seed) is None


def test_a_split_by_content_or_by_label_is_seen() -> None:
    population = load_digits()
    brightness_N = population.x_N.float().mean(1)
    for member_N in (brightness_N > brightness_N.median(), population.label_N < 5):
        warning = model_free_warning(population, *masks(member_N), seed=0)
        assert warning is not None
        assert "before any model is looked at" in warning


def test_too_few_records_are_not_judged(blobs: Population) -> None:
    assert model_free_warning(blobs, *masks(torch.arange(120) < 40), seed=0) is None


def test_the_report_of_a_given_split_opens_with_the_warning() -> None:
    population = load_digits()
    report = mia.audit(
        population,
        model=MLP,
        membership=mia.Given(member_N=population.label_N < 5),
        shadow=mia.Real(count=2),
        attacks=[mia.Loss()],
        training=mia.Recipe(epochs=2, batch_size=100, optimizer=mia.default_recipe().optimizer),
        trainer=mia.TrainerSettings(accelerator="cpu"),
    )
    assert "before any model is looked at" in report.warnings[0]
    assert report.broken == report.warnings[:1]
    assert not report.headline.startswith("No membership leakage")
