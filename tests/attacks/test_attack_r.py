"""Attack R against a slow loop over models and records, and against the published rule for a threshold."""

import numpy as np
import pytest
import torch
from shadow_cases import ENGINE, evidence, pairs, random_case, two_classes

from mia_lightning.attacks.attack_r import AttackR
from mia_lightning.attacks.interface import DoesNotApplyError, Evidence, FittedReference
from mia_lightning.training.signals import Signals


def loss(signals: Signals, k: int, n: int, label: int) -> float:
    views = [-float(value) for value in signals.log_probability_KANC[k, :, n, label]]
    return sum(views) / len(views)


def slow_score(shadows: Evidence, served: list[int], target: Signals, t: int, n: int) -> float:
    """One minus the place of the loss among the out-models', 0 and 1,000, linear between them."""
    label = int(shadows.label_N[n])
    outside = [loss(shadows.signals, k, n, label) for k in served if not shadows.member_KN[k, n]]
    ordered = sorted([0.0, *outside, 1000.0])
    return 1 - float(np.interp(loss(target, t, n, label), ordered, np.linspace(0, 1, len(ordered))))


@pytest.mark.parametrize("rounded", [False, True])
def test_scores_equal_a_slow_loop(rounded: bool) -> None:
    shadows, targets = random_case(8, 40, views=2)
    if rounded:  # so that many losses are equal
        shadows.signals.log_probability_KANC.round_()
        targets.log_probability_KANC.round_()
    fitted = AttackR().fit(shadows, ENGINE)
    assert isinstance(fitted, FittedReference)
    score_TN = fitted.score(targets, shadows.label_N)
    left_out_KN = fitted.score_left_out(shadows, torch.arange(8))
    assert score_TN.dtype == left_out_KN.dtype == torch.float64
    for n in range(40):
        for t in range(2):
            expected = slow_score(shadows, list(range(8)), targets, t, n)
            assert float(score_TN[t, n]) == pytest.approx(expected, abs=1e-12)
        for k in range(8):
            served = [j for j in range(8) if j // 2 != k // 2]
            expected = slow_score(shadows, served, shadows.signals, k, n)
            assert float(left_out_KN[k, n]) == pytest.approx(expected, abs=1e-12)
    assert len(score_TN[:, :32].unique()) > (5 if rounded else 60)
    assert fitted.remarks == ()


@pytest.mark.costly
@pytest.mark.parametrize("rounded", [False, True])
def test_a_record_is_flagged_at_the_rates_of_the_published_threshold(rounded: bool) -> None:
    """The published code flags a loss below the quantile of the out-models' losses, 0 and 1,000 at the rate alpha."""
    shadows, targets = random_case(12, 30)
    if rounded:
        shadows.signals.log_probability_KANC.round_()
        targets.log_probability_KANC.round_()
    score_TN = AttackR().fit(shadows, ENGINE).score(targets, shadows.label_N)
    for n in range(24):
        label = int(shadows.label_N[n])
        outside = [loss(shadows.signals, k, n, label) for k in range(12) if not shadows.member_KN[k, n]]
        for alpha in np.linspace(0.003, 0.997, 40):
            threshold = np.quantile([*outside, 0.0, 1000.0], alpha, method="linear")
            for t in range(2):
                assert (loss(targets, t, n, label) < threshold) == (float(score_TN[t, n]) > 1 - alpha)


def test_losses_below_those_of_all_out_models_are_told_apart() -> None:
    """So few models do not mean that non-members tie with the best members."""
    phi_KN = torch.randn(8, 200, generator=torch.Generator().manual_seed(0))
    shadows = evidence(two_classes(phi_KN), pairs(8, 200, 0))
    target = two_classes(4 + torch.arange(200.0)[None] / 50)
    (score_N,) = AttackR().fit(shadows, ENGINE).score(target, shadows.label_N)
    assert len(score_N.unique()) == 200
    assert bool((score_N > 0.8).all())  # four out-models each: at most one fifth is left between 0 and the least loss


def test_infinite_losses_are_ties() -> None:
    shadows, targets = random_case(8, 40)
    shadows.signals.log_probability_KANC[:] = -torch.inf
    targets.log_probability_KANC[:] = -torch.inf
    assert bool((AttackR().fit(shadows, ENGINE).score(targets, shadows.label_N) == 0.0).all())


def test_losses_beyond_the_upper_end_keep_their_order() -> None:
    """Unbounded networks give such losses: the end is one more loss among them, as in the published code."""
    values = torch.tensor([-2000.0, -1500.0, -1200.0, -3.0])
    log_p_KN = values[:, None].expand(4, 3).clone()
    shadows = evidence(
        Signals(log_probability_KANC=torch.stack([log_p_KN, torch.zeros(4, 3)], -1).unsqueeze(1)),
        torch.tensor([[True] * 3, [False] * 3, [False] * 3, [False] * 3]),
        block_K=torch.arange(4),
    )
    mine_N = torch.tensor([-1800.0, -1350.0, -1100.0])
    target = Signals(log_probability_KANC=torch.stack([mine_N, torch.zeros(3)], -1)[None, None])
    outside = AttackR().fit(shadows, ENGINE)
    for n in range(3):
        expected = slow_score(shadows, [0, 1, 2, 3], target, 0, n)
        assert float(outside.score(target, shadows.label_N)[0, n]) == pytest.approx(expected, abs=1e-12)


def test_records_and_plans_that_it_cannot_serve_are_refused() -> None:
    everywhere = evidence(two_classes(torch.zeros(2, 4)), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(DoesNotApplyError, match=r"attack=attack_r .*4 of the 4"):
        AttackR().fit(everywhere, ENGINE)
    with pytest.raises(DoesNotApplyError, match="too few are left"):
        AttackR().fit(evidence(two_classes(torch.zeros(2, 4)), pairs(2, 4, 0)), ENGINE)
