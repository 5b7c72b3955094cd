"""Intervals at thresholds learnt over targets that share records: against crossed bootstraps that are carried out."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import logit
from simulated_targets import leave_one_out_targets
from torch import Tensor

from mia_lightning.metrics.figures import Figure, Interval
from mia_lightning.metrics.intervals.bootstrap import FEWEST, members_for
from mia_lightning.metrics.intervals.crossed import (
    CROSSED,
    FEWEST_TARGETS,
    average_precision_contributions,
    average_precision_interval,
)
from mia_lightning.metrics.intervals.crossed_thresholds import (
    ALL_FLAGGED,
    BOUNDED,
    FEW_ALLOWED,
    FEW_FALSE_POSITIVES,
    FEW_RANKS,
    FEWEST_ALLOWED,
    LACKING,
    NO_ALARM,
    NOTHING_FOUND,
    RELEARNT,
    TIED,
    mean_precision_interval,
    mean_tpr_interval,
    pooled_tpr_interval,
)
from mia_lightning.metrics.over_targets import target_figures
from mia_lightning.metrics.ranking_over_targets import _around
from mia_lightning.metrics.roc import roc

Arrays = tuple[np.ndarray, np.ndarray]


def targets(num_targets: int, num_records: int, seed: int = 0, digits: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of targets on shared records, not all of them evidence about each."""
    random = np.random.default_rng(seed)
    score, member = leave_one_out_targets(num_targets, num_records, 0.2, random)
    scored = random.random(score.shape) < 0.9
    return torch.from_numpy(score.round(digits)), torch.from_numpy(member), torch.from_numpy(scored)


def _weighted_precision(score: np.ndarray, member: np.ndarray, weight: np.ndarray) -> float:
    """Average precision of one target, record by record."""
    total = 0.0
    for n in np.flatnonzero(member):
        above = score >= score[n]
        total += weight[n] * weight[above & member].sum() / weight[above].sum()
    return float(total / weight[member].sum())


@pytest.mark.parametrize("digits", [9, 0])
def test_contributions_to_average_precision_are_its_derivatives(digits: int) -> None:
    score_TN, member_TN, scored_TN = targets(4, 40, digits=digits)
    value_T, contribution_TN = average_precision_contributions(score_TN, member_TN, scored_TN)
    assert bool((contribution_TN[~scored_TN] == 0).all())
    for t in range(4):
        scored = scored_TN[t].numpy()
        score, member = score_TN[t].numpy()[scored], member_TN[t].numpy()[scored]
        slopes = np.zeros(len(score))
        for n in range(len(score)):
            ends = []
            for step in (1e-5, -1e-5):
                weight = np.ones(len(score))
                weight[n] += step
                ends.append(_weighted_precision(score, member, weight))
            slopes[n] = (ends[0] - ends[1]) / 2e-5
        for kind in (member, ~member):
            slopes[kind] -= slopes[kind].mean()
        np.testing.assert_allclose(contribution_TN[t][scored_TN[t]], slopes, atol=1e-8)
        n1 = int(member.sum())
        apart = []
        for n in np.flatnonzero(member):
            others = (score >= score[n]) & (np.arange(len(score)) != n)
            found, alarms = (others & member).sum(), (others & ~member).sum() * (n1 - 1) / n1
            apart.append(found / (found + alarms) if others.any() else 1.0)
        assert float(value_T[t]) == pytest.approx(np.mean(apart))


def test_average_precision_is_free_of_bias_at_chance() -> None:
    """Of 2,000 targets on 20 members and 20 non-members each, in random order."""
    score_TN = torch.from_numpy(np.random.default_rng(0).random((2000, 40)))
    member_TN = (torch.arange(40) < 20).expand(2000, 40)
    scored_TN = torch.ones_like(member_TN)
    value_T, _ = average_precision_contributions(score_TN, member_TN, scored_TN)
    plain = np.mean([roc(score_TN[t], member_TN[t]).average_precision for t in range(200)])
    assert plain > 0.53
    # What is left is the precision of members that stand first, 1 for want of another.
    assert float(value_T.mean()) == pytest.approx(0.5 + 0.25 / 20, abs=0.006)


def _flagged_at(score: np.ndarray, kind: np.ndarray, weight: np.ndarray, rate: float, strict: bool) -> np.ndarray:
    """Records above (or at) the highest score at which a kind reaches a weighted rate."""
    order = np.argsort(-score, kind="stable")
    share = np.cumsum((weight * kind)[order]) / (weight * kind).sum()
    threshold = score[order][np.searchsorted(share, rate + 1e-9 if strict else rate - 1e-9)]
    return score > threshold if strict else score >= threshold


