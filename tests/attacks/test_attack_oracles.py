"""The attacks and figures on cases that are solved exactly (`oracles`), within four standard errors."""

from functools import partial
from math import log, sqrt

import numpy as np
import oracles
import pytest
import torch
from attack_toys import make_evidence
from scipy.stats import norm
from torch import Tensor

from mia_lightning.attacks.interface import Attack
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.shokri import Shokri
from mia_lightning.metrics.figures import Figures
from mia_lightning.metrics.leakage import attack_figures
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings


def small_networks() -> Shokri:
    training = Recipe(epochs=10, batches_per_epoch=10, optimizer=partial(torch.optim.Adam, lr=0.01))
    return Shokri(hidden=(16,), training=training)


def run(
    attack: Attack, log_probability_KNC: Tensor, label_N: Tensor, member_KN: Tensor
) -> tuple[Tensor, Tensor, Figures]:
    """Model 0 is the target; its complement, model 1, is left out with it; all others are shadow models."""
    signals = log_probability_KNC.float().unsqueeze(1)
    assert bool(signals.isfinite().all())
    shadows = make_evidence(
        signals=Signals(log_probability_KANC=signals[2:]),
        member_KN=member_KN[2:],
        scored_KN=torch.ones_like(member_KN[2:]),
        label_N=label_N,
        num_classes=signals.shape[-1],
    )
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu"))
    fitted = attack.fit(shadows, engine)
    (score_N,) = fitted.score(Signals(log_probability_KANC=signals[:1]), label_N)
    flagged_N = score_N >= fitted.threshold
    figures = attack_figures(score_N, flagged_N, member_KN[0], max_fprs=(0.01, 0.04))
    return score_N, flagged_N, figures


def two_classes(log_density_KN: Tensor) -> Tensor:
    """Log probabilities of two classes, of which the first is the density."""
    return torch.stack([log_density_KN, torch.log1p(-log_density_KN.exp())], dim=-1)


def advantage_of_group_means(g: int) -> float:
    """Largest TPR - FPR of the squared-loss attack: at the residual where both normal densities are equal."""
    inside, outside = 1 - 1 / g, 1 + 1 / g
    residual = sqrt(log(outside / inside) / (1 / inside - 1 / outside))
    return float(2 * norm.cdf(residual / sqrt(inside)) - 2 * norm.cdf(residual / sqrt(outside)))


@pytest.mark.costly
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("g", [2, 5])
def test_loss_attack_on_least_squares_of_group_means(g: int, seed: int) -> None:
    simulation = oracles.simulate_group_means(g, 40_000, seed, num_models=4)
    is_member_N = simulation.member_KN[0]
    score_N, flagged_N, figures = run(
        Loss(), two_classes(simulation.log_probability_KNC[..., 0]), simulation.label_N, simulation.member_KN
    )
    error = oracles.auc_standard_error(score_N, is_member_N)
    assert abs(figures.auc.value - oracles.auc_of_group_means(g)) < 4 * error
    error = oracles.tpr_standard_error(partial(oracles.tpr_of_group_means, g), 0.01, 20_000, 20_000)
    assert abs(figures.tpr_at_fpr["0.01"].value - oracles.tpr_of_group_means(g, 0.01)) < 4 * error
    tpr, fpr = (float(flagged_N[side].double().mean()) for side in (is_member_N, ~is_member_N))
    error = sqrt((tpr * (1 - tpr) + fpr * (1 - fpr)) / 20_000)
    # The threshold of the shadow models is near the best, where the advantage is flat.
    assert abs(tpr - fpr - advantage_of_group_means(g)) < 4 * error
    assert figures.recall.value == pytest.approx(tpr)


def test_group_means_of_two_have_an_auc_of_two_thirds() -> None:
    assert oracles.auc_of_group_means(2) == pytest.approx(2 / 3, abs=1e-15)
    # The largest distance of the ROC from the diagonal, by search.
    search = max(oracles.tpr_of_group_means(2, alpha) - alpha for alpha in np.linspace(0.001, 0.999, 999))
    assert advantage_of_group_means(2) == pytest.approx(search, abs=1e-6)


