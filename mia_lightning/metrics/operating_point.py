"""The figures of an attack's own decisions: everything that follows from four counts."""

from collections.abc import Sequence
from typing import Any

from mia_lightning.metrics.figures import Figure, Interval, limited, null
from mia_lightning.metrics.intervals import rates

PRIORS = (0.01, 0.1)
EXACT = "Clopper-Pearson"
NEWCOMBE = "Newcombe, from both rates"
BOTH_RATES = "Donner-Zou, from the Clopper-Pearson limits of both rates"
NOTHING_FLAGGED = "the attack flagged no record"


def operating_point_figures(
    true_positives: int,
    false_positives: int,
    num_members: int,
    num_nonmembers: int,
    priors: Sequence[float] = PRIORS,
    *,
    intervals: bool = True,
) -> dict[str, Any]:
    """Recall, accuracies, advantage and precisions with their intervals, by the names of `Figures`.

    The threshold is fixed beforehand, so that both counts are binomial. Recall has the limits of Clopper and Pearson,
    accuracy, balanced accuracy and advantage those of Newcombe, precisions those of a ratio of two shares.

    Args:
        num_members, num_nonmembers: at least 1.
        intervals: False leaves them out.
    """
    n1, n0 = num_members, num_nonmembers
    n = n1 + n0
    flagged = true_positives + false_positives
    advantage = true_positives / n1 - false_positives / n0
    figures: dict[str, Any] = {
        "recall": Figure(value=true_positives / n1, n=n1),
        "accuracy": Figure(value=(true_positives + n0 - false_positives) / n, n=n),
        "balanced_accuracy": Figure(value=(1 + advantage) / 2, n=n),
        "advantage": Figure(value=advantage, n=n),
    }
    if not flagged:
        nothing = null(0, NOTHING_FLAGGED)
        figures |= {"precision": nothing, "precision_balanced": nothing}
        figures["ppv"] = {f"{prior:g}": nothing for prior in priors}
    else:
        # In integers, so that a balanced group has the same precision twice.
        found, alarms = true_positives * n0, false_positives * n1
        figures["precision"] = Figure(value=true_positives / flagged, n=flagged)
        figures["precision_balanced"] = Figure(value=found / (found + alarms), n=flagged)
        figures["ppv"] = {f"{prior:g}": _ppv(found, alarms, flagged, n0, prior) for prior in priors}
    if intervals:
        figures |= _limited(figures, (true_positives, n1, false_positives, n0), priors)
    return figures


def recall_figure(true_positives: int, num_members: int) -> Figure:
    """The share of members that are flagged."""
    limits = rates.clopper_pearson(true_positives, num_members).numbers()
    return limited(Figure(value=true_positives / num_members, n=num_members), Interval(*limits, EXACT))


def _ppv(found: int, alarms: int, flagged: int, num_nonmembers: int, prior: float) -> Figure:
    """Precision if a share `prior` were members; without a false positive nothing but a lower limit is known."""
    if not alarms:
        return null(flagged, f"no false positive among {num_nonmembers:,} non-members: it is at least the lower limit")
    return Figure(value=prior * found / (prior * found + (1 - prior) * alarms), n=flagged)


def _limited(figures: dict[str, Any], counts: tuple[int, int, int, int], priors: Sequence[float]) -> dict[str, Any]:
    """The same figures with their intervals."""
    true_positives, n1, false_positives, n0 = counts
    n = n1 + n0
    low, high = rates.difference(*counts, weight_1=1, weight_0=1).numbers()
    accurate = rates.difference(*counts, weight_1=n1 / n, weight_0=n0 / n).numbers()
    spans = {
        "accuracy": (n0 / n + accurate[0], n0 / n + accurate[1]),
        "balanced_accuracy": ((1 + low) / 2, (1 + high) / 2),
        "advantage": (low, high),
    }
    found: dict[str, Any] = {name: limited(figures[name], Interval(*span, NEWCOMBE)) for name, span in spans.items()}
    found["recall"] = recall_figure(true_positives, n1)
    if not true_positives + false_positives:
        return found
    for name, odds in (("precision", n0 / n1), ("precision_balanced", 1.0)):
        span = rates.precision(*counts, odds=odds).numbers()
        found[name] = limited(figures[name], Interval(*span, BOTH_RATES))
    found["ppv"] = {}
    for prior in priors:
        bottom, top = rates.precision(*counts, odds=(1 - prior) / prior).numbers()
        interval = Interval(bottom, top if false_positives else None, BOTH_RATES)
        found["ppv"][f"{prior:g}"] = limited(figures["ppv"][f"{prior:g}"], interval)
    return found