def _mean_tpr(score: np.ndarray, member: np.ndarray, of_record: np.ndarray, of_target: np.ndarray) -> float:
    values = []
    for t in range(len(score)):
        flagged = _flagged_at(score[t], ~member[t], of_record, 0.05, strict=True)
        values.append((of_record * member[t])[flagged].sum() / (of_record * member[t]).sum())
    return float(of_target @ values / of_target.sum())


def _pooled_tpr(score: np.ndarray, member: np.ndarray, of_record: np.ndarray, of_target: np.ndarray) -> float:
    weight = np.outer(of_target, of_record).ravel()
    flagged = _flagged_at(score.ravel(), ~member.ravel(), weight, 0.05, strict=True)
    return float((weight * member.ravel())[flagged].sum() / (weight * member.ravel()).sum())


def _precision(score: np.ndarray, member: np.ndarray, of_record: np.ndarray, of_target: np.ndarray) -> float:
    values = []
    for t in range(len(score)):
        flagged = _flagged_at(score[t], member[t], of_record, 0.9, strict=False)
        tpr, fpr = ((of_record * kind)[flagged].sum() / (of_record * kind).sum() for kind in (member[t], ~member[t]))
        values.append(tpr / (tpr + fpr))
    return float(of_target @ values / of_target.sum())


def _average_precision(score: np.ndarray, member: np.ndarray, of_record: np.ndarray, of_target: np.ndarray) -> float:
    values = []
    for t in range(len(score)):
        order = np.argsort(-score[t])
        found, all_ = np.cumsum((of_record * member[t])[order]), np.cumsum(of_record[order])
        gained = (of_record * member[t])[order]
        values.append((gained * found / np.maximum(all_, 1)).sum() / gained.sum())
    return float(of_target @ values / of_target.sum())


@pytest.mark.costly
@pytest.mark.parametrize(
    ("figure", "interval"),
    [
        (_mean_tpr, lambda *observed: mean_tpr_interval(*observed, 0.05)),
        (_pooled_tpr, lambda *observed: pooled_tpr_interval(*observed, 0.05)),
        (_precision, lambda *observed: mean_precision_interval(*observed, 0.9)),
        (_average_precision, average_precision_interval),
    ],
)
def test_widths_are_those_of_a_crossed_bootstrap(
    figure: Callable[..., float], interval: Callable[..., Interval]
) -> None:
    """400 replicates in which targets and records are redrawn and every threshold is learnt anew."""
    T, N = 16, 400
    random = np.random.default_rng(1)
    score, member = leave_one_out_targets(T, N, 0.2, random)
    observed = (torch.from_numpy(score), torch.from_numpy(member), torch.ones(T, N, dtype=torch.bool))
    drawn = [
        figure(
            score,
            member,
            np.bincount(random.integers(N, size=N), minlength=N),
            np.bincount(random.integers(T, size=T), minlength=T),
        )
        for _ in range(400)
    ]
    low, high, method = interval(*observed)
    assert low is not None
    assert high is not None
    assert method in (CROSSED, RELEARNT)
    reach = float(logit(high) - logit(low)) / 2
    error = float(np.std(logit(drawn)))
    assert 1.75 < reach / error < 2.5, reach / error  # Student's t, the trainings' part divided by 15 instead of 16
    value = figure(score, member, np.ones(N), np.ones(T))
    assert low < value < high


def test_the_bias_of_few_false_positives_is_taken_off() -> None:
    """ROC √FPR, four of 400 non-members allowed: the mean TPR is above 0.1, the interval around it."""
    random = np.random.default_rng(0)
    T, N = 1500, 800
    member = np.broadcast_to(np.arange(N) < 400, (T, N))
    uniform = random.random((T, N))
    score_TN, member_TN = torch.from_numpy(1 - np.where(member, uniform**2, uniform)), torch.tensor(member)
    scored_TN = torch.ones_like(member_TN)
    figures = np.mean([roc(score_TN[t], member_TN[t]).tpr_at_fpr(0.01).tpr for t in range(300)])
    assert figures > 0.106
    low, high, _ = mean_tpr_interval(score_TN, member_TN, scored_TN, 0.01)
    assert low is not None
    assert high is not None
    assert low < 0.1 < high
    assert (low + high) / 2 == pytest.approx(0.1, abs=0.002)