@pytest.mark.costly
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_classes", [2, 5, 20])
def test_loss_attack_on_memorised_random_labels(num_classes: int, seed: int) -> None:
    simulation, _ = oracles.simulate_memorising(num_classes, 2000, seed, num_models=4)
    is_member_N = simulation.member_KN[0]
    score_N, flagged_N, figures = run(Loss(), simulation.log_probability_KNC, simulation.label_N, simulation.member_KN)
    # The loss takes two values: the attack is the correctness attack.
    assert torch.equal(flagged_N, simulation.score_KN[0] == 1)
    assert score_N.unique().numel() == 2
    false_rate = 1 / num_classes
    error = sqrt(false_rate * (1 - false_rate) / 1000)
    assert abs(figures.auc.value - oracles.auc_of_memorising(num_classes)) < 4 * error / 2
    advantage = figures.recall.value - float(flagged_N[~is_member_N].double().mean())
    assert figures.recall.value == 1.0
    assert abs(advantage - oracles.gap_of_memorising(num_classes)) < 4 * error
    assert figures.tpr_at_fpr["0.01"].value == 0.0  # as at every rate below 1 / C
    if num_classes < 20:  # where 0.04 is not within the spread of the empirical rate
        assert figures.tpr_at_fpr["0.04"].value == 0.0
    precision = oracles.precision_of_memorising(num_classes, prior=0.5)
    assert abs(figures.precision.value - precision) < 4 * error


def test_attack_networks_on_memorised_random_labels() -> None:
    """All members are predicted right, so nothing beats correctness, which the networks must find."""
    simulation, _ = oracles.simulate_memorising(3, 900, 0, num_models=6)
    settings = simulation.log_probability_KNC, simulation.label_N, simulation.member_KN
    score_N, flagged_N, figures = run(small_networks(), *settings)
    _, by_loss_N, by_loss = run(Loss(), *settings)
    assert torch.equal(flagged_N, by_loss_N)
    error = sqrt(1 / 3 * 2 / 3 / 450)
    assert abs(figures.auc.value - oracles.auc_of_memorising(3)) < 4 * error / 2
    assert figures.recall.value == by_loss.recall.value == 1.0
    assert figures.precision.value == by_loss.precision.value
    assert score_N.unique().numel() <= 9


@pytest.mark.costly
@pytest.mark.parametrize("seed", range(2))
def test_attack_networks_reach_and_do_not_pass_the_threshold_on_group_means(seed: int) -> None:
    """A single squared residual is all that is seen, and its likelihood ratio is monotone: the loss is optimal."""
    simulation = oracles.simulate_group_means(2, 6000, seed, num_models=4)
    log_probability_KNC = two_classes(simulation.log_probability_KNC[..., 0])
    score_N, _, figures = run(small_networks(), log_probability_KNC, simulation.label_N, simulation.member_KN)
    error = oracles.auc_standard_error(score_N, simulation.member_KN[0])
    assert abs(figures.auc.value - oracles.auc_of_group_means(2)) < 4 * error


@pytest.mark.parametrize("seed", range(3))
def test_loss_attack_on_the_gaussian_release(seed: int) -> None:
    release = oracles.simulate_gaussian_release(40_000, seed, num_models=4)
    is_member_N = release.member_KN[0]
    score_N, _, figures = run(Loss(), release.log_probability_KNC, release.label_N, release.member_KN)
    error = oracles.auc_standard_error(score_N, is_member_N)
    assert abs(figures.auc.value - oracles.auc_of_raw_signal()) < 4 * error
    error = oracles.tpr_standard_error(oracles.tpr_of_raw_signal, 0.01, 20_000, 20_000)
    assert abs(figures.tpr_at_fpr["0.01"].value - oracles.tpr_of_raw_signal(0.01)) < 4 * error
    assert figures.auc.value < oracles.auc_of_gaussian_optimum()
