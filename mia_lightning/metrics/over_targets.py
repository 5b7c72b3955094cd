"""The figures of an attack over several targets."""

from collections.abc import Sequence
from math import fsum

from mia_lightning.errors import InputError
from mia_lightning.metrics.figures import Figure, Figures

_FIGURE_NAMES = ("precision", "precision_balanced", "recall", "accuracy", "auc", "average_precision")


def mean_figures(figures: Sequence[Figures]) -> Figures:
    """The figures of an attack over several targets; those of a single target are returned as they are.

    Each value is the mean over the targets for which it is defined, its `n` the sum over these (over all,
    where it is defined for none); `reason` says for how many targets it is missing, and keeps one caution.
    Counts are summed, and the base rate is that of the sums. Intervals are not averaged: `low` and `high` are
    null.

    Raises:
        InputError: no figures, or false-positive rates that differ between the targets.
    """
    if not figures:
        raise InputError("`figures` is empty; a mean needs at least one target.")
    first = figures[0]
    if len(figures) == 1:
        return first
    for other in figures:
        if other.tpr_at_fpr.keys() != first.tpr_at_fpr.keys():
            raise InputError(
                f"the targets have TPRs at the FPRs {list(first.tpr_at_fpr)} and {list(other.tpr_at_fpr)}; "
                "they must be evaluated at the same rates."
            )
    n1 = sum(each.num_members for each in figures)
    n0 = sum(each.num_nonmembers for each in figures)
    return Figures(
        num_members=n1,
        num_nonmembers=n0,
        base_rate=n1 / (n1 + n0) if n1 + n0 else None,
        tpr_at_fpr={key: _mean([each.tpr_at_fpr[key] for each in figures]) for key in first.tpr_at_fpr},
        **{name: _mean([getattr(each, name) for each in figures]) for name in _FIGURE_NAMES},
    )


def _mean(figures: Sequence[Figure]) -> Figure:
    total = len(figures)
    values = [each.value for each in figures if each.value is not None]
    missing = [each.reason or "no reason given" for each in figures if each.value is None]
    cautions = [each.reason for each in figures if each.value is not None and each.reason]
    if not values:
        same = len(set(missing)) == 1
        reason = missing[0] if same else f"defined for none of {total} targets, for the first because {missing[0]}"
        return Figure(value=None, n=sum(each.n for each in figures), reason=reason)
    notes = []
    if missing:
        notes.append(f"the mean over the {len(values)} of {total} targets for which it is defined ({missing[0]})")
    if cautions:
        same = len(cautions) == total and len(set(cautions)) == 1
        notes.append(cautions[0] if same else f"for {len(cautions)} of {total} targets such as: {cautions[0]}")
    n = sum(each.n for each in figures if each.value is not None)
    return Figure(value=fsum(values) / len(values), n=n, reason="; ".join(notes) or None)
