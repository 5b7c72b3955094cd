"""A report on remedies in sentences and rows, for the terminal and the page."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from mia_lightning.remedies.schema import Difference, Leakage, RemedyReport, RemedyResult, Strength
from mia_lightning.reports.cells import csv_of
from mia_lightning.reports.words import NBSP, percent, show, signed
from mia_lightning.terminal.tables import Columns, Sentence

RATE = "0.01"  # the false-positive rate of the main table


def headline(report: RemedyReport) -> str:
    """What helps most at (nearly) the utility of doing nothing, or that nothing surely does."""
    price = f"at a price of at most {report.give_up:g} of {report.utility}"
    first = next((each for each in report.remedies if surely_helps(each)), None)
    if first is None or first.at_equal_utility is None:
        return f"No remedy surely lowers the AUC of the strongest attack {price}."
    at = first.at_equal_utility
    where = f"on the way to {at.strength}" if at.is_between else at.strength
    return (
        f"{first.name} helps most {price}: AUC {show(at.auc)} ({where}), {change(at.difference)} against doing nothing."
    )


def doubt(report: RemedyReport) -> str | None:
    """Why low figures are no evidence, which stands before all of them; None where they are."""
    return f"Leakage may be understated: {report.broken[0]}" if report.broken else None


def surely_helps(remedy: RemedyResult) -> bool:
    """Whether the limits of its AUC at equal utility are below doing nothing."""
    at = remedy.at_equal_utility
    return at is not None and at.difference.high is not None and at.difference.high < 0


def harmful(report: RemedyReport) -> list[Strength]:
    """Strengths that make members easier to tell, with 5 % over all strengths of all remedies together."""
    return [each for remedy in report.remedies for each in remedy.strengths if each.verdict == "leaks more"]


def harm_sentence(report: RemedyReport) -> str | None:
    """Which remedies make it worse; None where none surely does."""
    worse = [f"{each.description} (AUC {signed(_auc_change(each))})" for each in harmful(report)]
    return f"Worse than doing nothing: {', '.join(worse)}." if worse else None


def setting_sentence(report: RemedyReport) -> str:
    """How it was measured."""
    return (
        f"{report.num_models:,} models for each way of training ({report.architecture}, {report.num_members:,} records "
        f"of {report.dataset}, {report.epochs:,} epochs), each attacked with the others as shadow models by "
        f"{', '.join(report.attacks)}; the attacker knows the remedy."
    )


def limits_sentence(report: RemedyReport) -> str:
    """What the intervals are, and what the order is."""
    return (
        f"Beside each difference: {report.estimand}. AUC and TPR are those of the strongest attack, with limits for "
        "the largest over the attacks. Verdicts are adjusted for all strengths of all remedies (Holm). Remedies stand "
        "in the order of the least AUC along their curve at a price of at most "
        f"{report.give_up:g} of {report.utility}; the strength shown was chosen by these figures, which flatters it a "
        "little."
    )


def change(found: Difference | None, digits: int = 3) -> str:
    """A difference with its interval: "−0.140 [−0.170, −0.110]"."""
    if found is None:
        return show(None)
    if found.low is None or found.high is None:
        return signed(found.value, digits)
    return f"{signed(found.value, digits)} [{signed(found.low, digits)},{NBSP}{signed(found.high, digits)}]"


def rows_of(report: RemedyReport) -> Iterator[tuple[RemedyResult, Strength]]:
    """Each remedy that was measured, at its best strength."""
    for remedy in report.remedies:
        if remedy.best is not None:
            yield remedy, remedy.strengths[remedy.best]


def not_measured(report: RemedyReport) -> list[tuple[str, str]]:
    """What was not measured, and why: remedies that do not apply, and single strengths."""
    return [
        *((each.name, each.skipped) for each in report.remedies if each.skipped is not None),
        *(
            (strength.description, strength.skipped)
            for each in report.remedies
            if each.skipped is None
            for strength in each.strengths
            if strength.skipped is not None
        ),
    ]


def rates_of(report: RemedyReport) -> list[str]:
    """The false-positive rates at which doing nothing has a TPR."""
    return [rate for rate, each in report.nothing.tpr_at_fpr.items() if each.value is not None]


def render_remedies(report: RemedyReport) -> Group:
    """The table with a row for each remedy, and the sentences; says nothing by colour alone."""
    rates = [RATE] if RATE in rates_of(report) else []
    heads = ["remedy", f"test {report.utility}", "AUC", *(f"TPR at {percent(rate)} FPR" for rate in rates), ""]
    rows = [["doing nothing", show(report.nothing.utility), *_values(report.nothing, rates), ""]]
    rows += [
        [
            each.description,
            change(each.utility_difference),
            *(change(each_.difference) for each_ in _figures(each, rates)),
            each.verdict or "",
        ]
        for _, each in rows_of(report)
    ]
    said = [headline(report), harm_sentence(report), setting_sentence(report), limits_sentence(report)]
    doubted = doubt(report)
    return Group(
        Text("What would help", "bold"),
        *([] if doubted is None else [Sentence(doubted)]),
        Columns(heads, rows, 1),
        Text(),
        *(Sentence(each) for each in said if each is not None),
        *(Sentence(f"{name} was not measured: {reason}") for name, reason in not_measured(report)),
        *(Sentence(each) for each in report.notes),
    )


def _figures(strength: Strength, rates: Sequence[str]) -> list[Leakage]:
    assert strength.auc is not None
    return [strength.auc, *(strength.tpr_at_fpr[rate] for rate in rates)]


def _values(strength: Strength, rates: Sequence[str]) -> list[str]:
    return [show(each.value) for each in _figures(strength, rates)]


def _auc_change(strength: Strength) -> float:
    assert strength.auc is not None
    assert strength.auc.difference is not None
    return strength.auc.difference.value


def remedies_csv(report: RemedyReport) -> bytes:
    """A row for doing nothing and for each strength of each remedy."""
    rows = []
    for name, strength in [
        ("", report.nothing),
        *((each.name, strength) for each in report.remedies for strength in each.strengths),
    ]:
        row: dict[str, Any] = {
            "remedy": name,
            "strength": strength.description,
            "settings": " ".join(strength.settings),
        }
        row |= {"test_utility": strength.utility, "train_utility": strength.train_utility}
        row |= _with_limits("test_utility", strength.utility_difference)
        for figure, found in [("auc", strength.auc), *_rates(report, strength)]:
            row[figure] = None if found is None else found.value
            row[f"{figure}_attack"] = None if found is None else found.attack
            row |= _with_limits(figure, None if found is None else found.difference)
        rows.append(row | {"verdict": strength.verdict, "skipped": strength.skipped})
    return csv_of(rows)


def _rates(report: RemedyReport, strength: Strength) -> list[tuple[str, Leakage | None]]:
    return [(f"tpr_at_fpr_{rate}", strength.tpr_at_fpr.get(rate)) for rate in report.nothing.tpr_at_fpr]


def _with_limits(figure: str, found: Difference | None) -> dict[str, float | None]:
    values = (None, None, None) if found is None else (found.value, found.low, found.high)
    return dict(zip((f"{figure}_difference", f"{figure}_low", f"{figure}_high"), values, strict=True))
