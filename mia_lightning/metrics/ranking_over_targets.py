"""The figures of an attack's scores at all thresholds, over several targets, with their intervals."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mia_lightning.metrics.figures import Figure, Figures, Interval, limited, null
from mia_lightning.metrics.intervals.crossed import average_precision_interval
from mia_lightning.metrics.intervals.crossed_thresholds import (
    mean_precision_interval,
    mean_tpr_interval,
    pooled_tpr_interval,
)
from mia_lightning.metrics.leakage import missing_kind
from mia_lightning.metrics.ranking import tpr_figures
from mia_lightning.metrics.roc import roc


def ranking_intervals(
    figures: Figures, score_TN: Tensor, member_TN: Tensor, scored_TN: Tensor, max_fprs: Sequence[float]
) -> dict[str, Any]:
    """Average precision, TPR at FPRs and precision at recalls, means over targets, with their limits.

    Args:
        figures: the means; see `mean_figures`.
        score_TN, member_TN, scored_TN, max_fprs: as for `target_figures`; each target has members and non-members.
    """
    observed = (score_TN, member_TN, scored_TN)
    return {
        "average_precision": _around(figures.average_precision, average_precision_interval(*observed)),
        "tpr_at_fpr": {
            key: _around(figures.tpr_at_fpr[key], mean_tpr_interval(*observed, max_fpr))
            for key, max_fpr in _by_key(max_fprs)
        },
        "precision_at_recall": {
            key: _around(figure, mean_precision_interval(*observed, float(key)))
            for key, figure in figures.precision_at_recall.items()
        },
    }


def pooled_tprs(score_TN: Tensor, member_TN: Tensor, scored_TN: Tensor, max_fprs: Sequence[float]) -> dict[str, Figure]:
    """TPR at FPRs with one threshold for all targets; arguments as for `target_figures`."""
    is_member_M = member_TN[scored_TN]
    n1 = int(is_member_M.sum())
    missing = missing_kind(n1, len(is_member_M) - n1)
    if missing:
        return {key: null(len(is_member_M), missing) for key, _ in _by_key(max_fprs)}
    figures = tpr_figures(roc(score_TN[scored_TN], is_member_M), max_fprs)
    return {
        key: _around(figures[key], pooled_tpr_interval(score_TN, member_TN, scored_TN, max_fpr))
        for key, max_fpr in _by_key(max_fprs)
    }


def _by_key(max_fprs: Sequence[float]) -> list[tuple[str, float]]:
    return [(f"{max_fpr:g}", max_fpr) for max_fpr in max_fprs]


def _around(figure: Figure, interval: Interval) -> Figure:
    """The figure with the limits; they hold it even where it is biased by more than they reach."""
    if figure.value is None:
        return figure
    if interval.low is None or interval.high is None:
        return limited(figure, interval)
    low, high = min(interval.low, figure.value), max(interval.high, figure.value)
    return limited(figure, Interval(low, high, interval.method))
