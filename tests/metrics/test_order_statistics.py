"""Conservative intervals at thresholds that are known only by their rate: ranks, slow references, ties."""

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest

from mia_lightning.metrics.intervals.order_statistics import (
    CONSERVATIVE,
    precision_at_recall_interval,
    threshold_ranks,
    tpr_at_fpr_interval,
)
from mia_lightning.metrics.roc import roc


@pytest.mark.parametrize(("rate", "total"), [(0.01, 50), (0.01, 1200), (0.001, 10_000), (0.5, 40), (0.9, 7), (1.0, 9)])
def test_ranks_are_the_closest_that_the_binomial_law_allows(rate: float, total: int) -> None:
    tail = 0.0125
    pmf = binom.pmf(np.arange(total + 1), total, rate)
    first = max(a for a in range(total + 1) if pmf[:a].sum() <= tail)
    last = min(b for b in range(total + 2) if pmf[b:].sum() <= tail)
    found = threshold_ranks(rate, total, tail=tail)
    assert found[:2] == (first, last)
    assert found[2:] == pytest.approx((pmf[:first].sum(), pmf[last:].sum()), abs=1e-12)


def case(n1: int, n0: int, seed: int, digits: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return (random.normal(size=n1) + 1.5).round(digits), random.normal(size=n0).round(digits)


def curve_of(members: np.ndarray, others: np.ndarray):  # type: ignore[no-untyped-def]
    score_N = torch.from_numpy(np.concatenate([members, others]))
    return roc(score_N, torch.arange(len(score_N)) < len(members))


def limit(count: int, total: int, tail: float, side: int) -> float:
    return float(binomtest(count, total).proportion_ci(1 - 2 * tail, method="exact")[side])


@pytest.mark.parametrize("digits", [9, 1])
@pytest.mark.parametrize("n0", [60, 500, 1200])
def test_tpr_at_fpr_is_the_slow_construction(n0: int, digits: int) -> None:
    for seed in range(5):
        members, others = case(80, n0, seed, digits)
        first, last, below, above = threshold_ranks(0.01, n0, tail=0.0125)
        falling = np.sort(others)[::-1]
        low = 0.0 if first == 0 else limit(int((members > falling[first - 1]).sum()), 80, 0.025 - below, 0)
        high = limit(int((members > falling[last - 1]).sum()), 80, 0.025 - above, 1)
        assert tpr_at_fpr_interval(curve_of(members, others), 0.01) == (
            pytest.approx(low),
            pytest.approx(high),
            CONSERVATIVE,
        )


def test_too_few_non_members_bound_tpr_from_above_alone() -> None:
    members, others = case(80, 300, 0, 9)
    assert tpr_at_fpr_interval(curve_of(members, others), 0.01).low == 0.0
    assert tpr_at_fpr_interval(curve_of(members, others[:1]), 0.9)[:2] == (0.0, 1.0)


@pytest.mark.parametrize("digits", [9, 1])
@pytest.mark.parametrize("recall", [0.1, 0.5, 0.9])
def test_precision_at_recall_is_the_slow_construction(recall: float, digits: int) -> None:
    n1, n0 = 90, 200
    for seed in range(5):
        members, others = case(n1, n0, seed, digits)
        first, last, below, above = threshold_ranks(recall, n1, tail=0.0125)
        falling = np.sort(members)[::-1]
        fewest = 0.0 if first == 0 else limit(int((others >= falling[first - 1]).sum()), n0, 0.025 - below, 0)
        most = 1.0 if last > n1 else limit(int((others >= falling[last - 1]).sum()), n0, 0.025 - above, 1)
        between = members[(members <= falling[max(first, 1) - 1]) & (members >= falling[min(last, n1) - 1])]
        largest = recall if len(np.unique(between)) == len(between) else 1.0
        expected = (recall / (recall + most), largest / (largest + fewest), CONSERVATIVE)
        found = precision_at_recall_interval(curve_of(members, others), recall)
        assert found == (pytest.approx(expected[0]), pytest.approx(expected[1]), CONSERVATIVE)


def test_perfect_separation_has_a_width() -> None:
    curve = curve_of(np.arange(100.0, 200.0), np.arange(100.0))
    low, high, _ = tpr_at_fpr_interval(curve, 0.1)
    assert (low > 0.9, high) == (True, 1.0)
    low, high, _ = precision_at_recall_interval(curve, 0.5)
    assert (0.85 < low < 1.0, high) == (True, 1.0)
