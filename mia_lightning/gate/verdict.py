"""The verdict of a gate on a report, and its sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mia_lightning.gate.figures import GatedAttack, gated_attack
from mia_lightning.reports.words import significant
from mia_lightning.run.gate import WORST, Gate
from mia_lightning.terminal.exit_codes import ABOVE, BELOW, UNDETERMINED

if TYPE_CHECKING:
    from mia_lightning.reports.schema import AuditReport

NUM_NAMED = 3  # attacks in a sentence; the verdict has all of them
LOW_FPR = 0.01  # below, the few equal records that a given split may have are many among those that may be flagged
Status = Literal["below", "above", "undetermined"]


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """What the gate says of a report; the report's `gate` section has the same content.

    Attributes:
        status, exit_code: `below`, 0; `above`, 3; `undetermined`, 4.
        sentence: the verdict in words.
        figure, limit, confidence, attack: of the gate.
        attacks: those that were judged.
        num_members, num_nonmembers: of one target.
        records_to_settle: of an undetermined gate, as in `GatedAttack`.
    """

    status: Status
    exit_code: int
    sentence: str
    figure: str
    limit: float
    confidence: float
    attack: str
    attacks: tuple[GatedAttack, ...]
    num_members: int
    num_nonmembers: int
    records_to_settle: int | None = None


def judge(report: "AuditReport", gate: Gate) -> GateVerdict:
    """The verdict on a report with scores.

    Several targets share records: their value and limits are means over them. The error of a mean is at most the mean
    of the errors, however they depend on each other.
    """
    names = [section.name for section in report.attacks]
    chosen = names if gate.attack == WORST else [gate.attack]
    confidence = 1 - (1 - gate.confidence) / len(chosen)
    attacks = tuple(gated_attack(report, name, gate, confidence) for name in chosen)
    doubt = _doubt(report, gate, _status(attacks, gate.limit))
    status: Status = "undetermined" if doubt else _status(attacks, gate.limit)
    exit_code = {"below": BELOW, "above": ABOVE, "undetermined": UNDETERMINED}[status]
    settle = _records_to_settle(attacks, gate.limit) if status == "undetermined" and not doubt else None
    return GateVerdict(
        status=status,
        exit_code=exit_code,
        sentence=doubt or _sentence(status, attacks, gate, settle),
        figure=gate.figure,
        limit=gate.limit,
        confidence=gate.confidence,
        attack=gate.attack,
        attacks=attacks,
        num_members=report.membership.num_members,
        num_nonmembers=report.membership.num_nonmembers,
        records_to_settle=settle,
    )


def _doubt(report: "AuditReport", gate: Gate, status: Status) -> str | None:
    """Why no figure settles the gate; None where they may."""
    trust = report.trust
    if trust.verdict in ("void", "unconfirmed"):
        said = "cannot be trusted" if trust.verdict == "void" else "could not be confirmed"
        likely = "" if trust.cause is None else f" Likely cause: {trust.cause}; {trust.mend}."
        return f"gate: undetermined: this audit {said}. {' '.join(trust.reasons)}{likely}"
    if report.understated is not None and status == "below":
        return f"gate: undetermined: the figures are below the limit, but they are no evidence. {report.understated}"
    membership = report.membership
    if (
        status == "below"
        and membership.plan == "given"
        and membership.duplicates_across_boundary
        and (gate.fpr is not None and gate.fpr < LOW_FPR)
    ):
        return (
            "gate: undetermined: the figures are below the limit, but they are no evidence. "
            f"{membership.duplicates_across_boundary:,} members also stand, value for value, among the non-members, "
            f"of which a {gate.figure} flags few; take these out of the non-members."
        )
    return None


def _status(attacks: Sequence[GatedAttack], limit: float) -> Status:
    if any(each.low > limit for each in attacks):
        return "above"
    return "below" if all(each.high < limit for each in attacks) else "undetermined"


def _records_to_settle(attacks: Sequence[GatedAttack], limit: float) -> int | None:
    """The number of records with which one attack would be above the limit, or else all attacks below it."""
    open_ones = [each for each in attacks if each.high >= limit]
    above = [each.records_to_settle for each in open_ones if each.value is not None and each.value > limit]
    settling = [n for n in above if n is not None]
    if above:
        return min(settling, default=None)
    needed = [each.records_to_settle for each in open_ones]
    return None if None in needed else max(n for n in needed if n is not None)


def _sentence(status: Status, attacks: Sequence[GatedAttack], gate: Gate, settle: int | None) -> str:
    held = f"{100 * gate.confidence:g} % confidence" + (" over all of them" if len(attacks) > 1 else "")
    if status == "below":
        tops = _largest([(each.high, f"{each.attack} at most {significant(each.high)}") for each in attacks])
        return (
            f"gate: passed: a limit of {gate.limit:g} on the {gate.figure} is not exceeded by these attacks with these "
            f"shadows ({tops}; {held})."
        )
    if status == "above":
        found = _largest([(each.low, _shown(each)) for each in attacks if each.low > gate.limit])
        return f"gate: failed: the limit of {gate.limit:g} on the {gate.figure} is exceeded ({found}; {held})."
    without = [f"{each.attack}: {each.reason}" for each in attacks if each.reason is not None]
    found = ", ".join(without) or _largest([(each.high, _shown(each)) for each in attacks if each.high >= gate.limit])
    mend = (
        f"about {settle:,} members and as many non-members would settle it"
        if settle is not None
        else "no number of records within reason would settle it"
    )
    return (
        f"gate: undetermined: whether the limit of {gate.limit:g} on the {gate.figure} is exceeded cannot be told "
        f"({found}; {held})" + ("." if without else f"; {mend}.")
    )


def _largest(told: Sequence[tuple[float, str]]) -> str:
    """What is told of the attacks of the largest limits, and how many more there are."""
    named = [text for _, text in sorted(told, key=lambda each: -each[0])[:NUM_NAMED]]
    return ", ".join(named) + (f" and {len(told) - NUM_NAMED} more" if len(told) > NUM_NAMED else "")


def _shown(each: GatedAttack) -> str:
    assert each.value is not None
    return f"{each.attack} {significant(each.value)} [{significant(each.low)}, {significant(each.high)}]"
