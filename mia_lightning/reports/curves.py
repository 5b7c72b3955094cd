"""The curves of a report, thinned for drawing: of its scores, of figures over classes, and of training.

Curves of scores are exact step functions (tied scores move together, nothing is interpolated), given as polylines
that include the corners of the steps, so that whoever draws them joins the points by straight lines.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Any

import numpy as np
import torch

from mia_lightning.metrics.roc import Roc, roc
from mia_lightning.reports.scores import Scores, TrainingCurves

Array = np.ndarray[Any, np.dtype[np.float64]]
QUANTILES = (0.1, 0.5, 0.9)  # of a band


@dataclass(frozen=True, eq=False, kw_only=True)
class PrecisionRecallCurve:
    """Points `[F]` of one class (or of all records), recall rising.

    Thresholds at which the recall does not rise have no width in the step function behind average precision
    and are left out, but for the last, which flags everything.

    Attributes:
        recall: share of the members at or above the threshold.
        precision: share of members among the records at or above it.
        precision_balanced: the same at one member for each non-member, TPR / (TPR + FPR).
    """

    recall: Array
    precision: Array
    precision_balanced: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class AttackCurves:
    """The curves of one attack; a group of members or of non-members alone has none.

    Attributes:
        name: of the attack.
        false_positive_rate, true_positive_rate: the ROC over all records, `[F]`; None without a curve.
        num_nonmembers: behind the ROC; 1 / num_nonmembers is the smallest rate that can be seen.
        overall: precision and recall over all records.
        per_class: the same by class index.
    """

    name: str
    false_positive_rate: Array | None
    true_positive_rate: Array | None
    num_nonmembers: int
    overall: PrecisionRecallCurve | None
    per_class: dict[int, PrecisionRecallCurve]


@dataclass(frozen=True, eq=False, kw_only=True)
class Band:
    """Quantiles over the models still training, `[E]`, epochs counted from 0; an epoch without any is left out."""

    epoch: Array
    low: Array
    median: Array
    high: Array


def attack_curves(scores: Scores, name: str) -> AttackCurves:
    """The exact curves of attack `name`: every distinct score is a threshold, nothing is thinned.

    Raises:
        InputError: a score is NaN.
    """
    rows = scores.attack == name
    score, is_member = scores.score[rows], scores.is_member[rows]
    whole = _roc(score, is_member)
    per_class = {}
    for class_index in scores.classes:
        of_class = scores.of_class(class_index)[rows]
        curve = _precision_recall(_roc(score[of_class], is_member[of_class]))
        if curve is not None:
            per_class[class_index] = curve
    return AttackCurves(
        name=name,
        false_positive_rate=None if whole is None else whole.fpr_F.numpy(),
        true_positive_rate=None if whole is None else whole.tpr_F.numpy(),
        num_nonmembers=int((~is_member).sum()),
        overall=_precision_recall(whole),
        per_class=per_class,
    )


def _roc(score: Array, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Roc | None:
    if is_member.all() or not is_member.any():
        return None
    return roc(torch.from_numpy(score.copy()), torch.from_numpy(is_member.copy()))


def _precision_recall(curve: Roc | None) -> PrecisionRecallCurve | None:
    """Precision and recall from the counts of the ROC."""
    if curve is None:
        return None
    hits = curve.true_positives_F.numpy().astype(np.float64)
    alarms = curve.false_positives_F.numpy().astype(np.float64)
    rises = np.diff(hits, prepend=0) > 0
    rises[-1] = True
    hits, alarms = hits[rises], alarms[rises]
    true_positive_rate, false_positive_rate = hits / curve.num_members, alarms / curve.num_nonmembers
    return PrecisionRecallCurve(
        recall=true_positive_rate,
        precision=hits / (hits + alarms),
        precision_balanced=true_positive_rate / (true_positive_rate + false_positive_rate),
    )


def precision_line(curve: PrecisionRecallCurve, max_points: int = 200) -> tuple[Array, Array]:
    """Polyline (recall, precision at 1:1) of the step function behind average precision, thinned.

    The precision of a threshold holds from the recall of the threshold above it up to its own.
    """
    recall, precision = curve.recall, curve.precision_balanced
    start = np.concatenate([[0.0], recall[:-1]])
    x, y = _corners(start, recall), np.repeat(precision, 2)
    kept = simplify(x, y, max_points)
    return x[kept], y[kept]


def lowest_precision(curves: AttackCurves) -> float:
    """Where an axis of precision may begin: below all curves, a multiple of 0.1, at most 0.4."""
    drawn = [curve.precision_balanced.min() for curve in (curves.overall, *curves.per_class.values()) if curve]
    return min([0.4, *(floor(10 * float(lowest)) / 10 for lowest in drawn)])


def roc_line(curves: AttackCurves, edge: float, max_points: int = 300) -> tuple[Array, Array]:
    """Polyline (FPR, TPR) for logarithmic axes that begin at `edge`, thinned on both kinds of axes.

    The TPR of a threshold holds from its FPR up to that of the next, so the line reads as TPR at an FPR of at
    most x. Rates below `edge`, zero among them, are drawn there.
    """
    assert curves.false_positive_rate is not None
    assert curves.true_positive_rate is not None
    fpr, tpr = curves.false_positive_rate, curves.true_positive_rate
    x = np.repeat(fpr, 2)[1:]
    y = np.repeat(tpr, 2)[:-1]
    x, y = np.maximum(x, edge), np.maximum(y, edge)
    kept = np.union1d(simplify(x, y, max_points // 3), simplify(np.log(x), np.log(y), 2 * max_points // 3))
    return x[kept], y[kept]


def roc_edge(curves: Mapping[str, AttackCurves]) -> float:
    """Where logarithmic axes begin: half the rate of a single false positive."""
    return 0.5 / max(curve.num_nonmembers for curve in curves.values() if curve.num_nonmembers)


def precision_at_recalls(curve: PrecisionRecallCurve, recall_F: Array) -> Array:
    """The step function's precision at 1:1 for each recall in (0, 1]: `[F]`."""
    return curve.precision_balanced[np.searchsorted(curve.recall, recall_F - 1e-12, side="left")]


