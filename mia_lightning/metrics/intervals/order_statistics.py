"""Conservative intervals of one rate at a threshold where another rate has a given value.

The threshold belongs to the population and is unknown. The kind of records on whose rate it is defined bounds it
between two of their own scores. At these two scores the rate of the other kind has the limits of Clopper and Pearson,
for the two kinds are independent. Either side fails only if its bound on the threshold or its limit of the rate does,
so that the two error probabilities, which add up to 2.5 %, bound that of the side (Bonferroni's inequality). Nothing is
assumed of the scores, which may be tied.
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
    threshold if and only if B < first, and that of rank `last` is at or above it if and only if B >= last. `first` is
    the largest rank and `last` the smallest one for which the probability of this is at most `tail`.

    Args:
        rate: in (0, 1).
        total: of the records whose ranks these are.

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

    Let q be the score with P(non-member > q) <= max_fpr < P(non-member >= q), so that the TPR is P(member > q). But for
    half of the error, 1.25 % on each side, the score of rank `first` among the non-members is at least q and that of
    rank `last` at most q. The share of members strictly above the former is thus at most the TPR, and that above the
    latter at least the TPR: Clopper and Pearson's limits of the two are the ends. They get what the ranks, which are
    whole numbers, leave of the 2.5 %.

    With (1 - max_fpr)^n_0 > 1.25 %, that is, fewer than about 4.4 / max_fpr non-members, even the highest of these may
    be below q: `first` is 0, and so is the lower limit.

    Args:
        max_fpr: in (0, 1).
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

    As in `tpr_at_fpr_interval` with the kinds exchanged and the threshold's own records counted in: the members bound
    the threshold, the non-members at or above the bounds give the limits of the FPR, and the precision is
    recall / (recall + FPR), which falls with the FPR and rises with the recall. If members are tied between the bounds,
    the recall at the threshold may be anything from `recall` up, and the upper limit allows for 1.

    Args:
        recall: in (0, 1).
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
