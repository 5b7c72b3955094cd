"""Intervals of rates in closed form: against scipy, published examples, direct formulas and by exact coverage."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from mia_lightning.metrics.intervals import rates

COUNTS = [(0, 7), (1, 7), (7, 7), (3, 40), (40, 40), (0, 1), (511, 1200)]


@pytest.mark.parametrize(("count", "total"), COUNTS)
@pytest.mark.parametrize(("method", "ours"), [("exact", rates.clopper_pearson), ("wilson", rates.wilson)])
def test_limits_of_a_share_are_scipys(count: int, total: int, method: str, ours) -> None:  # type: ignore[no-untyped-def]
    expected = binomtest(count, total).proportion_ci(0.95, method=method)
    assert ours(count, total).numbers() == pytest.approx((expected.low, expected.high), abs=1e-12)
    narrower = binomtest(count, total).proportion_ci(0.9, method=method)
    assert ours(count, total, tail=0.05).numbers() == pytest.approx((narrower.low, narrower.high), abs=1e-12)


def test_arrays_are_taken_element_by_element() -> None:
    count, total = np.array([each[0] for each in COUNTS]), np.array([each[1] for each in COUNTS])
    found = rates.precision(count, total, count[::-1], total[::-1], odds=3.0)
    for place in range(len(COUNTS)):
        one = rates.precision(count[place], total[place], count[::-1][place], total[::-1][place], odds=3.0)
        assert (found.low[place], found.high[place]) == one.numbers()


@pytest.mark.parametrize(
    ("counts", "low", "high"), [((56, 70, 48, 80), 0.0524, 0.3339), ((9, 10, 3, 10), 0.1705, 0.8090)]
)
def test_differences_are_those_of_newcombe(counts: tuple[int, ...], low: float, high: float) -> None:
    """Newcombe (1998), table II, method 10, contrasts (a) and (b)."""
    found = rates.difference(*counts, weight_1=1, weight_0=1)
    assert found.numbers() == pytest.approx((low, high), abs=5e-5)


def test_a_ratio_is_the_formula_as_it_was_published() -> None:
    count_0, total_0, count_1, total_1 = 30, 200, 120, 210
    p0, (l0, u0) = count_0 / total_0, rates.clopper_pearson(count_0, total_0).numbers()
    p1, (l1, u1) = count_1 / total_1, rates.clopper_pearson(count_1, total_1).numbers()
    low = (p0 * p1 - np.sqrt((p0 * p1) ** 2 - l0 * u1 * (2 * p0 - l0) * (2 * p1 - u1))) / (u1 * (2 * p1 - u1))
    high = (p0 * p1 + np.sqrt((p0 * p1) ** 2 - u0 * l1 * (2 * p0 - u0) * (2 * p1 - l1))) / (l1 * (2 * p1 - l1))
    assert rates.ratio(count_0, total_0, count_1, total_1).numbers() == pytest.approx((low, high))
    expected = (1 / (1 + 9 * high), 1 / (1 + 9 * low))
    assert rates.precision(count_1, total_1, count_0, total_0, odds=9).numbers() == pytest.approx(expected)


def test_ratios_of_empty_counts_are_bounded_on_one_side() -> None:
    assert rates.ratio(0, 50, 20, 40).numbers()[0] == 0.0
    assert 0 < rates.ratio(0, 50, 20, 40).numbers()[1] < 0.3
    assert rates.ratio(5, 50, 0, 40).numbers()[1] == np.inf
    assert rates.precision(0, 40, 5, 50, odds=1).numbers()[0] == 0.0
    assert rates.precision(20, 40, 0, 50, odds=1).numbers()[1] == 1.0


def _coverage(limits: rates.Limits, truth: float, weight: np.ndarray) -> float:
    return float((weight * ((limits.low <= truth) & (truth <= limits.high))).sum())


def _outcomes(tpr: float, n1: int, fpr: float, n0: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of counts, with its probability: coverage without simulation error."""
    found, alarms = np.arange(n1 + 1)[:, None], np.arange(n0 + 1)[None, :]
    return found, alarms, binom.pmf(found, n1, tpr) * binom.pmf(alarms, n0, fpr)


CELLS = [
    (tpr, n1, fpr, n0)
    for n1, n0 in ((100, 100), (200, 600), (1200, 1200))
    for tpr, fpr in ((0.5, 0.5), (0.9, 0.4), (0.7, 0.3), (0.3, 0.05), (0.95, 0.9))
]


@pytest.mark.costly
@pytest.mark.parametrize(("tpr", "n1", "fpr", "n0"), CELLS)
def test_balanced_accuracy_and_advantage_cover_two_sided(tpr: float, n1: int, fpr: float, n0: int) -> None:
    found, alarms, weight = _outcomes(tpr, n1, fpr, n0)
    limits = rates.difference(found, n1, alarms, n0, weight_1=1, weight_0=1)
    assert 0.93 <= _coverage(limits, tpr - fpr, weight) <= 0.97
    share = n1 / (n1 + n0)
    limits = rates.difference(found, n1, alarms, n0, weight_1=share, weight_0=1 - share)  # accuracy
    assert 0.93 <= _coverage(limits, share * tpr - (1 - share) * fpr, weight) <= 0.97


@pytest.mark.costly
@pytest.mark.parametrize(("tpr", "n1", "fpr", "n0"), [*CELLS, (0.05, 300, 0.003, 300), (0.01, 1200, 0.001, 1200)])
@pytest.mark.parametrize("odds", [1.0, 99.0])
def test_precisions_cover_conservatively(tpr: float, n1: int, fpr: float, n0: int, odds: float) -> None:
    """Given that something is flagged."""
    found, alarms, weight = _outcomes(tpr, n1, fpr, n0)
    weight = np.where(found + alarms > 0, weight, 0.0)
    with np.errstate(divide="ignore"):
        limits = rates.precision(found, n1, alarms, n0, odds=odds)
    assert _coverage(limits, tpr / (tpr + odds * fpr), weight) / weight.sum() >= 0.94


@pytest.mark.parametrize("n", [10, 100, 1200])
def test_clopper_and_pearson_cover_conservatively(n: int) -> None:
    count = np.arange(n + 1)
    limits = rates.clopper_pearson(count, n)
    for share in np.linspace(0.001, 0.999, 97):
        assert _coverage(limits, share, binom.pmf(count, n, share)) >= 0.95
