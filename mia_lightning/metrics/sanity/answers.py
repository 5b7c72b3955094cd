"""What a target and its shadow models answer, and what is found of the target."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Verdict = Literal["void", "unconfirmed", "sound", "not checked"]

ALPHA = 0.001  # of each rule


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """What one target answers for N records.

    Attributes:
        predicted_N: int64, the class of the largest probability.
        signal_N: float64, log probability of the record's own class.
        label_N: int64.
        member_N, nonmember_N: bool; the records that are in neither are no evidence.
        asked_N: bool, the records with an answer.
        class_names: C of them.
    """

    predicted_N: Array
    signal_N: Array
    label_N: Array
    member_N: Array
    nonmember_N: Array
    asked_N: Array
    class_names: tuple[str, ...]

    @property
    def is_right_N(self) -> Array:
        is_right_N: Array = self.predicted_N == self.label_N
        return is_right_N

    @property
    def scored_N(self) -> Array:
        return self.member_N | self.nonmember_N


@dataclass(frozen=True, eq=False, kw_only=True)
class Peers:
    """What K shadow models answer for the same records.

    Attributes:
        signal_KN: float64, log probability of the record's own class.
        is_right_KN: bool.
        out_KN: bool, the records that a model was not trained on.
    """

    signal_KN: Array
    is_right_KN: Array
    out_KN: Array

    def mean_out_N(self, value_KN: Array, *, without: int | None = None) -> Array:
        """The mean over the models that were not trained on a record; NaN where there is none."""
        out_KN = self.out_KN
        if without is not None:
            out_KN = out_KN.copy()
            out_KN[without] = False
        count_N = out_KN.sum(0)
        total_N = np.where(out_KN, value_KN, 0.0).sum(0)
        return np.where(count_N > 0, total_N / np.maximum(count_N, 1), np.nan)


@dataclass(frozen=True, eq=False, kw_only=True)
class Repair:
    """A change after which a wrong target might be right.

    Attributes:
        cause: what would be wrong, as the end of "Likely cause: …".
        mend: what to do about it, with the setting.
        answers: the target after it; None for a permutation of classes, which is found here.
        kind: `answers` are judged by accuracy, `order` by the ranks of the shadow models, too, `members` by the signal
            of the records whose membership changes.
        judged_N: bool, the records on which it can be judged.
    """

    cause: str
    mend: str
    answers: Answers
    kind: Literal["answers", "order", "members"] = "answers"
    judged_N: Array


@dataclass(frozen=True, kw_only=True)
class Sanity:
    """What was found of a target.

    Attributes:
        reasons: what speaks against it, in sentences; none for a sound one.
        cause, mend: the likely cause and what to do about it; None where they are not known.
        correlation: within classes, of the ranks of the target's and the shadow models' signals; None where it could
            not be judged.
        notes: which checks were not run, and why.
    """

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    cause: str | None = None
    mend: str | None = None
    correlation: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Found:
    """What the rules have found so far.

    Attributes:
        void, unconfirmed: reasons, in sentences.
        notes: which checks were not run, and why.
        causes: p-value, cause and mend.
    """

    void: list[str] = field(default_factory=list)
    unconfirmed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    causes: list[tuple[float, str, str]] = field(default_factory=list)

    def judged(self, correlation: float | None) -> Sanity:
        """The verdict by what was found, with the likeliest cause."""
        verdict: Verdict = "void" if self.void else "unconfirmed" if self.unconfirmed else "sound"
        _, cause, mend = min(self.causes, key=lambda each: each[0], default=(0.0, None, None))
        return Sanity(
            verdict=verdict,
            reasons=tuple(self.void or self.unconfirmed),
            cause=cause,
            mend=mend,
            correlation=correlation,
            notes=tuple(self.notes),
        )


def share(count: int, n: int) -> str:
    """In per cent, for sentences."""
    return f"{100 * count / n:.1f} %"
