"""Attack R against a slow loop over models and records."""

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
    """Ye et al. 2022: the share of out-models whose loss on the record is above the target's, ties counted half."""
    label = int(shadows.label_N[n])
    mine = loss(target, t, n, label)
    outside = [loss(shadows.signals, k, n, label) for k in served if not shadows.member_KN[k, n]]
    return sum((other > mine) + (other == mine) / 2 for other in outside) / len(outside)


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
    assert len(score_TN.unique()) > (5 if rounded else 3)
    (remark,) = fitted.remarks
    assert "at most 8" in remark  # of a record of the population; 4 of others


def test_infinite_losses_are_ties() -> None:
    shadows, targets = random_case(8, 40)
    shadows.signals.log_probability_KANC[:] = -torch.inf
    targets.log_probability_KANC[:] = -torch.inf
    assert bool((AttackR().fit(shadows, ENGINE).score(targets, shadows.label_N) == 0.5).all())


def test_records_and_plans_that_it_cannot_serve_are_refused() -> None:
    everywhere = evidence(two_classes(torch.zeros(2, 4)), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(DoesNotApplyError, match=r"attack=attack_r .*4 of the 4"):
        AttackR().fit(everywhere, ENGINE)
    with pytest.raises(DoesNotApplyError, match="too few are left"):
        AttackR().fit(evidence(two_classes(torch.zeros(2, 4)), pairs(2, 4, 0)), ENGINE)
