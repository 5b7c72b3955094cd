"""What a difference rests on, in words; and how differences look on a terminal."""

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from mia_lightning.comparison.differences.schema import (
    DifferenceReport,
    EqualUtilityReport,
    FigureDifference,
    PairDifference,
)
from mia_lightning.comparison.differences.sides import Side
from mia_lightning.comparison.differences.verdicts import change_of
from mia_lightning.metrics.intervals.influence import Observed
from mia_lightning.metrics.intervals.power import targets_needed
from mia_lightning.reports.words import show, signed
from mia_lightning.terminal.tables import Columns, Sentence

_VERDICTS = {
    "more": "the first leaks more",
    "less": "the first leaks less",
    "no larger": "no difference larger than {:g}",
    "undecided": "undecided",
    "not judged": "not judged",
}


def pairing(seen: Sequence[Observed], shared: int, *, same: bool, by: str) -> str:
    """What the intervals use of what the two sides share."""
    if not by:
        return "no record is known to be in both, so that the intervals are unpaired"
    if not shared:
        return "the two have no record in common, so that the intervals are unpaired"
    total = int((seen[0].scored_TN.any(0) | seen[1].scored_TN.any(0)).sum())
    members = ", with the same members in each target" if same else ", with other members"
    return f"paired over {shared:,} of {total:,} records that are evidence about both, matched by {by}{members}"


def notes_on(
    first: Side, second: Side, attack: str, chosen: FigureDifference, *, of_recipes: bool, spread: float
) -> tuple[str, ...]:
    """What else differs between the two, and what cannot be told of them."""
    notes = []
    one, two = first.report, second.report
    for what, values in (
        ("shadow models", (one.shadow.count, two.shadow.count)),
        ("source of shadow records", (one.shadow.source, two.shadow.source)),
        ("plan", (one.membership.plan, two.membership.plan)),
        ("members of a target", (one.membership.num_members, two.membership.num_members)),
    ):
        if values[0] != values[1]:
            notes.append(
                f"{what[0].upper()}{what[1:]} differ, {values[0]} and {values[1]}: a part of the difference may be "
                "the attackers', not the models'."
            )
    if one.dataset.fingerprint != two.dataset.fingerprint:
        notes.append(f"Both name their data {one.dataset.name}, but the records differ.")
    for side in (first, second):
        if side.understated and not side.void:
            notes.append(f"{side.name} may leak more than was found: {side.understated}")
    if not of_recipes:
        size = max(abs(chosen.value or 0.0), 0.005)
        needed = targets_needed(size, training=spread)
        number = "more than 4,096 targets" if needed is None else f"about {needed:,} targets"
        notes.append(
            "Whether the two recipes differ, beyond these models, is not told by so few targets: to see a difference "
            f"of {size:.3f} between trainings that vary by {spread:g} it takes {number} of each, by seed=0,1,2,... or "
            "target=leave_one_out."
        )
    if attack == "worst":
        notes.append("The figures are the largest over the attacks, and the limits hold for whichever attack that is.")
    return tuple(notes)


def render(report: DifferenceReport) -> Group:
    """For each pair the sentence, a table, and what it rests on."""
    parts: list[Sentence | Columns | Text] = []
    for pair in report.pairs:
        parts += [Text(), *_of_pair(pair, report.margin)] if parts else _of_pair(pair, report.margin)
    return Group(*parts, Sentence(f"Verdicts hold together, with 95 % confidence, over {report.family}."))


def render_equal_utility(report: EqualUtilityReport) -> Group:
    """The sentence, and where the curves were read."""
    rows = [
        [show(each.utility), show(each.first), show(each.second), signed(each.first - each.second)]
        for each in report.points
    ]
    heads = ["test accuracy", report.first, report.second, "difference"]
    table: list[Text | Columns] = [Text(), Columns(heads, rows, 0)] if rows else []
    strengths = (
        f"{name}: {', '.join(of)}." for name, of in zip((report.first, report.second), report.strengths, strict=True)
    )
    return Group(
        Sentence(report.sentence),
        *table,
        Text(),
        *(Sentence(each) for each in strengths),
        Sentence(f"AUC of {report.attack}, interpolated within each target; targets and records are redrawn together."),
    )


def _of_pair(pair: PairDifference, margin: float) -> list[Sentence | Columns | Text]:
    rows = [
        [each.title, show(each.first), show(each.second), change_of(each), _VERDICTS[each.verdict].format(margin)]
        for each in pair.differences
    ]
    rows += [[each.title, show(each.first), show(each.second), change_of(each), ""] for each in pair.utility]
    heads = ["", "the first", "the second", "difference [95 %]", "verdict"]
    reasons = dict.fromkeys(
        f"{each.title}: {each.method.removeprefix('none: ')}."
        for each in (*pair.differences, *pair.utility)
        if each.method.startswith("none")
    )
    estimand = {
        "models": "these trained models, other records of the same population",
        "recipes": "new trainings of both recipes on new records of the same population",
    }[pair.estimand]
    below = [
        f"The first is {pair.first}, the second {pair.second}; attack: {pair.attack}.",
        f"Intervals: {estimand}; {pair.pairing}.",
        *reasons,
        *pair.notes,
    ]
    return [Sentence(pair.sentence), Text(), Columns(heads, rows, 1), Text(), *(Sentence(each) for each in below)]