def test_what_has_no_interval_says_why() -> None:
    score_TN, member_TN, scored_TN = targets(FEWEST_TARGETS, 400)
    observed = (score_TN, member_TN, scored_TN)

    def reason(interval: Interval) -> str:
        assert interval[:2] == (None, None)
        return interval.method

    assert reason(mean_tpr_interval(*observed, 0.01)) == FEW_ALLOWED.format(FEWEST_ALLOWED)
    allowed = int(0.001 * int((~member_TN & scored_TN).sum()))
    assert allowed < FEWEST
    assert reason(pooled_tpr_interval(*observed, 0.001)) == FEW_FALSE_POSITIVES.format(allowed, FEWEST)
    assert reason(mean_tpr_interval(*observed, 1.0)) == reason(pooled_tpr_interval(*observed, 1.0)) == ALL_FLAGGED
    lacking_TN = scored_TN & (member_TN | (torch.arange(FEWEST_TARGETS) > 0)[:, None])
    assert reason(pooled_tpr_interval(score_TN, member_TN, lacking_TN, 0.05)) == LACKING
    small = tuple(each_TN[:, :40] for each_TN in observed)
    assert reason(mean_precision_interval(*small, 0.1)) == FEW_RANKS.format(FEWEST)
    apart_TN = score_TN + 1e6 * member_TN
    assert reason(mean_precision_interval(apart_TN, member_TN, scored_TN, 0.5)) == NO_ALARM
    last = (score_TN - 1e6 * member_TN, member_TN, scored_TN)
    assert reason(mean_tpr_interval(*last, 0.05)) == reason(pooled_tpr_interval(*last, 0.05)) == NOTHING_FOUND
    coarse = ((score_TN > 0).double(), member_TN, scored_TN)
    tied_TN = score_TN.clamp(max=float(score_TN[~member_TN].quantile(0.9)))
    tied_TN += (score_TN > 20) & member_TN
    tied = (tied_TN, member_TN, scored_TN)
    assert reason(mean_tpr_interval(*tied, 0.05)) == reason(pooled_tpr_interval(*tied, 0.05)) == TIED
    assert reason(mean_tpr_interval(*coarse, 0.05)) == NOTHING_FOUND
    assert reason(mean_precision_interval(*coarse, 0.5)) == TIED


def test_one_false_positive_for_every_two_targets() -> None:
    """Many targets on few records: ten false positives in all, from the same few records."""
    observed = targets(64, 80)
    interval = pooled_tpr_interval(*observed, 0.01)
    allowed = int(0.01 * int((~observed[1] & observed[2]).sum()))
    assert FEWEST <= allowed < 32
    assert interval == Interval(None, None, FEW_FALSE_POSITIVES.format(allowed, FEWEST))


def test_few_false_positives_leave_a_lower_limit() -> None:
    score_TN, member_TN, scored_TN = targets(FEWEST_TARGETS, 400)
    rank_T = torch.tensor([members_for(0.5, int(n1)) for n1 in (member_TN & scored_TN).sum(1)])
    alarms = 0
    shift = 0.0
    while not 1 <= alarms < 10:  # members moved away from non-members
        shift += 0.5
        moved_TN = score_TN + shift * member_TN
        descending_TN = moved_TN.masked_fill(~(member_TN & scored_TN), -torch.inf).sort(1, descending=True).values
        threshold_T = descending_TN.gather(1, rank_T[:, None] - 1)
        alarms = int(((moved_TN >= threshold_T) & ~member_TN & scored_TN).sum())
    low, high, method = mean_precision_interval(moved_TN, member_TN, scored_TN, 0.5)
    assert low is not None
    assert (high, method) == (1.0, BOUNDED)
    assert 0.0 <= low < 1.0


def test_figures_over_targets_carry_these_intervals() -> None:
    observed = score_TN, member_TN, scored_TN = targets(FEWEST_TARGETS, 1000)
    figures = target_figures(score_TN, score_TN > 0.5, member_TN, scored_TN, max_fprs=(0.05, 0.001))
    expected = {
        "average_precision": (figures.average_precision, average_precision_interval(*observed)),
        "tpr": (figures.tpr_at_fpr["0.05"], mean_tpr_interval(*observed, 0.05)),
        "pooled": (figures.tpr_at_fpr_pooled["0.05"], pooled_tpr_interval(*observed, 0.05)),
        "precision": (figures.precision_at_recall["0.9"], mean_precision_interval(*observed, 0.9)),
    }
    for name, (figure, interval) in expected.items():
        assert (figure.low, figure.high, figure.interval) == interval, name
        assert figure.low < figure.value < figure.high, name
    undefined = figures.tpr_at_fpr["0.001"]
    assert (undefined.value, undefined.low, undefined.interval) == (None, None, None)
    fewer = target_figures(*(each_TN[:-1] for each_TN in (score_TN, score_TN > 0.5, member_TN, scored_TN)))
    assert fewer.average_precision.interval == fewer.tpr_at_fpr_pooled["0.01"].interval
    assert f"fewer than {FEWEST_TARGETS} targets" in str(fewer.average_precision.interval)


def test_limits_hold_a_figure_that_is_biased_beyond_them() -> None:
    figure = Figure(value=0.3, n=10)
    assert _around(figure, Interval(0.1, 0.2, RELEARNT)).high == 0.3
    assert _around(figure, Interval(0.4, 0.5, RELEARNT)).low == 0.3
    assert _around(Figure(value=None, n=0, reason="none"), Interval(0.4, 0.5, RELEARNT)).low is None
