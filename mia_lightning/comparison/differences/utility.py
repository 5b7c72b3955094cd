"""Differences in what the targets are good for: beside those in what they leak."""

from collections.abc import Sequence

import torch

from mia_lightning.comparison.differences.matching import Axis, observed
from mia_lightning.comparison.differences.schema import FigureDifference
from mia_lightning.comparison.differences.sides import Side
from mia_lightning.metrics.figures import Figure, Interval, limited
from mia_lightning.metrics.intervals import rates
from mia_lightning.metrics.intervals.differences import Measured, difference_of_models, difference_of_recipes
from mia_lightning.metrics.intervals.influence import Influence, influence_of_shares
from mia_lightning.reports.rows import ACCURACY
from mia_lightning.reports.schema import AuditReport

RIGHT = "gap"  # the attack whose score says whether the target answers a record right
NOT_KEPT = f"none: which records a target answers right is kept by attack={RIGHT} alone, which was not run on both"
NO_SHARE = "none: {} is no share of records"


def utility_differences(
    sides: tuple[Side, Side], axis: Axis, starts: tuple[int, int], *, of_recipes: bool, same_targets: bool
) -> tuple[FigureDifference, ...]:
    """Test accuracy and generalisation gap, or the utility of another task.

    Args:
        starts: the numbers of the first run of either side on the axis.
        same_targets: see `difference_of_recipes`.
    """
    measured = [_measured(side, axis, start) for side, start in zip(sides, starts, strict=True)]
    is_kept = all(_is_kept(side) for side in sides)
    utility = sides[0].report.task.utility
    found = []
    for name, title in (("test_accuracy", f"test {utility}"), ("generalization_gap", "generalisation gap")):
        first, second = (each[name] for each in measured)
        values = first.figure.value, second.figure.value
        change = None
        if of_recipes and is_kept:
            change = difference_of_recipes([first], [second], same_targets=same_targets)
        elif not of_recipes and (is_kept or None not in (first.figure.low, second.figure.low)):
            change = difference_of_models([first], [second])
        value = None if None in values else (values[0] or 0.0) - (values[1] or 0.0)
        low, high = (None, None) if change is None else change.limits()
        missing = NOT_KEPT if utility == ACCURACY else NO_SHARE.format(utility)
        found.append(
            FigureDifference(
                figure=name,
                title=title,
                first=values[0],
                second=values[1],
                value=value,
                low=low,
                high=high,
                method=missing if change is None else change.method,
                verdict="not judged",
            )
        )
    return tuple(found)


def _measured(side: Side, axis: Axis, start: int) -> dict[str, Measured]:
    names = ("train_accuracy", "test_accuracy", "generalization_gap")
    figures = {name: Figure(value=_mean(side, name), n=0) for name in names}
    if side.num_targets == 1 and side.report.task.utility == ACCURACY:
        figures = _limited(side.report, figures)
    nothing_TN = torch.zeros(side.num_targets, axis.length, dtype=torch.float64)
    influences = dict.fromkeys(names, Influence(nothing_TN[:, 0], nothing_TN, NOT_KEPT))
    if _is_kept(side):
        seen = observed(side, {number: run.attacks[RIGHT].name for number, run in enumerate(side.runs)}, axis, start)
        influences = influence_of_shares(seen.score_TN > 0.5, seen)
    return {name: Measured(figures[name], influences[name]) for name in names}


def _limited(report: AuditReport, figures: dict[str, Figure]) -> dict[str, Figure]:
    """With the limits of shares of records, and of their difference."""
    target, n1, n0 = report.target, report.membership.num_members, report.membership.num_nonmembers
    right1, right0 = round(target.train_accuracy * n1), round(target.test_accuracy * n0)
    spans = {
        "train_accuracy": rates.wilson(right1, n1),
        "test_accuracy": rates.wilson(right0, n0),
        "generalization_gap": rates.difference(right1, n1, right0, n0, weight_1=1, weight_0=1),
    }
    return {name: limited(figures[name], Interval(*span.numbers(), "Wilson")) for name, span in spans.items()}


def _mean(side: Side, name: str) -> float:
    """Over all targets."""
    weights: Sequence[int] = [run.report.target.num_targets for run in side.runs]
    total = sum(getattr(run.report.target, name) * weight for run, weight in zip(side.runs, weights, strict=True))
    return float(total) / sum(weights)


def _is_kept(side: Side) -> bool:
    """Whether a utility is the share of the records that are answered right, and these are known."""
    return side.report.task.utility == ACCURACY and all(RIGHT in run.attacks for run in side.runs)
