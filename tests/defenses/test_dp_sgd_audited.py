"""DP-SGD as it trains, audited: what real models show stays below what the accountant says, unless it is broken."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from clipped_gradients import linear
from torch import Tensor
from training_jobs import train_with

from mia_lightning.datasets.population import Population
from mia_lightning.defenses import private_gradients
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.private_gradients import PrivateGradients
from mia_lightning.membership import Wanted
from mia_lightning.membership.bernoulli import Bernoulli
from mia_lightning.metrics.privacy_bounds import (
    correct_guesses,
    largest_certifiable_epsilon,
    multi_run_epsilon,
    one_run_epsilon,
)
from mia_lightning.seeds import generator
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

CONFIDENCE = 1 - 1e-6
OTHERS = 30
TRIALS = 2400  # half with the canary, half without
DEFENSE = DPSGD(noise_multiplier=2.8, num_records=OTHERS, delta=1e-5)
# At q = 1 no sampling helps the mechanism; steps so small that the canary's gradient stays what it is at first.
RECIPE = Recipe(epochs=4, batches_per_epoch=1, optimizer=partial(torch.optim.SGD, lr=0.01))


@pytest.fixture
def population(blobs: Population) -> Population:
    """Thirty records with nothing in their last feature, and a canary, the last record, with nothing else."""
    x_N = torch.cat([blobs.x_N[: OTHERS + 1], torch.zeros(OTHERS + 1, 1)], dim=1)
    x_N[OTHERS] = torch.tensor([0.0] * 6 + [30.0])
    return Population(name="canary", x_N=x_N, label_N=blobs.label_N[: OTHERS + 1], class_names=blobs.class_names)


def shown(population: Population, *, seed: int = 0) -> float:
    """The multi-run bound: how the weight of the canary's feature tells who saw it, threshold from other trials."""
    make = bind_shapes(linear, population.input_shape, population.num_classes)
    label = int(population.label_N[OTHERS])

    def trials(role: str, count: int) -> tuple[Tensor, Tensor]:
        is_in_K = torch.arange(count) % 2 == 0
        records = [torch.arange(OTHERS + int(is_in)) for is_in in is_in_K]
        engine = Engine(seed=seed, settings=TrainerSettings(accelerator="cpu"))
        trained = train_with(engine, make, population, records, DEFENSE.adapt(RECIPE), role=role)
        weight_KCF = trained.stack.networks.get_parameter("weight").detach()
        return weight_KCF[:, label, -1].double(), is_in_K

    score_K, is_in_K = trials("calibration", 400)
    threshold = (score_K[is_in_K].mean() + score_K[~is_in_K].mean()) / 2
    score_K, is_in_K = trials("trial", TRIALS)
    flagged_K = score_K > threshold
    return multi_run_epsilon(
        int((flagged_K & is_in_K).sum()),
        TRIALS // 2,
        int((flagged_K & ~is_in_K).sum()),
        TRIALS // 2,
        delta=1e-5,
        confidence=CONFIDENCE,
    )


def claimed() -> float:
    return DEFENSE.guarantee(RECIPE, OTHERS).epsilon


def test_the_trials_could_show_more_than_is_claimed() -> None:
    assert largest_certifiable_epsilon(TRIALS // 2, TRIALS // 2, delta=1e-5, confidence=CONFIDENCE) > claimed() + 1


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.slow
def test_what_trained_models_show_is_no_more_than_the_accountant_says(population: Population, seed: int) -> None:
    assert 0.0 < shown(population, seed=seed) <= claimed()


def broken(monkeypatch: pytest.MonkeyPatch, change: Callable[[PrivateGradients], PrivateGradients]) -> None:
    original = DPSGD.for_models
    monkeypatch.setattr(DPSGD, "for_models", lambda self, models: change(original(self, models)))


def without_clipping(gradients: PrivateGradients) -> PrivateGradients:
    """The same noise on sums that nothing limits."""
    scale = 1e6 / gradients.clip_norm
    return replace(gradients, clip_norm=1e6, noise_multiplier_K=gradients.noise_multiplier_K / scale)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(without_clipping, id="clipping off"),
        pytest.param(lambda g: replace(g, noise_multiplier_K=0 * g.noise_multiplier_K), id="noise off"),
        pytest.param(lambda g: replace(g, noise_multiplier_K=g.noise_multiplier_K / 10), id="noise too small"),
    ],
)
@pytest.mark.slow
def test_a_broken_mechanism_shows_more_than_the_accountant_says(
    change: Callable[[PrivateGradients], PrivateGradients], population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, change)
    assert shown(population) > claimed()


@pytest.mark.slow
def test_noise_that_all_models_share_shows_more_than_the_accountant_says(
    population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = private_gradients.counter_normal
    monkeypatch.setattr(
        private_gradients,
        "counter_normal",
        lambda key_K, step, shape: draw(torch.full_like(key_K, 7), step, shape),
    )
    assert shown(population) > claimed()


# --- one run ---------------------------------------------------------------------------------------------

CANARIES, GUESSES, DELTA = 1000, 250, 1e-8  # δ counts with every canary


@pytest.fixture
def directions() -> Population:
    """1,000 canaries, each the only record with anything in its own feature, and 20 others."""
    num_records = CANARIES + 20
    label_N = torch.randint(2, (num_records,), generator=generator(0, "labels"))
    return Population(name="directions", x_N=30 * torch.eye(num_records), label_N=label_N, class_names=("a", "b"))


def shown_by_one_run(population: Population, defense: DPSGD, *, seed: int) -> float:
    plan = Bernoulli(canaries=CANARIES).fill(population, Wanted(num_targets=1, num_shadows=0, seed=seed))
    make = bind_shapes(linear, population.input_shape, population.num_classes)
    engine = Engine(seed=seed, settings=TrainerSettings(accelerator="cpu"))
    trained = train_with(engine, make, population, plan.records_of(plan.targets), defense.adapt(RECIPE), role="target")
    log_probability_NC = trained.observe(population).log_probability_KANC[0, 0]
    score_N = log_probability_NC.gather(1, population.label_N[:, None]).squeeze(1)
    canary_N = plan.scored_KN[0]
    correct = correct_guesses(score_N[canary_N], plan.member_KN[0][canary_N], guesses_in=GUESSES, guesses_out=GUESSES)
    return one_run_epsilon(CANARIES, 2 * GUESSES, correct, delta=DELTA, confidence=CONFIDENCE)


def test_one_run_shows_no_more_than_the_accountant_says_and_finds_a_broken_mechanism(
    directions: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    defense = DPSGD(noise_multiplier=4.0, num_records=CANARIES // 2 + 20, delta=DELTA)
    limit = defense.guarantee(RECIPE, 1).epsilon
    for seed in range(3):
        assert shown_by_one_run(directions, defense, seed=seed) <= limit
    broken(monkeypatch, without_clipping)
    assert shown_by_one_run(directions, defense, seed=0) > limit
