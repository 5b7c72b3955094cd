"""The figures of an attack against one target, over all records or a group of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.metrics.figures import Figures, null
from mia_lightning.metrics.intervals.bootstrap import Bootstrap
from mia_lightning.metrics.operating_point import PRIORS, operating_point_figures, recall_figure
from mia_lightning.metrics.ranking import RECALLS, ranking_figures
from mia_lightning.metrics.roc import checked_scores, roc

MAX_FPRS = (0.01, 0.001, 0.0001)


def attack_figures(
    score_N: Tensor,
    is_flagged_N: Tensor,
    is_member_N: Tensor,
    *,
    max_fprs: Sequence[float] = MAX_FPRS,
    bootstrap: Bootstrap | None = None,
    intervals: bool = True,
) -> Figures:
    """What an attack achieves against one target, on one group of records.

    A figure that is undefined is null with the reason. Only the recall is given for a group without
    non-members, and no figure for one without members: precision and accuracy would say more about the group
    than about the attack. TPR at FPR α is null below 1/α non-members and carries a caution below 10/α.

    Intervals are over records: this trained model, other records of the same population.

    Args:
        score_N: real numbers or ±inf; higher means more likely a member.
        is_flagged_N: bool; the attack's own decision "member".
        is_member_N: bool; the truth.
        max_fprs: false-positive rates in (0, 1] of `tpr_at_fpr`, whose keys are these numbers as "%g".
        bootstrap: the draws of intervals that have no closed form; None gives conservative ones, or none.
        intervals: False leaves all intervals out, and saves most of the time.

    Returns:
        Figures whose `n` are: the flagged records (precision, balanced or not, and PPV), the members (recall), all
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
    missing = missing_kind(n1, n0)
    if missing:
        figures = _null_figures(missing, n, flagged, keys)
        figures["recall"] = recall_figure(true_positives, n1) if n1 else null(0, missing)
    else:
        figures = operating_point_figures(true_positives, flagged - true_positives, n1, n0, intervals=intervals)
        curve = roc(score_N, is_member_N)
        figures |= ranking_figures(curve, max_fprs, bootstrap=bootstrap, intervals=intervals)
    return Figures(num_members=n1, num_nonmembers=n0, base_rate=n1 / n if n else None, **figures)


def _checked(score_N: Tensor, is_flagged_N: Tensor, is_member_N: Tensor) -> Tensor:
    score_N = checked_scores(score_N, is_member_N)
    if is_flagged_N.shape != score_N.shape or is_flagged_N.dtype != torch.bool:
        raise InputError(
            f"`is_flagged_N` has shape {tuple(is_flagged_N.shape)} and dtype {is_flagged_N.dtype}; "
            f"it must be torch.bool of shape {tuple(score_N.shape)}."
        )
    return score_N


def missing_kind(num_members: int, num_nonmembers: int) -> str:
    """What the group lacks, as a reason; empty where it has members and non-members."""
    if not num_members and not num_nonmembers:
        return "the group has no records"
    if not num_members:
        return "the group has no members"
    return "" if num_nonmembers else "the group has no non-members"


def _null_figures(reason: str, n: int, flagged: int, keys: Sequence[str]) -> dict[str, Any]:
    of_all, of_flagged = null(n, reason), null(flagged, reason)
    names = ("accuracy", "balanced_accuracy", "advantage", "auc", "average_precision")
    return {
        **dict.fromkeys(names, of_all),
        "precision": of_flagged,
        "precision_balanced": of_flagged,
        "ppv": {f"{prior:g}": of_flagged for prior in PRIORS},
        "tpr_at_fpr": dict.fromkeys(keys, of_all),
        "precision_at_recall": {f"{recall:g}": of_all for recall in RECALLS},
    }


def _keys(max_fprs: Sequence[float]) -> list[str]:
    for max_fpr in max_fprs:
        if not 0.0 < max_fpr <= 1.0:
            raise InputError(f"`max_fprs` holds {max_fpr}; the false-positive rates of a report lie in (0, 1].")
    keys = [f"{max_fpr:g}" for max_fpr in max_fprs]
    if len(set(keys)) < len(keys):
        raise InputError(f"`max_fprs` {list(max_fprs)} holds a rate twice (to six digits); give each once.")
    return keys
