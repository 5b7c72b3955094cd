"""The figures of an attack's scores at all thresholds, read off its ROC."""

from collections.abc import Sequence
from math import floor
from typing import Any

import torch

from mia_lightning.metrics.figures import Figure, Interval, limited, null
from mia_lightning.metrics.intervals.areas import auc_interval, separated_average_precision
from mia_lightning.metrics.intervals.bootstrap import Bootstrap, members_for
from mia_lightning.metrics.intervals.order_statistics import precision_at_recall_interval, tpr_at_fpr_interval
from mia_lightning.metrics.roc import Roc

RECALLS = (0.1, 0.5, 0.9)
NO_BOOTSTRAP = "none: it takes a bootstrap, which is done for all records together"


def ranking_figures(
    curve: Roc,
    max_fprs: Sequence[float],
    recalls: Sequence[float] = RECALLS,
    *,
    bootstrap: Bootstrap | None = None,
    intervals: bool = True,
) -> dict[str, Any]:
    """AUC, average precision, TPR at FPRs and precision at recalls with their intervals, by the names of `Figures`.

    Args:
        bootstrap: None gives intervals in closed form alone: conservative ones for TPR at FPR and precision at recall,
            and none for average precision.
        intervals: False leaves all of them out.
    """
    n = curve.num_members + curve.num_nonmembers
    figures: dict[str, Any] = {
        "auc": Figure(value=curve.auc, n=n),
        "average_precision": Figure(value=curve.average_precision, n=n),
        "tpr_at_fpr": tpr_figures(curve, max_fprs),
        "precision_at_recall": {f"{recall:g}": Figure(value=_precision_at(curve, recall), n=n) for recall in recalls},
    }
    if not intervals:
        return figures
    tpr_interval = tpr_at_fpr_interval if bootstrap is None else bootstrap.tpr_at_fpr
    precision_interval = precision_at_recall_interval if bootstrap is None else bootstrap.precision_at_recall
    return {
        "auc": limited(figures["auc"], auc_interval(curve)),
        "average_precision": limited(figures["average_precision"], _of_average_precision(curve, bootstrap)),
        "tpr_at_fpr": {
            key: figure if figure.value is None else limited(figure, tpr_interval(curve, max_fpr))
            for max_fpr, (key, figure) in zip(max_fprs, figures["tpr_at_fpr"].items(), strict=True)
        },
        "precision_at_recall": {
            key: limited(figure, precision_interval(curve, recall))
            for recall, (key, figure) in zip(recalls, figures["precision_at_recall"].items(), strict=True)
        },
    }


def tpr_figures(curve: Roc, max_fprs: Sequence[float]) -> dict[str, Figure]:
    """TPR at FPRs alone, without intervals."""
    return {f"{max_fpr:g}": _tpr_figure(curve, max_fpr) for max_fpr in max_fprs}


def _tpr_figure(curve: Roc, max_fpr: float) -> Figure:
    """TPR at FPR: null below 1/α non-members, with a caution below 10/α."""
    n0 = curve.num_nonmembers
    n = curve.num_members + n0
    needed = _records_for(1, max_fpr)
    if n0 < needed:
        reason = f"a false-positive rate of {max_fpr:g} needs at least {needed:,} non-members, "
        return null(n, reason + f"and the group has {n0:,}")
    point = curve.tpr_at_fpr(max_fpr)
    caution, ample = None, _records_for(10, max_fpr)
    if n0 < ample:
        ending = "" if point.false_positives == 1 else "s"
        caution = f"rests on {point.false_positives:,} false positive{ending} among {n0:,} non-members, "
        caution += f"where at least {ample:,} would make it steady"
    return Figure(value=point.tpr, n=n, reason=caution, false_positives=point.false_positives)


def _precision_at(curve: Roc, recall: float) -> float:
    """Precision at 1:1 of the highest threshold whose recall is at least `recall`."""
    n1, n0 = curve.num_members, curve.num_nonmembers
    at = int(torch.searchsorted(curve.true_positives_F, members_for(recall, n1)))
    found, alarms = int(curve.true_positives_F[at]) * n0, int(curve.false_positives_F[at]) * n1
    return found / (found + alarms)


def _of_average_precision(curve: Roc, bootstrap: Bootstrap | None) -> Interval:
    if bootstrap is not None:
        return bootstrap.average_precision(curve)
    if curve.auc == 1.0:
        return separated_average_precision(curve.num_members, curve.num_nonmembers)
    return Interval(None, None, NO_BOOTSTRAP)


def _records_for(false_positives: int, max_fpr: float) -> int:
    """The smallest number of non-members of which `false_positives` are a share of at most `max_fpr`."""
    count = max(floor(false_positives / max_fpr), 1)
    while false_positives / count > max_fpr:
        count += 1
    return count
