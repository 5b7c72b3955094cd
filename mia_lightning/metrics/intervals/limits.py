"""Intervals that keep their promise whatever the scores look like: what the gate decides by.

All come from Clopper and Pearson's interval; each function says why its own is never too narrow. They are wider than
those of the report where these are well calibrated, and they hold where those were not measured to hold: at confidences
corrected for several attacks, for few records, and for rates near 0 and 1. They are for what the report's are for:
these trained models on other records of the same population.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainccinv, betaincinv
from scipy.stats import binom, rankdata

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]


def share_limits(count: float, n: float, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's limits of a probability of which `count` of n trials came true, also for fractions.

    `rates.clopper_pearson` has the derivation and is for whole numbers alone; its upper limit comes from the quantile
    at 1 - tail, this one from the upper tail itself, which is more exact for small tails: the last bits differ.

    Args:
        count: in [0, n]; a mean over targets may lie between whole numbers.
        n: above 0.
        confidence: of both sides together, in (0, 1).
    """
    tail = (1 - confidence) / 2
    low = float(betaincinv(count, n - count + 1, tail)) if count > 0 else 0.0
    high = float(betainccinv(count + 1, n - count, tail)) if count < n else 1.0
    return low, high


def advantage_limits(
    advantage: float, num_members: float, num_nonmembers: float, confidence: float
) -> tuple[float, float]:
    """Limits of TPR − FPR at a threshold fixed beforehand.

    With m members and as many non-members, (1 + advantage) / 2 is the share of right ones among 2m decisions: a
    member's is right with probability TPR, a non-member's with 1 − FPR. A sum of independent trials with different
    probabilities is less spread than a binomial count of the same mean: both of its tails beyond the mean are at most
    the binomial ones (Hoeffding, "On the distribution of the number of successes in independent trials", 1956, theorem
    4). So the binomial limits hold. Of unequal numbers the smaller counts for both.

    Args:
        advantage: in [-1, 1].
        num_members, num_nonmembers: at least 1.
        confidence: of both sides together, in (0, 1).
    """
    m = min(num_members, num_nonmembers)
    low, high = share_limits((1 + advantage) * m, 2 * m, confidence)
    return 2 * low - 1, 2 * high - 1


def auc_limits(area: float, num_members: float, num_nonmembers: float, confidence: float) -> tuple[float, float]:
    """Limits of the AUC.

    Its variance is at most A (1 − A) / m, m the smaller number of the two (Birnbaum and Klotz, "Bounds on the variance
    of the U-test", 1957). That is the variance of a share of m trials, and it is attained where the scores of one group
    lie on both sides of all scores of the other: the AUC is then the share of members on the upper side, a binomial
    one. So the limits are those of A · m successes in m trials.

    Args:
        area: the AUC, in [0, 1].
        num_members, num_nonmembers, confidence: as for `advantage_limits`.
    """
    m = min(num_members, num_nonmembers)
    return share_limits(area * m, m, confidence)


def tpr_at_fpr_limits(
    caught_F: Numbers, num_members: float, num_nonmembers: int, fpr: float, confidence: float
) -> tuple[float, float]:
    """Limits of the largest TPR of a threshold whose FPR, over the population, is at most `fpr`.

    The number of non-members above that threshold is binomial with n_0 trials of probability `fpr`: outside its
    quantiles at α / 4 and 1 − α / 4, α = 1 − confidence, it lies with probability α / 4 on either side. So the
    threshold lies between two ranks of the non-members. The members above either rank are a binomial count, whose limit
    at α / 4 is Clopper and Pearson's. Each side of the interval fails if its rank or its limit does, with a probability
    of at most α / 4 + α / 4 (Bonferroni's inequality). Tied scores go together, on the safe side at either end.

    Args:
        caught_F: as `caught` gives it; of another number of non-members than `num_nonmembers` it is interpolated, which
            serves to plan a larger audit.
        num_members, num_nonmembers: at least 1.
        fpr: in (0, 1).
        confidence: of both sides together, in (0, 1).
    """
    tail = (1 - confidence) / 4  # two ends, each of a threshold and a rate
    fewest = int(binom.ppf(tail, num_nonmembers, fpr))
    most = int(binom.isf(tail, num_nonmembers, fpr))
    scale = (len(caught_F) - 1) / num_nonmembers
    rank_F = np.arange(len(caught_F))
    least, largest = (float(np.interp(place * scale, rank_F, caught_F)) for place in (max(0, fewest - 1), most))
    narrower = 1 - 2 * tail
    low = share_limits(least * num_members, num_members, narrower)[0] if fewest > 0 else 0.0
    return low, share_limits(largest * num_members, num_members, narrower)[1]


def caught(score: Numbers, is_member: Mask) -> Numbers:
    """The share of members above the f + 1 highest non-members, f = 0 to their number, where it is 1; ascending.

    It is the largest TPR of a threshold with at most f false positives, ties together.
    """
    members, others = np.sort(score[is_member]), np.sort(score[~is_member])[::-1]
    above_F = len(members) - np.searchsorted(members, others, side="right")
    shares: Numbers = np.append(above_F, len(members)) / len(members)
    return shares


def area_under_curve(score: Numbers, is_member: Mask) -> float:
    """The share of pairs of a member and a non-member in which the member scores higher; ties count half."""
    n1, n0 = int(is_member.sum()), int((~is_member).sum())
    return float((rankdata(score)[is_member].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))
