"""The gated figure of an attack, its confidence limits, and the number of records that would settle the gate."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mia_lightning.reports.words import significant
from mia_lightning.run.gate import Gate

if TYPE_CHECKING:
    from mia_lightning.reports.schema import AuditReport

Interval = tuple[float, float]

_MOST_RECORDS = 10**9


@dataclass(frozen=True, kw_only=True)
class GatedAttack:
    """The gated figure of one attack.

    Attributes:
        value: of the figure, the mean over targets; None where it cannot be judged.
        low, high: its confidence limits, corrected for the number of attacks.
        records_to_settle: the number of members, and of non-members, with which the limits would exclude the limit of
            the gate at the same rates; None where they exclude it already, or where no reasonable number would do.
        reason: why there is no value; None where there is one.
    """

    attack: str
    value: float | None
    low: float
    high: float
    records_to_settle: int | None = None
    reason: str | None = None


def gated_attack(report: "AuditReport", name: str, gate: Gate, confidence: float) -> GatedAttack:
    """The figure of one attack with its limits at `confidence`; without a value where it cannot be judged."""
    import numpy as np

    def unjudged(reason: str) -> GatedAttack:
        lowest = -1.0 if gate.metric == "advantage" else 0.0
        return GatedAttack(attack=name, value=None, low=lowest, high=1.0, reason=reason)

    scores = report.scores
    assert scores is not None, "a report that was read back has no scores"
    rows = scores.attack == name
    if not rows.any():
        return unjudged("it was not run")
    if np.isnan(scores.score[rows]).any():
        return unjudged("some of its scores are not numbers")
    values, sizes, limits_at, reachable = [], [], [], []
    for target in np.unique(scores.target[rows]):
        of_target = rows & (scores.target == target)
        is_member = scores.is_member[of_target]
        size = int(is_member.sum()), int((~is_member).sum())
        if min(size) == 0:
            return unjudged("a target has no members or no non-members")
        value, limits = _figure(scores.score[of_target], is_member, scores.is_flagged[of_target], gate, confidence)
        values.append(value)
        sizes.append(size)
        limits_at.append(limits)
        if gate.metric == "advantage":
            reachable.append(_reachable_advantage(scores.score[of_target], is_member, confidence))

    def mean_limits(n1: int | None = None, n0: int | None = None) -> Interval:
        pairs = [
            limits(own[0] if n1 is None else n1, own[1] if n0 is None else n0)
            for limits, own in zip(limits_at, sizes, strict=True)
        ]
        return sum(pair[0] for pair in pairs) / len(pairs), sum(pair[1] for pair in pairs) / len(pairs)

    low, high = mean_limits()
    if reachable and high < gate.limit <= (reached := sum(reachable) / len(reachable)):
        return unjudged(
            f"its own threshold does not suit this target: there its advantage is at most {significant(high)}, and at "
            f"another threshold of its scores at least {significant(reached)}"
        )
    settle = None
    if low <= gate.limit <= high:
        settle = _smallest(lambda n: _excludes(mean_limits(n, n), gate.limit), start=min(min(size) for size in sizes))
    return GatedAttack(attack=name, value=sum(values) / len(values), low=low, high=high, records_to_settle=settle)


def _figure(
    score: Any, is_member: Any, is_flagged: Any, gate: Gate, confidence: float
) -> tuple[float, Callable[[int, int], Interval]]:
    """The figure of one target, and its limits as a function of the numbers of members and non-members."""
    from mia_lightning.metrics.intervals import limits

    if gate.metric == "advantage":
        advantage = float(is_flagged[is_member].mean() - is_flagged[~is_member].mean())
        return advantage, lambda n1, n0: limits.advantage_limits(advantage, n1, n0, confidence)
    if gate.metric == "auc":
        area = limits.area_under_curve(score, is_member)
        return area, lambda n1, n0: limits.auc_limits(area, n1, n0, confidence)
    fpr = gate.fpr
    assert fpr is not None
    caught_F = limits.caught(score, is_member)
    allowed = math.floor(fpr * (len(caught_F) - 1) * (1 + 1e-12))
    return float(caught_F[allowed]), lambda n1, n0: limits.tpr_at_fpr_limits(caught_F, n1, n0, fpr, confidence)


def _reachable_advantage(score: Any, is_member: Any, confidence: float) -> float:
    """The least advantage that the best threshold of the scores has, by the lower limit of the AUC.

    If no threshold has an advantage above J, the ROC lies below the smaller of 1 and FPR + J, and the area below that
    is 1/2 + J − J²/2. So J is at least 1 − √(2 (1 − AUC)).
    """
    from mia_lightning.metrics.intervals import limits

    sizes = int(is_member.sum()), int((~is_member).sum())
    low, _ = limits.auc_limits(limits.area_under_curve(score, is_member), *sizes, confidence)
    return 1 - math.sqrt(2 * (1 - low))


def _excludes(interval: Interval, limit: float) -> bool:
    return interval[1] < limit or interval[0] > limit


def _smallest(settles: Callable[[int], bool], *, start: int) -> int | None:
    """Roughly the smallest number from `start` on that settles, rounded up to two digits; None where none does."""
    high = max(1, start)
    while not settles(high):
        if high > _MOST_RECORDS:
            return None
        high *= 2
    low = max(0, high // 2)
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if settles(middle) else (middle, high)
    unit: int = 10 ** max(0, len(str(high)) - 2)
    return -(-high // unit) * unit
