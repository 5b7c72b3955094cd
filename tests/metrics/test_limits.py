"""The intervals of the gate: exact coverage by enumeration, slow references, simulations with stated error rates."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, norm
from sklearn.metrics import roc_auc_score

from mia_lightning.metrics.intervals.limits import (
    advantage_limits,
    area_under_curve,
    auc_limits,
    caught,
    share_limits,
    tpr_at_fpr_limits,
)

Numbers = NDArray[np.float64]
RATES = (0.001, 0.02, 0.1, 0.3, 0.5, 0.75, 0.95, 0.999)


@pytest.mark.costly
@pytest.mark.parametrize("n", [1, 7, 40])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_limits_of_a_share_are_the_exact_interval(n: int, confidence: float) -> None:
    for count in range(n + 1):
        interval = binomtest(count, n).proportion_ci(confidence, method="exact")
        assert share_limits(count, n, confidence) == pytest.approx((interval.low, interval.high), abs=1e-9)


@pytest.mark.parametrize(("n1", "n0"), [(6, 6), (25, 25), (25, 10), (8, 40)])
@pytest.mark.parametrize("confidence", [0.95, 0.995])
def test_the_advantage_is_outside_its_limits_no_more_often_than_stated(n1: int, n0: int, confidence: float) -> None:
    """Exactly: summed over all pairs of counts, at every pair of rates."""
    tail = (1 - confidence) / 2
    limits = np.array(
        [[advantage_limits(a / n1 - b / n0, n1, n0, confidence) for b in range(n0 + 1)] for a in range(n1 + 1)]
    )
    for tpr in RATES:
        for fpr in RATES:
            chance = binom.pmf(np.arange(n1 + 1), n1, tpr)[:, None] * binom.pmf(np.arange(n0 + 1), n0, fpr)
            assert chance[limits[..., 1] < tpr - fpr - 1e-9].sum() <= tail + 1e-12
            assert chance[limits[..., 0] > tpr - fpr + 1e-9].sum() <= tail + 1e-12


def test_at_rates_of_one_half_the_limits_of_the_advantage_are_as_narrow_as_the_normal_ones() -> None:
    low, high = advantage_limits(0.0, 1000, 1000, 0.95)
    assert high - low == pytest.approx(2 * norm.isf(0.025) * np.sqrt(0.5 / 1000), rel=0.03)
    assert (low, high) == (pytest.approx(-high), high)


def test_the_area_is_that_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    score, is_member = rng.integers(0, 12, 300).astype(float), rng.random(300) < 0.4
    assert area_under_curve(score, is_member) == pytest.approx(roc_auc_score(is_member, score), abs=1e-12)


def test_what_is_caught_is_counted_record_by_record() -> None:
    rng = np.random.default_rng(1)
    score, is_member = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.5
    members, others = score[is_member], score[~is_member]
    for allowed, share in enumerate(caught(score, is_member)):
        best = max(
            (np.mean(members >= t) for t in [*score, np.inf] if (others >= t).sum() <= allowed),
        )
        assert share == pytest.approx(best)
    assert len(caught(score, is_member)) == len(others) + 1


def slow_tpr_limits(score: Numbers, is_member: NDArray[np.bool_], fpr: float, confidence: float) -> tuple[float, float]:
    """The joined interval from its definition: thresholds tried one by one, binomial tails summed term by term."""
    tail = (1 - confidence) / 4
    members, others = score[is_member], score[~is_member]
    n1, n0 = len(members), len(others)

    def at_most(x: int) -> float:
        return sum(binom.pmf(i, n0, fpr) for i in range(x + 1))

    # So few non-members above a threshold that its FPR is at most `fpr`, but for the tail.
    few = max((x for x in range(n0 + 1) if x == 0 or at_most(x - 1) < tail), default=0)
    most = next(x for x in range(n0 + 1) if 1 - at_most(x) <= tail)
    safe = [t for t in [*score, np.inf] if (others >= t).sum() <= few - 1]
    reached = [t for t in [*score, np.inf] if (others >= t).sum() <= most]
    low = 0.0
    if few > 0:
        count = max((members >= t).sum() for t in safe)
        low = binomtest(int(count), n1).proportion_ci(1 - 2 * tail, method="exact").low
    count = max((members >= t).sum() for t in reached)
    return low, binomtest(int(count), n1).proportion_ci(1 - 2 * tail, method="exact").high


@pytest.mark.costly
@pytest.mark.parametrize("fpr", [0.01, 0.1, 0.4])
@pytest.mark.parametrize("steps", [4, 1000])  # many ties, hardly any
@pytest.mark.parametrize("confidence", [0.95, 0.995])
def test_the_limits_of_the_tpr_are_those_of_the_definition(fpr: float, steps: int, confidence: float) -> None:
    rng = np.random.default_rng(2)
    is_member = np.arange(130) < 70
    score = np.floor((rng.normal(size=130) + is_member) * steps)
    observed = tpr_at_fpr_limits(caught(score, is_member), 70, 60, fpr, confidence)
    assert observed == pytest.approx(slow_tpr_limits(score, is_member, fpr, confidence), abs=1e-9)


Draw = Callable[[np.random.Generator, int], Numbers]
POPULATIONS: dict[str, tuple[Draw, Draw, Callable[[float], float], float]] = {
    # members, non-members, the true TPR at an FPR, the true AUC
    "normal": (
        lambda rng, n: rng.normal(1, 1, n),
        lambda rng, n: rng.normal(0, 1, n),
        lambda fpr: float(norm.sf(norm.isf(fpr) - 1)),
        float(norm.cdf(1 / np.sqrt(2))),
    ),
    "no leak": (
        lambda rng, n: rng.normal(0, 1, n),
        lambda rng, n: rng.normal(0, 1, n),
        lambda fpr: fpr,
        0.5,
    ),
    "members on both sides of all others": (
        lambda rng, n: np.where(rng.random(n) < 0.6, 2.0, -2.0) + rng.random(n),
        lambda rng, n: rng.random(n),
        lambda fpr: 0.6,
        0.6,
    ),
    "two values": (
        lambda rng, n: (rng.random(n) < 0.3).astype(float),
        lambda rng, n: (rng.random(n) < 0.05).astype(float),
        lambda fpr: 0.3 if fpr >= 0.05 else 0.0,
        0.5 + 0.25 / 2,
    ),
}


def outside(population: str, n: int, runs: int, limits: Callable[[Numbers, NDArray[np.bool_]], tuple[float, float]],
            truth: float) -> tuple[int, int]:  # fmt: skip
    draw_in, draw_out, _, _ = POPULATIONS[population]
    rng = np.random.default_rng([n, runs, *population.encode()])
    is_member = np.arange(2 * n) < n
    found = np.array([limits(np.concatenate([draw_in(rng, n), draw_out(rng, n)]), is_member) for _ in range(runs)])
    return int((found[:, 1] < truth - 1e-9).sum()), int((found[:, 0] > truth + 1e-9).sum())


@pytest.mark.costly
@pytest.mark.statistics
@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize(
    ("n", "fpr"), [(60, 0.01), *(pytest.param(*each, marks=pytest.mark.slow) for each in [(100, 0.1), (400, 0.05)])]
)
def test_the_tpr_is_outside_its_limits_no_more_often_than_stated(population: str, n: int, fpr: float) -> None:
    """At 95 %, 2.5 % on either side; the bound is the 99.99 % binomial limit of it."""
    runs, most = 600, int(binom.isf(1e-4, 600, 0.025))
    truth = POPULATIONS[population][2](fpr)
    below, above = outside(population, n, runs, lambda s, m: tpr_at_fpr_limits(caught(s, m), n, n, fpr, 0.95), truth)
    assert below <= most
    assert above <= most


@pytest.mark.statistics
@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("n", [12, pytest.param(80, marks=pytest.mark.slow)])
def test_the_auc_is_outside_its_limits_no_more_often_than_stated(population: str, n: int) -> None:
    runs, most = 600, int(binom.isf(1e-4, 600, 0.025))
    truth = POPULATIONS[population][3]
    below, above = outside(population, n, runs, lambda s, m: auc_limits(area_under_curve(s, m), n, n, 0.95), truth)
    assert below <= most
    assert above <= most


def test_perfect_separation_has_a_width() -> None:
    low, high = auc_limits(1.0, 20, 30, 0.95)
    assert high == 1.0
    assert low == pytest.approx(0.025 ** (1 / 20))
