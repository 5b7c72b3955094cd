"""Intervals in closed form of shares, and of functions of two independent shares.

Thresholds are fixed beforehand: learnt on shadow models, never on the records that are counted, so that the counts
above them are binomial. All functions take numbers or arrays that broadcast; their limits have a tail of 2.5 % on each
side unless another is given.
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
    """Of a binomial share p, exact: each end is on the wrong side of p with a probability of at most `tail`.

    The lower limit is the p at which k or more of n would come true with probability `tail`, the upper one that at
    which k or fewer would. Since P[X >= k] = I_p(k, n - k + 1), the regularised incomplete beta function, both are
    quantiles of beta distributions:

        low = I⁻¹(k, n - k + 1; tail),     high = I⁻¹(k + 1, n - k; 1 - tail),

    with low = 0 at k = 0 and high = 1 at k = n.

    Args:
        count: k, whole numbers in [0, total].
        total: n, at least 1.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial"
        (1934).
    """
    count, total = np.asarray(count, float), np.asarray(total, float)
    missed = total - count
    low = np.where(count > 0, betaincinv(np.maximum(count, 1), missed + 1, tail), 0.0)
    high = np.where(missed > 0, betaincinv(count + 1, np.maximum(missed, 1), 1 - tail), 1.0)
    return Limits(low, high)


def wilson(count: ArrayLike, total: ArrayLike, *, tail: float = TAIL) -> Limits:
    """Of a binomial share, by the score test: near the nominal level on average, never of zero width.

    The limits are the p at which k / n is z standard errors away, |k / n - p| = z √(p (1 - p) / n). The roots of this
    quadratic equation are (k + z²/2 ± z √(k (n - k) / n + z²/4)) / (n + z²).

    Args:
        count, total: k and n, as for `clopper_pearson`.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    count, total = np.asarray(count, float), np.asarray(total, float)
    z = float(-ndtri(tail))
    centre = (count + z**2 / 2) / (total + z**2)
    reach = z / (total + z**2) * np.sqrt(count * (total - count) / total + z**2 / 4)
    return Limits(np.where(count > 0, centre - reach, 0.0), np.where(count < total, centre + reach, 1.0))


def difference(
    count_1: ArrayLike, total_1: ArrayLike, count_0: ArrayLike, total_0: ArrayLike, *, weight_1: float, weight_0: float
) -> Limits:
    """Of D = w_1 p_1 - w_0 p_0, the shares being independent, from Wilson's limits (l, u) of each.

    Where D is as low as its lower limit, p_1 is near l_1 and p_0 near u_0. The standard errors there are recovered from
    the limits, z s_1 = p̂_1 - l_1 and z s_0 = u_0 - p̂_0, and the variances of the two terms add up:

        low = D̂ - √(w_1² (p̂_1 - l_1)² + w_0² (u_0 - p̂_0)²),     high = D̂ + √(w_1² (u_1 - p̂_1)² + w_0² (p̂_0 - l_0)²).

    Args:
        count_1, total_1, count_0, total_0: as for `clopper_pearson`.
        weight_1, weight_0: w_1 and w_0, at least 0.

    Source: Newcombe, "Interval estimation for the difference between independent proportions" (1998), method 10, where
        both weights are 1; Zou and Donner, "Construction of confidence limits about effect measures" (2008), for any.
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
    """Of r = p_0 / p_1, the shares being independent; the upper limit is inf where `count_1` is 0.

    r is a limit where 0 is one of p_0 - r p_1 (Fieller's argument). By the formula of `difference` with weights 1 and
    r, the lower one solves p̂_0 - r p̂_1 = √((p̂_0 - l_0)² + r² (u_1 - p̂_1)²), squared

        a r² - 2 p̂_0 p̂_1 r + c = 0     with a = u_1 (2 p̂_1 - u_1) and c = l_0 (2 p̂_0 - l_0),

    whose smaller root is c / (p̂_0 p̂_1 + √(p̂_0² p̂_1² - a c)), written so that nothing cancels. The upper limit is
    the larger root for (u_0, l_1) in place of (l_0, u_1).

    The limits of each share are those of Clopper and Pearson. They keep the ratio conservative for rare false positives
    too, where the score limits of one in a thousand pass the truth far more often than they should.

    Args:
        count_0, total_0, count_1, total_1: as for `clopper_pearson`.

    Source: Donner and Zou, "Closed-form confidence intervals for functions of the normal mean and standard deviation"
        (2012), for a ratio.
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

    It is 1 / (1 + odds · FPR / TPR) and falls with the ratio, so that the limits of `ratio` change places.
    Conservative, as these are. Something must be flagged.
    """
    low, high = ratio(false_positives, num_nonmembers, true_positives, num_members)
    return Limits(1 / (1 + odds * high), 1 / (1 + odds * low))
