"""The calibrated loss against a slow loop over models and records."""

from statistics import fmean

import pytest
import torch
from shadow_cases import ENGINE, evidence, from_a_pool, pairs, random_case, two_classes

from mia_lightning.attacks.calibrated_loss import CalibratedLoss
from mia_lightning.attacks.interface import DoesNotApplyError, Evidence, FittedReference
from mia_lightning.attacks.operating_point import learnt_threshold
from mia_lightning.training.signals import Signals


def minus_loss(signals: Signals, k: int, n: int, label: int) -> float:
    """The mean over views."""
    return fmean(float(value) for value in signals.log_probability_KANC[k, :, n, label])


def slow_score(shadows: Evidence, served: list[int], target: Signals, t: int, n: int) -> float:
    """Watson et al. 2022: the target's score less the mean score of models that were trained without the record."""
    label = int(shadows.label_N[n])
    outside = [minus_loss(shadows.signals, k, n, label) for k in served if not shadows.member_KN[k, n]]
    return minus_loss(target, t, n, label) - fmean(outside)


def test_scores_and_threshold_equal_a_slow_loop() -> None:
    shadows, targets = random_case(8, 30, views=2)
    fitted = CalibratedLoss().fit(shadows, ENGINE)
    assert isinstance(fitted, FittedReference)
    score_TN = fitted.score(targets, shadows.label_N)
    assert score_TN.dtype == torch.float64
    for t in range(2):
        for n in range(30):
            expected = slow_score(shadows, list(range(8)), targets, t, n)
            assert float(score_TN[t, n]) == pytest.approx(expected, abs=1e-9)
    seen: dict[bool, list[float]] = {True: [], False: []}
    for k in range(8):
        served = [j for j in range(8) if j // 2 != k // 2]
        for n in range(24):  # the other six are the population
            seen[bool(shadows.member_KN[k, n])].append(slow_score(shadows, served, shadows.signals, k, n))
    observed = torch.tensor([*seen[True], *seen[False]], dtype=torch.float64)
    is_member = torch.arange(len(observed)) < len(seen[True])
    assert fitted.threshold == pytest.approx(learnt_threshold(observed, is_member), abs=1e-9)
    assert fitted.remarks == ()


def test_the_first_records_can_be_scored_alone() -> None:
    """Synthetic shadow records follow those that a target is observed on."""
    shadows, targets = random_case(8, 30)
    fitted = CalibratedLoss().fit(shadows, ENGINE)
    first = Signals(log_probability_KANC=targets.log_probability_KANC[:, :, :20])
    assert torch.equal(fitted.score(first, shadows.label_N[:20]), fitted.score(targets, shadows.label_N)[:, :20])


def test_shadow_models_of_a_pool_of_their_own_serve_it_too() -> None:
    """Under membership=disjoint all models are out-models of the records that are evidence about the target."""
    shadows, targets = random_case(6, 30)
    disjoint = from_a_pool(shadows, 15)
    score_TN = CalibratedLoss().fit(disjoint, ENGINE).score(targets, shadows.label_N)
    for n in range(15):
        expected = slow_score(disjoint, list(range(6)), targets, 1, n)
        assert float(score_TN[1, n]) == pytest.approx(expected, abs=1e-9)


def test_records_and_plans_that_it_cannot_serve_are_refused() -> None:
    signals = two_classes(torch.zeros(2, 4))
    everywhere = evidence(signals, torch.ones(2, 4, dtype=torch.bool), plan_name="given")
    with pytest.raises(DoesNotApplyError, match="at least one shadow model that did not train on it, and 4 of the 4"):
        CalibratedLoss().fit(everywhere, ENGINE)
    single = evidence(two_classes(torch.zeros(1, 4)), torch.tensor([[True, True, False, False]]))
    single.target_scored_N[:2] = False
    with pytest.raises(DoesNotApplyError, match="too few are left"):
        CalibratedLoss().fit(single, ENGINE)
    one_pair = evidence(signals, pairs(2, 4, 0))
    with pytest.raises(DoesNotApplyError, match="too few are left"):
        CalibratedLoss().fit(one_pair, ENGINE)


def test_a_record_that_every_model_trained_on_is_never_scored_above_others() -> None:
    shadows, targets = random_case(6, 30)
    shadows.member_KN[:, 3] = True
    shadows.target_scored_N[3] = False
    fitted = CalibratedLoss().fit(shadows, ENGINE)
    score_TN = fitted.score(targets, shadows.label_N)
    assert bool((score_TN[:, 3] == -torch.inf).all())
    assert bool((score_TN == -torch.inf).sum() == 2)
    left_out_KN = fitted.score_left_out(shadows, torch.arange(6))
    assert bool((left_out_KN[:, 3] == -torch.inf).all())
    assert fitted.threshold > -torch.inf
