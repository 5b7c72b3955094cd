"""The exact ROC of real-valued scores, and the figures that are read off it.

Members are the positive class and higher scores mean "more likely a member". A *threshold* flags the records
whose score is at least the threshold, so that tied records are flagged together; nothing is interpolated.
Scores are any real numbers or ±inf (they are never squashed into [0, 1]) and are compared in float64; counts
are int64, on whatever device the scores are.

Source: Fawcett, "An introduction to ROC analysis" (2006), sections 4 to 7.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mia_lightning.errors import InputError


@dataclass(frozen=True)
class TprAtFpr:
    """The point of an ROC with the largest true-positive rate within a limit on the false-positive rate.

    Attributes:
        tpr, fpr: rates in [0, 1] at this threshold; `fpr` may lie below the limit.
        false_positives: number of non-members flagged, the fewest with which `tpr` is reached.
        threshold: on the scale of the scores; +inf with `tpr` 0 where nothing is flagged.
    """

    tpr: float
    fpr: float
    false_positives: int
    threshold: float


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision and recall, float64 `[F]`, at descending thresholds.

    The first point is (recall 0, precision 1) at threshold +inf, where nothing is flagged: the convention of
    scikit-learn.
    """

    threshold_F: Tensor
    precision_F: Tensor
    recall_F: Tensor


@dataclass(frozen=True, eq=False)
class Roc:
    """Counts of flagged members and non-members at every threshold.

    Attributes:
        threshold_F: float64, descending; the first, +inf, stands for "nothing flagged" (also where records
            score +inf: these are flagged at the second point), the others are the distinct scores.
        true_positives_F, false_positives_F: int64, members and non-members flagged, from 0 to all of them.
        num_members, num_nonmembers: both at least 1.
    """

    threshold_F: Tensor
    true_positives_F: Tensor
    false_positives_F: Tensor
    num_members: int
    num_nonmembers: int

    @property
    def tpr_F(self) -> Tensor:
        """True-positive rate, float64 in [0, 1], ascending."""
        return self.true_positives_F.double() / self.num_members

    @property
    def fpr_F(self) -> Tensor:
        """False-positive rate, float64 in [0, 1], ascending."""
        return self.false_positives_F.double() / self.num_nonmembers

    @cached_property
    def auc(self) -> float:
        """Area under the curve, from integers up to one rounded division (see `auc`)."""
        width_F = self.false_positives_F.diff()
        twice_height_F = self.true_positives_F[1:] + self.true_positives_F[:-1]
        return int((width_F * twice_height_F).sum()) / (2 * self.num_members * self.num_nonmembers)

    @property
    def precision_recall(self) -> PrecisionRecall:
        """Precision and recall at every threshold, from nothing flagged to everything flagged.

        >>> curve = roc(torch.tensor([3.0, 1.0, 1.0]), torch.tensor([True, True, False])).precision_recall
        >>> [round(value, 3) for value in curve.precision_F.tolist()], curve.recall_F.tolist()
        ([1.0, 1.0, 0.667], [0.0, 0.5, 1.0])
        """
        flagged_F = self.true_positives_F + self.false_positives_F
        precision_F = self.true_positives_F.double() / flagged_F.clamp(min=1)
        precision_F[0] = 1.0
        return PrecisionRecall(self.threshold_F, precision_F, self.tpr_F)

    @property
    def average_precision(self) -> float:
        """Area under the precision/recall curve as a step function: Σ (recall_f − recall_{f−1}) precision_f.

        In (0, 1]; chance is the share of members. Equals scikit-learn's `average_precision_score`.

        >>> roc(torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([True, False, False, True])).average_precision
        0.75
        """
        precision_F = self.precision_recall.precision_F
        share = float((self.true_positives_F.diff() * precision_F[1:]).sum()) / self.num_members
        return min(share, 1.0)  # the sum of a perfect separation may round above 1

    def tpr_at_fpr(self, max_fpr: float) -> TprAtFpr:
        """The best point within `max_fpr` (see `tpr_at_fpr`)."""
        if not 0.0 <= max_fpr <= 1.0:
            raise InputError(f"`max_fpr` is {max_fpr}; a false-positive rate lies in [0, 1].")
        allowed = allowed_false_positives(max_fpr, self.num_nonmembers)
        within = int(torch.searchsorted(self.false_positives_F, allowed, right=True)) - 1
        # Among the thresholds of equal TPR the first has the fewest false positives.
        best = int(torch.searchsorted(self.true_positives_F, self.true_positives_F[within]))
        false_positives = int(self.false_positives_F[best])
        return TprAtFpr(
            tpr=int(self.true_positives_F[best]) / self.num_members,
            fpr=false_positives / self.num_nonmembers,
            false_positives=false_positives,
            threshold=float(self.threshold_F[best]),
        )


