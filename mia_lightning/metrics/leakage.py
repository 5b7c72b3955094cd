"""The figures of an attack against one target, over all records and for each class."""

from collections.abc import Sequence
from math import floor

import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.metrics.figures import Figure, Figures
from mia_lightning.metrics.roc import Roc, checked_scores, roc
from mia_lightning.metrics.target_accuracy import check_labels

MAX_FPRS = (0.01, 0.001)


def attack_figures(
    score_N: Tensor, is_flagged_N: Tensor, is_member_N: Tensor, *, max_fprs: Sequence[float] = MAX_FPRS
) -> Figures:
    """What an attack achieves against one target, on one group of records.

    A figure that is undefined is null with the reason. Only the recall is given for a group without
    non-members, and no figure for one without members: precision and accuracy would say more about the group
    than about the attack. TPR at FPR α is null below 1/α non-members and carries a caution below 10/α.

    Args:
        score_N: real numbers or ±inf; higher means more likely a member.
        is_flagged_N: bool; the attack's own decision "member".
        is_member_N: bool; the truth.
        max_fprs: false-positive rates in (0, 1] of `tpr_at_fpr`, whose keys are these numbers as "%g".

    Returns:
        Figures whose `n` are: the flagged records (precision, balanced or not), the members (recall), all
        records (the rest).

    Raises:
        InputError: shapes that differ or are not one-dimensional, masks that are not bool, a NaN score, or
            `max_fprs` out of range or equal when printed.

    >>> is_member_N = torch.tensor([True, True, False, False])
    >>> score_N = torch.tensor([2.0, 0.5, 1.0, -3.0])
    >>> figures = attack_figures(score_N, score_N > 0, is_member_N, max_fprs=[0.01])
    >>> round(figures.precision.value, 3), figures.recall.value, figures.auc.value
    (0.667, 1.0, 0.75)
    >>> figures.tpr_at_fpr["0.01"].reason
    'a false-positive rate of 0.01 needs at least 100 non-members, and the group has 2'
    """
    score_N = _checked(score_N, is_flagged_N, is_member_N)
    keys = _keys(max_fprs)
    n = len(score_N)
    n1 = int(is_member_N.sum())
    n0 = n - n1
    true_positives = int((is_flagged_N & is_member_N).sum())
    flagged = int(is_flagged_N.sum())
    false_positives = flagged - true_positives

    def null(count: int, reason: str) -> Figure:
        return Figure(value=None, n=count, reason=reason)

    missing = _missing(n1, n0)
    if missing:
        precision = precision_balanced = null(flagged, missing)
        accuracy = area = average = null(n, missing)
        tpr_at_fpr = dict.fromkeys(keys, null(n, missing))
    else:
        curve = roc(score_N, is_member_N)
        if flagged:
            # In integers, so that a balanced group has the same precision twice.
            members, nonmembers = true_positives * n0, false_positives * n1
            precision = Figure(value=true_positives / flagged, n=flagged)
            precision_balanced = Figure(value=members / (members + nonmembers), n=flagged)
        else:
            precision = precision_balanced = null(0, "the attack flagged no record")
        accuracy = Figure(value=(true_positives + n0 - false_positives) / n, n=n)
        area = Figure(value=curve.auc, n=n)
        average = Figure(value=curve.average_precision, n=n)
        tpr_at_fpr = {key: _tpr_figure(curve, max_fpr) for key, max_fpr in zip(keys, max_fprs, strict=True)}
    return Figures(
        num_members=n1,
        num_nonmembers=n0,
        base_rate=n1 / n if n else None,
        precision=precision,
        precision_balanced=precision_balanced,
        recall=Figure(value=true_positives / n1, n=n1) if n1 else null(0, missing),
        accuracy=accuracy,
        auc=area,
        average_precision=average,
        tpr_at_fpr=tpr_at_fpr,
    )


def per_class_figures(
    score_N: Tensor,
    is_flagged_N: Tensor,
    is_member_N: Tensor,
    label_N: Tensor,
    num_classes: int,
    *,
    max_fprs: Sequence[float] = MAX_FPRS,
) -> list[Figures]:
    """`attack_figures` of the records of each class, in the order of the classes.

    Args:
        score_N, is_flagged_N, is_member_N, max_fprs: as for `attack_figures`.
        label_N: int64 true classes in [0, num_classes).
        num_classes: length of the result; a class without records has null figures.

    Raises:
        InputError: labels of another shape, dtype or range, or as for `attack_figures`.
    """
    score_N = _checked(score_N, is_flagged_N, is_member_N)
    check_labels(label_N, len(score_N), num_classes)
    order_N = label_N.argsort(stable=True)
    ends: list[int] = torch.bincount(label_N, minlength=num_classes).cumsum(0).tolist()
    columns = [column_N[order_N] for column_N in (score_N, is_flagged_N, is_member_N)]
    return [
        attack_figures(*(column_N[start:end] for column_N in columns), max_fprs=max_fprs)
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def _checked(score_N: Tensor, is_flagged_N: Tensor, is_member_N: Tensor) -> Tensor:
    score_N = checked_scores(score_N, is_member_N)
    if is_flagged_N.shape != score_N.shape or is_flagged_N.dtype != torch.bool:
        raise InputError(
            f"`is_flagged_N` has shape {tuple(is_flagged_N.shape)} and dtype {is_flagged_N.dtype}; "
            f"it must be torch.bool of shape {tuple(score_N.shape)}."
        )
    return score_N


def _missing(num_members: int, num_nonmembers: int) -> str:
    """What the group lacks, as a reason; empty where it has members and non-members."""
    if not num_members and not num_nonmembers:
        return "the group has no records"
    if not num_members:
        return "the group has no members"
    return "" if num_nonmembers else "the group has no non-members"


def _keys(max_fprs: Sequence[float]) -> list[str]:
    for max_fpr in max_fprs:
        if not 0.0 < max_fpr <= 1.0:
            raise InputError(f"`max_fprs` holds {max_fpr}; the false-positive rates of a report lie in (0, 1].")
    keys = [f"{max_fpr:g}" for max_fpr in max_fprs]
    if len(set(keys)) < len(keys):
        raise InputError(f"`max_fprs` {list(max_fprs)} holds a rate twice (to six digits); give each once.")
    return keys


def _tpr_figure(curve: Roc, max_fpr: float) -> Figure:
    n0 = curve.num_nonmembers
    n = curve.num_members + n0
    needed = _records_for(1, max_fpr)
    if n0 < needed:
        reason = f"a false-positive rate of {max_fpr:g} needs at least {needed} non-members, "
        return Figure(value=None, n=n, reason=reason + f"and the group has {n0}")
    point = curve.tpr_at_fpr(max_fpr)
    ample = _records_for(10, max_fpr)
    if n0 >= ample:
        return Figure(value=point.tpr, n=n)
    ending = "" if point.false_positives == 1 else "s"
    caution = f"rests on {point.false_positives} false positive{ending} among {n0} non-members, "
    return Figure(value=point.tpr, n=n, reason=caution + f"where at least {ample} would make it steady")


def _records_for(false_positives: int, max_fpr: float) -> int:
    """The smallest number of non-members of which `false_positives` are a share of at most `max_fpr`."""
    count = max(floor(false_positives / max_fpr), 1)
    while false_positives / count > max_fpr:
        count += 1
    return count
