"""Intervals in closed form of shares, and of what is made of two independent shares.

Thresholds are fixed beforehand: learnt on shadow models, never on the records that are counted. All functions take
numbers or arrays that broadcast, and their limits have a 2.5 % tail on each side unless another is given.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri

Numbers = NDArray[np.float64]
TAIL = 0.025


class Limits(NamedTuple):
    """The ends of an interval, arrays of one shape."""

    low: Numbers
    high: Numbers

    def numbers(self) -> tuple[float, float]:
        """The ends of a single interval."""
        return float(self.low), float(self.high)


def clopper_pearson(count: ArrayLike, total: ArrayLike, *, tail: float = TAIL) -> Limits:
    """Of a binomial share, exact: neither end is passed with a probability above `tail`.

    Args:
        count: successes, in [0, total].
        total: trials, at least 1.

    Source: Clopper and Pearson (1934), by quantiles of the beta distribution.
    """
    count, total = np.asarray(count, float), np.asarray(total, float)
    missed = total - count
    low = np.where(count > 0, betaincinv(np.maximum(count, 1), missed + 1, tail), 0.0)
    high = np.where(missed > 0, betaincinv(count + 1, np.maximum(missed, 1), 1 - tail), 1.0)
    return Limits(low, high)


def wilson(count: ArrayLike, total: ArrayLike, *, tail: float = TAIL) -> Limits:
    """Of a binomial share, by the score test: near the nominal level on average, never of zero width.

    Source: Wilson (1927).
    """
    count, total = np.asarray(count, float), np.asarray(total, float)
    z = float(-ndtri(tail))
    centre = (count + z**2 / 2) / (total + z**2)
    reach = z / (total + z**2) * np.sqrt(count * (total - count) / total + z**2 / 4)
    return Limits(np.where(count > 0, centre - reach, 0.0), np.where(count < total, centre + reach, 1.0))


def difference(
    count_1: ArrayLike, total_1: ArrayLike, count_0: ArrayLike, total_0: ArrayLike, *, weight_1: float, weight_0: float
) -> Limits:
    """Of `weight_1` p_1 - `weight_0` p_0, the shares being independent.

    With both weights 1 it is method 10 of Newcombe (1998), "Interval estimation for the difference between independent
    proportions"; with others it is its extension by Zou and Donner (2008), from the limits of Wilson of each share.
    """
    (share_1, low_1, high_1), (share_0, low_0, high_0) = (
        (np.asarray(count, float) / np.asarray(total, float), *wilson(count, total))
        for count, total in ((count_1, total_1), (count_0, total_0))
    )
    value = weight_1 * share_1 - weight_0 * share_0
    return Limits(
        value - np.hypot(weight_1 * (share_1 - low_1), weight_0 * (high_0 - share_0)),
        value + np.hypot(weight_1 * (high_1 - share_1), weight_0 * (share_0 - low_0)),
    )


def ratio(count_0: ArrayLike, total_0: ArrayLike, count_1: ArrayLike, total_1: ArrayLike) -> Limits:
    """Of p_0 / p_1, the shares being independent; the upper limit is inf where `count_1` is 0.

    From the limits of Clopper and Pearson of each share, hence conservative for rare false positives too, where the
    score limits of one in a thousand pass the truth far more often than they should.

    Source: Donner and Zou (2012), "Closed-form confidence intervals for functions of the normal mean and standard
    deviation", equation for a ratio; the lower limit is written without cancellation.
    """
    (share_0, low_0, high_0), (share_1, low_1, high_1) = (
        (np.asarray(count, float) / np.asarray(total, float), *clopper_pearson(count, total))
        for count, total in ((count_0, total_0), (count_1, total_1))
    )
    product = share_0 * share_1
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(product**2 - low_0 * high_1 * (2 * share_0 - low_0) * (2 * share_1 - high_1))
        low = np.where(low_0 > 0, low_0 * (2 * share_0 - low_0) / (product + root), 0.0)
        root = np.sqrt(product**2 - high_0 * low_1 * (2 * share_0 - high_0) * (2 * share_1 - low_1))
        high = np.where(low_1 > 0, (product + root) / (low_1 * (2 * share_1 - low_1)), np.inf)
    return Limits(low, high)


def precision(
    true_positives: ArrayLike,
    num_members: ArrayLike,
    false_positives: ArrayLike,
    num_nonmembers: ArrayLike,
    *,
    odds: float,
) -> Limits:
    """Of TPR / (TPR + odds · FPR): the precision of the decisions at `odds` non-members for each member.

    Something must be flagged. Conservative, as `ratio` is.
    """
    low, high = ratio(false_positives, num_nonmembers, true_positives, num_members)
    return Limits(1 / (1 + odds * high), 1 / (1 + odds * low))