def roc(score_N: Tensor, is_member_N: Tensor) -> Roc:
    """The exact ROC: one point for each distinct score, and (0, 0).

    Args:
        score_N: real numbers or ±inf; higher means more likely a member.
        is_member_N: bool; True is the positive class.

    Raises:
        InputError: shapes that differ or are not one-dimensional, `is_member_N` not bool, a NaN or complex
            score, or only one of members and non-members present.

    >>> curve = roc(torch.tensor([3.0, 1.0, 1.0, -2.0]), torch.tensor([True, True, False, False]))
    >>> curve.threshold_F.tolist()
    [inf, 3.0, 1.0, -2.0]
    >>> curve.tpr_F.tolist(), curve.fpr_F.tolist()
    ([0.0, 0.5, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0])
    """
    score_N = checked_scores(score_N, is_member_N)
    num_members = int(is_member_N.sum())
    num_nonmembers = len(is_member_N) - num_members
    if num_members == 0 or num_nonmembers == 0:
        raise InputError(
            f"`is_member_N` holds {num_members} members and {num_nonmembers} non-members; "
            "a ROC needs at least one of each."
        )
    descending_N, order_N = (each_N.flip(0) for each_N in in_order(score_N))
    ends_tie_N = torch.ones_like(is_member_N)
    torch.ne(descending_N[1:], descending_N[:-1], out=ends_tie_N[:-1])
    last_F = ends_tie_N.nonzero().squeeze(1)
    true_positives_F = is_member_N[order_N].cumsum(0)[last_F]
    zero = last_F.new_zeros(1)
    return Roc(
        threshold_F=torch.cat([descending_N.new_full((1,), torch.inf), descending_N[last_F]]),
        true_positives_F=torch.cat([zero, true_positives_F]),
        false_positives_F=torch.cat([zero, last_F + 1 - true_positives_F]),
        num_members=num_members,
        num_nonmembers=num_nonmembers,
    )


def auc(score_N: Tensor, is_member_N: Tensor) -> float:
    """Probability that a random member scores above a random non-member, ties counted half.

    In [0, 1]; 0.5 is chance, and exactly 0.5 for constant scores; below 0.5 the scores point the wrong way.
    Computed in integers up to one rounded division. Source: Hanley and McNeil (1982); it is the Mann-Whitney
    statistic.

    Args and errors as for `roc`.

    >>> auc(torch.tensor([3.0, 1.0, 1.0, -2.0]), torch.tensor([True, True, False, False]))
    0.875
    """
    return roc(score_N, is_member_N).auc


def tpr_at_fpr(score_N: Tensor, is_member_N: Tensor, *, max_fpr: float) -> TprAtFpr:
    """Largest true-positive rate of a threshold whose false-positive rate is at most `max_fpr`.

    Source: Carlini et al., "Membership inference attacks from first principles" (2022), section II-C.

    Args:
        score_N, is_member_N: as for `roc`.
        max_fpr: in [0, 1]; below 1 / number of non-members only a rate of 0 can qualify.

    Raises:
        InputError: `max_fpr` outside [0, 1], or as for `roc`.

    >>> score_N = torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0, 4.0])
    >>> is_member_N = torch.tensor([True, True, False, True, False, False])
    >>> point = tpr_at_fpr(score_N, is_member_N, max_fpr=0.3)
    >>> round(point.tpr, 3), point.false_positives, point.threshold
    (0.667, 0, 8.0)
    """
    return roc(score_N, is_member_N).tpr_at_fpr(max_fpr)


def in_order(score: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted along the last axis, NaN last, and the places that they had; ties stand in any order."""
    if score.device.type != "cpu":
        return score.sort()
    order = torch.from_numpy(np.argsort(score.numpy(), axis=-1))  # which sorts several times as fast
    return score.gather(-1, order), order


def checked_scores(score_N: Tensor, is_member_N: Tensor) -> Tensor:
    """`score_N` as float64, once scores and memberships are fit for use.

    Raises:
        InputError: shapes that differ or are not one-dimensional, `is_member_N` not bool, a NaN or complex
            score.
    """
    if score_N.ndim != 1 or score_N.shape != is_member_N.shape:
        raise InputError(
            f"`score_N` has shape {tuple(score_N.shape)} and `is_member_N` {tuple(is_member_N.shape)}; "
            "both must be one value for each record, [N]."
        )
    if is_member_N.dtype != torch.bool:
        raise InputError(f"`is_member_N` has dtype {is_member_N.dtype}; it must be torch.bool, True = member.")
    if score_N.is_complex():
        raise InputError(f"`score_N` has dtype {score_N.dtype}; scores must be real numbers.")
    score_N = score_N.detach().double()
    num_nan = int(score_N.isnan().sum())
    if num_nan:
        raise InputError(f"`score_N` holds {num_nan} NaN of {len(score_N)}; a NaN has no rank.")
    return score_N


def allowed_false_positives(max_fpr: float, num_nonmembers: int) -> int:
    """The largest count whose rate, as a float, is at most `max_fpr`.

    The product max_fpr * num_nonmembers rounds either way (0.29 * 100 < 29), whereas the quotient of two
    integers is the float nearest to the rate, which is what a literal such as 0.29 is too.
    """
    count = min(int(max_fpr * num_nonmembers) + 1, num_nonmembers)
    while count / num_nonmembers > max_fpr:
        count -= 1
    return count
