"""The figures of an attack, as they stand in a report.

Higher scores mean "more likely a member" throughout; members are the positive class.
"""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

THESE_MODELS = "these trained models, other records of the same population"
OTHER_TRIALS = "other trainings on the same records, with the canary or without it"
NEW_TRAININGS = "new records of the same population and new trainings on them"


class Interval(NamedTuple):
    """Limits of a 95 % interval, null where there are none, and how they were found or why there are none."""

    low: float | None
    high: float | None
    method: str


class Figure(BaseModel):
    """One number with what it rests on.

    Attributes:
        value: the figure, or null where it is undefined.
        low, high: limits of its 95 % interval, what over being said beside the figures; a one-sided bound has one.
        n: the number of records that the figure is computed from, or would be were it defined.
        reason: why the value is null (one sentence), or a caution about the value; null otherwise.
        interval: how the limits were found, or why there are none; null where the value is.
        spread: standard deviation over targets, where the value is a mean over several; not an interval.
        false_positives: of the threshold behind a true-positive rate at a false-positive rate; null elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    reason: str | None = None
    interval: str | None = None
    spread: float | None = None
    false_positives: int | None = None


class Figures(BaseModel):
    """What an attack achieves against one group of records (all of them, or one class).

    Attributes:
        num_members, num_nonmembers: of the group, summed over targets.
        base_rate: share of members in the group: the precision of guessing; null for an empty group.
        precision: share of members among the flagged records, at the attack's own operating point.
        precision_balanced: the same re-weighted to one member for each non-member, TPR / (TPR + FPR):
            what may be compared between groups of different base rates.
        recall: share of the members that are flagged (TPR), at the same point.
        accuracy: share of records flagged if and only if they are members, at the same point.
        balanced_accuracy: (TPR + 1 - FPR) / 2 at the same point.
        advantage: TPR - FPR at the same point.
        ppv: by share of members ("0.01"): the precision that the same decisions would have at that share; with no
            false positive only a lower limit.
        auc: area under the ROC.
        average_precision: area under the precision/recall curve as a step function.
        tpr_at_fpr: by false-positive rate ("0.01"): the largest TPR of a threshold whose FPR is at most that; a mean
            over targets where there are several.
        tpr_at_fpr_pooled: the same with one threshold for the scores of all targets; empty for one target.
        precision_at_recall: by recall ("0.1"): precision at one member for each non-member of the highest threshold
            whose recall is at least that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_members: int
    num_nonmembers: int
    base_rate: float | None
    precision: Figure
    precision_balanced: Figure
    recall: Figure
    accuracy: Figure
    balanced_accuracy: Figure
    advantage: Figure
    ppv: dict[str, Figure]
    auc: Figure
    average_precision: Figure
    tpr_at_fpr: dict[str, Figure]
    tpr_at_fpr_pooled: dict[str, Figure] = {}
    precision_at_recall: dict[str, Figure]


def null(n: int, reason: str) -> Figure:
    """A figure that is undefined."""
    return Figure(value=None, n=n, reason=reason)


def limited(figure: Figure, interval: Interval) -> Figure:
    """The figure with the limits of its interval."""
    return figure.model_copy(update={"low": interval.low, "high": interval.high, "interval": interval.method})