def distribution_line(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """The corners of the cumulative distribution as a line of steps: values, and the share of at most that."""
    ordered = sorted(values)
    xs, ys = [ordered[0]], [0.0]
    for place, value in enumerate(ordered, 1):
        xs += [value, value]
        ys += [ys[-1], place / len(ordered)]
    return [*xs, 1.0], [*ys, 1.0]


def bands(curves: TrainingCurves) -> dict[str, Band]:
    """`train_loss` and, where something was held out, `validation_loss`, each as a band; none without a finite loss."""
    named = {"train_loss": curves.train_loss_EK, "validation_loss": curves.validation_loss_EK}
    return {
        name: _band(loss_EK) for name, loss_EK in named.items() if loss_EK is not None and np.isfinite(loss_EK).any()
    }


def _band(loss_EK: Array) -> Band:
    finite_EK = np.where(np.isfinite(loss_EK), loss_EK, np.nan)
    epoch = np.flatnonzero(np.isfinite(finite_EK).any(axis=1))
    low, median, high = np.nanquantile(finite_EK[epoch], QUANTILES, axis=1)
    return Band(epoch=epoch.astype(np.float64), low=low, median=median, high=high)


def simplify(x: Array, y: Array, max_points: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Indices, rising, of at most `max_points` points of a polyline that keep its drawn shape.

    The ends are kept; then, again and again, the point farthest (vertically and horizontally scaled to the
    extent of the line) from the line drawn so far, until the distance cannot be seen (0.1 % of the extent).
    Source: the Ramer-Douglas-Peucker algorithm, in order of distance instead of by recursion.
    """
    assert max_points >= 2
    if len(x) <= 2:
        return np.arange(len(x))
    horizontal, vertical = _unit(x), _unit(y)
    last = len(x) - 1
    kept = [0, last]
    queue = [_farthest(horizontal, vertical, 0, last)]
    while queue and len(kept) < max_points:
        distance, middle, first, end = heapq.heappop(queue)
        if -distance < 1e-3:
            break
        kept.append(middle)
        for low, high in ((first, middle), (middle, end)):
            if high - low > 1:
                heapq.heappush(queue, _farthest(horizontal, vertical, low, high))
    return np.sort(np.array(kept))


def _farthest(x: Array, y: Array, first: int, last: int) -> tuple[float, int, int, int]:
    """Minus the largest distance of the points between from the segment, and where it is."""
    dx, dy = x[last] - x[first], y[last] - y[first]
    inner_x, inner_y = x[first + 1 : last] - x[first], y[first + 1 : last] - y[first]
    length = dx * dx + dy * dy
    along = np.clip((inner_x * dx + inner_y * dy) / length, 0, 1) if length > 0 else np.zeros_like(inner_x)
    distance = np.hypot(inner_x - along * dx, inner_y - along * dy)
    at = int(distance.argmax())
    return -float(distance[at]), first + 1 + at, first, last


def _corners(start: Array, end: Array) -> Array:
    return np.stack([start, end], axis=1).reshape(-1)


def _unit(values: Array) -> Array:
    extent = float(values.max() - values.min())
    return (values - values.min()) / extent if extent > 0 else np.zeros_like(values)
