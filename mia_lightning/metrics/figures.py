"""The figures of an attack, as they stand in a report.

Higher scores mean "more likely a member" throughout; members are the positive class.
"""

from pydantic import BaseModel, ConfigDict


class Figure(BaseModel):
    """One number with what it rests on.

    Attributes:
        value: the figure, or null where it is undefined.
        low, high: limits of its 95 % interval; null as long as no interval is computed.
        n: the number of records that the figure is computed from, or would be were it defined.
        reason: why the value is null (one sentence), or a caution about the value; null otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    reason: str | None = None


class Figures(BaseModel):
    """What an attack achieves against one group of records (all of them, or one class).

    Attributes:
        num_members, num_nonmembers: of the group, summed over targets.
        base_rate: share of members in the group: the precision of guessing; null for an empty group.
        precision: share of members among the flagged records, at the attack's own operating point.
        precision_balanced: the same re-weighted to one member for each non-member, TPR / (TPR + FPR):
            what may be compared between groups of different base rates.
        recall: share of the members that are flagged, at the same point.
        accuracy: share of records flagged if and only if they are members, at the same point.
        auc: area under the ROC.
        average_precision: area under the precision/recall curve as a step function.
        tpr_at_fpr: by false-positive rate ("0.01"): the largest TPR of a threshold whose FPR is at most that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_members: int
    num_nonmembers: int
    base_rate: float | None
    precision: Figure
    precision_balanced: Figure
    recall: Figure
    accuracy: Figure
    auc: Figure
    average_precision: Figure
    tpr_at_fpr: dict[str, Figure]
