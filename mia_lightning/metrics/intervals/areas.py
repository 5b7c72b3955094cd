"""Intervals of the area under the ROC, and what perfect separation says of the areas."""

from math import log

import numpy as np
import torch
from scipy.special import expit, logit, ndtri

from mia_lightning.metrics.figures import Interval
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.metrics.roc import Roc

DELONG = "DeLong, on the logit scale"
DELONG_FEW = "DeLong, on the logit scale; it may cover less than 95 % with under 100 of a kind or above 0.96"
SEPARATED = "one-sided: perfect separation"
TIED = "bounded: all scores are tied"
TOO_FEW = "none: it takes two members and two non-members"


def delong(curve: Roc) -> float:
    """The variance of the AUC over records, with ties, in O(N) once the ROC is there.

    With ψ(x, y) = 1, ½ or 0 for x above, equal to or below y, the AUC is the mean of ψ(x_i, y_j) over all pairs of a
    member's score x_i and a non-member's y_j. The placement of member i is V_i = Σ_j ψ(x_i, y_j) / n_0, that of
    non-member j is W_j = Σ_i ψ(x_i, y_j) / n_1, and both have the AUC as their mean. The variance is

        S²(V) / n_1 + S²(W) / n_0,

    S² being sample variances. Placements are equal for equal scores, so that the counts at each distinct score do.

    Args:
        curve: with at least two members and two non-members.

    Source: DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
        characteristic curves" (1988), equation 4.
    """
    n1, n0 = curve.num_members, curve.num_nonmembers
    members_F, others_F = curve.true_positives_F.diff(), curve.false_positives_F.diff()
    # Twice the non-members below a member of each score, ties half; and the members above a non-member: in integers.
    below_F = 2 * (n0 - curve.false_positives_F[1:]) + others_F
    above_F = 2 * curve.true_positives_F[:-1] + members_F
    return _variance(below_F.double() / (2 * n0), members_F, curve.auc) / n1 + (
        _variance(above_F.double() / (2 * n1), others_F, curve.auc) / n0
    )


def auc_interval(curve: Roc, *, tail: float = TAIL) -> Interval:
    """The interval of the AUC over records: normal on the logit scale, never of zero width.

    By the delta method logit(A) = ln(A / (1 - A)) has the standard error SE(A) / (A (1 - A)), with DeLong's SE(A); the
    limits on that scale, logit(A) ± z SE, are transformed back into (0, 1).

    Where members and non-members are perfectly separated DeLong's variance is 0, and one bound is left. Take m =
    min(n_1, n_0) disjoint, hence independent, pairs of a member and a non-member: all are in order, which has a
    probability of AUC^m, so that an AUC below `tail`^(1/m) would show it with a probability of at most `tail`. Where
    all scores are tied the share of tied pairs is at least `tail`^(1/m) likewise; these count half, so that the AUC
    lies between half of that and 1 minus half of that.

    Args:
        tail: of each side.
    """
    n1, n0 = curve.num_members, curve.num_nonmembers
    if min(n1, n0) < 2:
        return Interval(None, None, TOO_FEW)
    area, bound = curve.auc, tail ** (1 / min(n1, n0))
    if len(curve.threshold_F) == 2:
        return Interval(bound / 2, 1 - bound / 2, TIED)
    if area in (0.0, 1.0):
        return Interval(bound, 1.0, SEPARATED) if area else Interval(0.0, 1 - bound, SEPARATED)
    reach = float(-ndtri(tail)) * np.sqrt(delong(curve)) / (area * (1 - area))
    is_sound = min(n1, n0) >= 100 and 0.04 <= area <= 0.96
    method = DELONG if is_sound else DELONG_FEW
    return Interval(float(expit(logit(area) - reach)), float(expit(logit(area) + reach)), method)


def separated_average_precision(num_members: int, num_nonmembers: int, *, tail: float = TAIL) -> Interval:
    """The bound on the average precision where perfect separation was observed.

    1 - AUC = e is bounded as by `auc_interval`. Among all rankings with that e the smallest average precision is that
    of the one in which a share e of the non-members stands above all members: ∫ u / (u + c e) du over recalls u in [0,
    1], at c non-members for each member, is 1 - c e ln(1 + 1 / (c e)).
    """
    mistaken = (1 - tail ** (1 / min(num_members, num_nonmembers))) * num_nonmembers / num_members
    return Interval(1 - mistaken * log(1 + 1 / mistaken), 1.0, SEPARATED)


def _variance(placement_F: torch.Tensor, count_F: torch.Tensor, mean: float) -> float:
    """Sample variance of values that occur `count_F` times."""
    return float((count_F * (placement_F - mean) ** 2).sum() / (count_F.sum() - 1))
