"""Intervals that keep their promise whatever the scores look like: what the gate decides by.

All three come from Clopper and Pearson's interval, for each of which there is a reason why it is never too narrow. They
are wider than those of the report where these are well calibrated, and hold where those are not measured to: at
confidences corrected for several attacks, for few records, and for rates near 0 and 1. Their estimand is that of the
report: these trained models, other records of the same population.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom, rankdata

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]


def clopper_pearson(count: float, n: float, confidence: float) -> tuple[float, float]:
    """Limits of the probability of which `count` of n trials came true; whole-number arguments are the exact case.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial"
        (1934), by quantiles of the Beta distribution.
    """
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, count, n - count + 1)) if count > 0 else 0.0
    high = float(beta.isf(tail, count + 1, n - count)) if count < n else 1.0
    return low, high


def advantage_limits(
    advantage: float, num_members: float, num_nonmembers: float, confidence: float
) -> tuple[float, float]:
    """Limits of TPR − FPR at a threshold fixed beforehand.

    With m members and as many non-members, (1 + advantage) / 2 is the share of 2m decisions that are right. These are
    right with two probabilities, and so vary less than 2m of their mean would (Hoeffding, "On the distribution of the
    number of successes in independent trials", 1956, theorem 4). Of unequal numbers the smaller counts for both.
    """
    m = min(num_members, num_nonmembers)
    low, high = clopper_pearson((1 + advantage) * m, 2 * m, confidence)
    return 2 * low - 1, 2 * high - 1


def auc_limits(area: float, num_members: float, num_nonmembers: float, confidence: float) -> tuple[float, float]:
    """Limits of the AUC.

    Its variance is at most A (1 − A) / m, m the smaller number of the two (Birnbaum and Klotz, 1957), that of a share
    of m trials, which is attained where the scores of the one group lie on both sides of all of the other's.
    """
    m = min(num_members, num_nonmembers)
    return clopper_pearson(area * m, m, confidence)


def tpr_at_fpr_limits(
    caught_F: Numbers, num_members: float, num_nonmembers: int, fpr: float, confidence: float
) -> tuple[float, float]:
    """Limits of the largest TPR of a threshold whose FPR, over the population, is at most `fpr`.

    The number of non-members above that threshold is a binomial count, whose quantiles say between which ranks of the
    non-members it lies; each end is joined by Bonferroni's inequality to Clopper and Pearson's limit for the members
    above that rank. Ties go together, on the safe side at either end.

    Args:
        caught_F: as `caught` gives it; of another number of non-members than `num_nonmembers` it is interpolated, which
            serves to plan a larger audit.
    """
    tail = (1 - confidence) / 4  # two ends, each of a threshold and a rate
    fewest = int(binom.ppf(tail, num_nonmembers, fpr))
    most = int(binom.isf(tail, num_nonmembers, fpr))
    scale = (len(caught_F) - 1) / num_nonmembers
    rank_F = np.arange(len(caught_F))
    least, largest = (float(np.interp(place * scale, rank_F, caught_F)) for place in (max(0, fewest - 1), most))
    narrower = 1 - 2 * tail
    low = clopper_pearson(least * num_members, num_members, narrower)[0] if fewest > 0 else 0.0
    return low, clopper_pearson(largest * num_members, num_members, narrower)[1]


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
