"""How an attack decides: at a threshold fixed beforehand, or at a learnt one, whose variation is known or not."""

from collections.abc import Sequence

FIXED, LEARNT = "fixed beforehand", "learnt"
TIED_SCORES = "none: scores are tied at the threshold that was learnt, which so has no standard error"
OWN_WAY = "none: the attack learns its threshold in a way of its own, and how that varies is not known"
CLASS_THRESHOLDS = "none: the thresholds of the classes were learnt, and how they vary is not known"
NETWORKS = "none: attack networks that targets share were learnt, and how their decisions vary is not known"
POPULATION = "none: decisions rest on one population for all targets, and how they vary with it is not known"


class LearntThreshold(float):
    """A threshold that would be another with other shadow models or records.

    Attributes:
        decision: `LEARNT` where it is a `smooth_threshold` of the scores, so that it can be learnt again without some
            of the models; else why the shares that are flagged have no interval over targets.
    """

    decision: str

    def __new__(cls, value: float, decision: str = LEARNT) -> "LearntThreshold":
        threshold = super().__new__(cls, value)
        threshold.decision = decision
        return threshold


def decision_of(thresholds: Sequence[float]) -> str:
    """How several targets are decided on, from the threshold of each fit: `FIXED`, `LEARNT`, or "none: " and a reason.

    Thresholds that are plain numbers are fixed where they are equal.
    """
    learnt = {each.decision for each in thresholds if isinstance(each, LearntThreshold)}
    reasons = sorted(learnt - {LEARNT})
    if reasons:
        return reasons[0]
    if not learnt:
        return FIXED if len(set(thresholds)) == 1 else OWN_WAY
    return LEARNT if all(isinstance(each, LearntThreshold) for each in thresholds) else OWN_WAY
