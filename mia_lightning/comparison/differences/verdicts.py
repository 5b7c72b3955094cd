"""Verdicts on differences, and what would decide those that are open."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from mia_lightning.comparison.differences.schema import FigureDifference, Judgement
from mia_lightning.comparison.differences.sides import Side
from mia_lightning.metrics.intervals.differences import ERROR, Difference
from mia_lightning.metrics.intervals.influence import Observed
from mia_lightning.reports.words import NBSP, signed, title

_MOST_RECORDS = 10**8


@dataclass(frozen=True, eq=False, kw_only=True)
class Asked:
    """What a verdict depends on beside the difference.

    Attributes:
        margin: what counts as no difference.
        count: of the differences in the family.
        of_recipes: whether other trainings are counted in.
    """

    first: Side
    second: Side
    margin: float
    count: int
    of_recipes: bool
    seen: tuple[Observed, Observed]

    @property
    def num_members(self) -> int:
        """Of a target of the side with the fewest."""
        return min(int(each.inside_TN.sum(1).min()) for each in self.seen)


def family_of(changes: Sequence[Difference], num_pairs: int) -> str:
    """Over which verdicts hold together, in words."""
    pairs = "" if num_pairs == 1 else f" of {num_pairs} pairs of runs"
    return (
        f"the {len(changes)} differences in leakage{pairs} that have an interval: Holm for verdicts, Bonferroni for "
        "intervals that hold at once"
    )


def judged(
    name: str, values: tuple[float | None, float | None], change: Difference, adjusted: float | None, asked: Asked
) -> FigureDifference:
    """A difference with its verdict."""
    low, high = change.limits()
    bottom, top = change.limits(ERROR / max(1, asked.count))
    verdict = _verdict(change, adjusted, (bottom, top), asked)
    return FigureDifference(
        figure=name,
        title=title(name),
        first=values[0],
        second=values[1],
        value=change.value if isfinite(change.value) else None,
        low=low,
        high=high,
        low_at_once=bottom,
        high_at_once=top,
        method=change.method,
        p=change.p if change.has_limits else None,
        p_adjusted=adjusted,
        verdict=verdict,
        settled_by=_settled_by(change, asked) if verdict == "undecided" else None,
    )


def _verdict(
    change: Difference, adjusted: float | None, at_once: tuple[float | None, float | None], asked: Asked
) -> Judgement:
    low, high = at_once
    if asked.first.void or asked.second.void or adjusted is None or low is None or high is None:
        return "not judged"
    if adjusted <= ERROR:
        lower = asked.first if change.value < 0 else asked.second
        if lower.understated:  # what was found of it is too little, perhaps
            return "not judged"
        return "more" if change.value > 0 else "less"
    if -asked.margin < low and high < asked.margin:
        return "not judged" if asked.first.understated or asked.second.understated else "no larger"
    return "undecided"


def _settled_by(change: Difference, asked: Asked) -> str | None:
    """The smallest of what would decide it, at the same values: as a difference, or as none larger than the margin."""
    error = ERROR / max(1, asked.count)
    away, within = abs(change.value), asked.margin - abs(change.value)
    if asked.of_recipes:
        counts = [change.targets_to_settle(distance, error) for distance in (away, within) if distance > 0]
        found = [count for count in counts if count is not None]
        return f"about {min(found):,} targets of each" if found else "more records, not more targets"
    factors = [change.factor_to_settle(away, error), change.factor_to_settle(within, error)]
    members = [asked.num_members * factor for factor in factors if isfinite(factor)]
    if not members or min(members) > _MOST_RECORDS:
        return None
    return f"about {_rounded(min(members)):,} members and as many non-members"


def pair_sentence(chosen: FigureDifference, asked: Asked) -> str:
    """The verdict in one sentence, with its interval."""
    first, second = asked.first.name, asked.second.name
    figures = f"{chosen.title} {change_of(chosen)}"
    about = "other trainings of both recipes" if asked.of_recipes else "these two models"
    if chosen.verdict in ("more", "less"):
        return f"{first} leaks {chosen.verdict} than {second}: {figures}, for {about}."
    if chosen.verdict == "no larger":
        return (
            f"{first} and {second} differ by no more than {asked.margin:g} in {chosen.title}: {figures}, for {about}."
        )
    if chosen.verdict == "undecided":
        settle = f"; {chosen.settled_by} would decide it" if chosen.settled_by else ""
        return f"Whether {first} leaks more than {second} is undecided: {figures}, for {about}{settle}."
    void = asked.first.void or asked.second.void
    if void:
        return f"{first} and {second} cannot be compared: the audit of {void}."
    if chosen.low is None:
        return f"Whether {first} leaks more than {second} cannot be told: {figures} ({chosen.method})."
    side = next(each for each in (asked.first, asked.second) if each.understated)
    return f"{figures} between {first} and {second} is no evidence: {side.name} may leak more than was found."


def change_of(each: FigureDifference, digits: int = 3) -> str:
    """The difference with its interval: "+0.031 [+0.010, +0.052]"."""
    if each.value is None:
        return "–"
    value = signed(each.value, digits)
    if each.low is None or each.high is None:
        return value
    return f"{value} [{signed(each.low, digits)},{NBSP}{signed(each.high, digits)}]"


def _rounded(count: float) -> int:
    """Up, to two digits."""
    whole = int(count) + 1
    unit: int = 10 ** max(0, len(str(whole)) - 2)
    return -(-whole // unit) * unit
