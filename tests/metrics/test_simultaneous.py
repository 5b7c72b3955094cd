"""The largest of several figures, with limits that hold for all of them at once."""

import math

import numpy as np
import pytest
from scipy import stats

from mia_lightning.metrics.figures import Figure
from mia_lightning.metrics.intervals.rates import clopper_pearson
from mia_lightning.metrics.intervals.simultaneous import largest, widened


def figure(value: float | None, low: float | None = None, high: float | None = None) -> Figure:
    return Figure(value=value, low=low, high=high, n=100, interval="made")


@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_a_normal_interval_on_the_logit_scale_is_the_one_of_the_smaller_error(count: int) -> None:
    def at(alpha: float) -> tuple[float, float]:
        reach = stats.norm.ppf(1 - alpha / 2) * 0.3
        low, high = 1 / (1 + np.exp(-(math.log(0.7 / 0.3) + np.array([-reach, reach]))))
        return float(low), float(high)

    wide = widened(figure(0.7, *at(0.05)), count)
    assert (wide.low, wide.high) == pytest.approx(at(0.05 / count))


@pytest.mark.parametrize("successes", [0, 40])
@pytest.mark.parametrize("count", [2, 12])
def test_at_the_ends_the_limit_is_the_exact_one(successes: int, count: int) -> None:
    low, high = clopper_pearson(successes, 40)
    exact = clopper_pearson(successes, 40, tail=0.025 / count)
    wide = widened(figure(successes / 40, float(low), float(high)), count)
    assert (wide.low, wide.high) == pytest.approx((float(exact[0]), float(exact[1])))


def test_between_the_ends_it_is_nearly_the_exact_one() -> None:
    low, high = clopper_pearson(13, 40)
    exact = clopper_pearson(13, 40, tail=0.025 / 10)
    wide = widened(figure(13 / 40, float(low), float(high)), 10)
    assert (wide.low, wide.high) == pytest.approx((float(exact[0]), float(exact[1])), abs=0.01)


def test_the_largest_has_the_largest_of_both_limits() -> None:
    many = [figure(0.6, 0.5, 0.7), figure(0.62, 0.4, 0.8), figure(0.55, 0.53, 0.57), figure(None)]
    top = largest(many)
    assert top is not None
    wide = [widened(each, 3) for each in many[:3]]
    assert (top.value, top.low, top.high) == (0.62, wide[2].low, wide[1].high)


def test_one_figure_stays_as_it_is() -> None:
    assert largest([figure(0.6, 0.5, 0.7)]) == figure(0.6, 0.5, 0.7)


def test_nothing_bounds_a_figure_without_an_interval() -> None:
    top = largest([figure(0.6, 0.5, 0.7), figure(0.9)])
    assert top is not None
    assert top.high is None
    assert top.low == widened(figure(0.6, 0.5, 0.7), 2).low
    assert largest([figure(None)]) is None


@pytest.mark.slow
@pytest.mark.statistics
def test_the_largest_true_share_is_covered() -> None:
    """Ten attacks on the same 200 members, of which the strongest varies."""
    random = np.random.default_rng(0)
    shares = np.linspace(0.05, 0.12, 10)
    held = 0
    for _ in range(1000):
        caught = random.binomial(200, shares)
        low, high = clopper_pearson(caught, np.full(10, 200))
        top = largest([figure(float(k / 200), float(a), float(b)) for k, a, b in zip(caught, low, high, strict=True)])
        held += top is not None and (top.low or 0.0) <= shares.max() <= (top.high or 1.0)
    assert held >= 936  # 95 % of 1,000, less two standard errors
