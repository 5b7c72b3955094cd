"""Conservative intervals of one rate at a threshold where another rate has a given value.

The threshold belongs to the population and is unknown. One kind of records, on whose rate the threshold is defined,
says between which two of its scores it lies; at these two scores the rate of the other kind has the limits of Clopper
and Pearson, for the two kinds are independent. Both errors together are at most 2.5 % on each side (Bonferroni).
Nothing is assumed of the scores, which may be tied.
"""

from functools import lru_cache

import torch
from scipy.stats import binom
from torch import Tensor

from mia_lightning.metrics.figures import Interval
from mia_lightning.metrics.intervals.rates import TAIL, clopper_pearson
from mia_lightning.metrics.roc import Roc

CONSERVATIVE = "conservative: order statistics and Clopper-Pearson"


@lru_cache(maxsize=4096)
def threshold_ranks(rate: float, total: int, *, tail: float) -> tuple[int, int, float, float]:
    """Ranks (from 1, the highest score) between which the threshold lies that a share `rate` of a population reaches.

    The number B of `total` records at or above it is binomial with this share. The score of rank `first` is below the
    threshold if B < first, that of rank `last` above it if B >= last: each has a probability of at most `tail`.

    Returns:
        first (0 where even the highest score may be below), last (above `total` where even the lowest may be above),
        and the two probabilities.
    """
    first = int(binom.ppf(tail, total, rate))
    last = int(binom.isf(tail, total, rate)) + 1
    below = float(binom.cdf(first - 1, total, rate))
    above = float(binom.sf(last - 1, total, rate))
    return first, last, below, above


def tpr_at_fpr_interval(curve: Roc, max_fpr: float) -> Interval:
    """Of the largest TPR of a threshold whose FPR is at most `max_fpr` in the population.

    Let q be the score with P(non-member > q) <= max_fpr < P(non-member >= q), so that the TPR is P(member > q). With
    half of the error the score of rank `first` among the non-members is at least q and that of rank `last` at most q;
    what the ranks leave of it goes to the limits of Clopper and Pearson on the members strictly above these scores.
    With fewer than 4.4 / max_fpr non-members no threshold can be excluded from above, and the lower limit is 0.
    """
    n1, n0 = curve.num_members, curve.num_nonmembers
    first, last, below, above = threshold_ranks(max_fpr, n0, tail=TAIL / 2)
    low, high = 0.0, 1.0
    if first > 0:
        low = clopper_pearson(_strictly_above(curve, first), n1, tail=TAIL - below).numbers()[0]
    if last <= n0:
        high = clopper_pearson(_strictly_above(curve, last), n1, tail=TAIL - above).numbers()[1]
    return Interval(low, high, CONSERVATIVE)


def precision_at_recall_interval(curve: Roc, recall: float) -> Interval:
    """Of the precision, at one member for each non-member, of the highest threshold whose recall is at least `recall`.

    As above with the kinds exchanged and the threshold's own records counted in: the members bound the threshold, the
    non-members at or above the bounds give the FPR, and the precision is recall / (recall + FPR). Where members are
    tied between the bounds the recall at the threshold may be anything above, and the upper limit allows for 1.
    """
    n1, n0 = curve.num_members, curve.num_nonmembers
    first, last, below, above = threshold_ranks(recall, n1, tail=TAIL / 2)
    fewest, most = 0.0, 1.0
    if first > 0:
        alarms = int(curve.false_positives_F[_point_of(curve.true_positives_F, first)])
        fewest = clopper_pearson(alarms, n0, tail=TAIL - below).numbers()[0]
    if last <= n1:
        alarms = int(curve.false_positives_F[_point_of(curve.true_positives_F, last)])
        most = clopper_pearson(alarms, n0, tail=TAIL - above).numbers()[1]
    largest = 1.0 if _has_ties(curve, max(first, 1), min(last, n1)) else recall
    return Interval(recall / (recall + most), largest / (largest + fewest), CONSERVATIVE)


def _strictly_above(curve: Roc, rank: int) -> int:
    """Members above the score of the non-member of this rank."""
    return int(curve.true_positives_F[_point_of(curve.false_positives_F, rank) - 1])


def _point_of(count_F: Tensor, rank: int) -> int:
    """The point of the ROC at which the record of this rank, counted from 1, is flagged."""
    return int(torch.searchsorted(count_F, rank))


def _has_ties(curve: Roc, first: int, last: int) -> bool:
    """Whether members from one rank to another share a score."""
    start, end = _point_of(curve.true_positives_F, first), _point_of(curve.true_positives_F, last)
    return bool((curve.true_positives_F[start - 1 : end + 1].diff() > 1).any())
