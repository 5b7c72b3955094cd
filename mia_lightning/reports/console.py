"""The short summary that ends a run on the terminal."""

import re

from rich.console import Group
from rich.text import Text

from mia_lightning.metrics.figures import Figure
from mia_lightning.reports.schema import AttackSection, AuditReport, ClassFigures, ConvergenceSection
from mia_lightning.reports.sections.trust import trust_warnings
from mia_lightning.reports.selection import has_trials, most_exposed, strongest
from mia_lightning.reports.sentences import headline, privacy_sentences
from mia_lightning.reports.words import about, bracket, label, percent, show, signed
from mia_lightning.terminal.tables import Columns, Sentence

NUM_EXPOSED = 3
SHORT_NAME = 13  # of an attack: leaves room for intervals beside figures


def render_summary(report: AuditReport) -> Group:
    """The headline over a table with a row for each attack; below it intervals, the target and the exposed classes.

    Why low figures are no evidence, if they are none, stands before all else. Fits 80 columns and says nothing by
    colour alone; undefined figures are dashes. Where there is no room for an interval beside its figure it stands
    below. FPRs at which no attack has a TPR are left out beyond the first two.
    """
    rates = list(dict.fromkeys(fpr for attack in report.attacks for fpr in attack.overall.tpr_at_fpr))
    rates = rates[:2] + [rate for rate in rates[2:] if any(_tpr(attack, rate) for attack in report.attacks)]
    longest = max((len(label(attack)) for attack in report.attacks), default=0)
    # Where members and non-members differ in number, precision and accuracy are balanced.
    is_even = all(attack.overall.num_members == attack.overall.num_nonmembers for attack in report.attacks)
    at_even = "" if is_even else "\nat 1:1"
    heads = [
        *("attack", f"precision{at_even}", "recall", f"accuracy{at_even}", "AUC"),
        *(f"TPR at\n{percent(fpr)} FPR" for fpr in rates),
    ]
    rows = []
    for attack in report.attacks:
        figures = attack.overall
        decided = (figures.precision_balanced, figures.recall, figures.balanced_accuracy)
        ranked = [figures.auc, *(figures.tpr_at_fpr.get(fpr) for fpr in rates)]
        gap = " " if longest <= SHORT_NAME else "\n"
        rows.append(
            [
                label(attack),
                *(show(figure.value) for figure in decided),
                *(_cell(figure, gap) for figure in ranked),
            ]
        )
    table = Columns(heads, rows, 1)
    top = [Sentence(each) for each in dict.fromkeys([*trust_warnings(report.trust), *report.broken])]
    lines = (Sentence(line) for line in _lines(report))
    return Group(*top, *([Text()] if top else []), Text(headline(report), "bold"), table, Text(), *lines)


def _lines(report: AuditReport) -> list[str]:
    lines = [
        f"Brackets: 95\u00a0% intervals for {estimand}."
        for estimand in dict.fromkeys(about(attack) for attack in report.attacks if bracket(attack.overall.auc))
    ]
    if any(attack.num_targets > 1 for attack in report.attacks):
        spreads = [(label(attack), attack.overall.auc.spread) for attack in report.attacks]
        shown = ", ".join(f"{name} {show(spread)}" for name, spread in spreads if spread is not None)
        lines.append(
            f"Figures are means over {report.target.num_targets:,} targets; SD of the AUC over targets: {shown}"
        )
    target, utility = report.target, report.task.utility
    lines.append(
        f"Target: train {utility} {show(target.train_accuracy)}, test {utility} {show(target.test_accuracy)}, "
        f"gap {show(target.generalization_gap)}"
    )
    if report.run.store:
        made = ", ".join(
            f"{role} {one.found:,} found, {one.trained:,} trained" for role, one in report.run.store.items()
        )
        lines.append(f"Models found in the store, or trained: {made}")
    converging = [(label(each), each.convergence) for each in report.attacks if each.convergence is not None]
    if converging:
        told = "; ".join(f"{name} {_rises(found)}" for name, found in converging)
        lines.append(f"Would more shadow models help? {told}")
    if report.privacy is not None:
        lines += privacy_sentences(report.privacy)
    attack = strongest(report)
    groups = [] if attack is None or has_trials(report) else most_exposed(attack, NUM_EXPOSED)
    if attack is not None and groups:
        at_once = ", simultaneous intervals" if any(map(_simultaneous, groups)) else ""
        order = ", largest lower limit first" if at_once else ""
        exposed = "; ".join(
            f"{group.class_name}: {show(group.auc.value, 2)} {_simultaneous(group)}".rstrip() for group in groups
        )
        lines.append(f"Most exposed {report.task.strata_name} (AUC of {label(attack)}{at_once}{order}): {exposed}")
    return lines


def _rises(found: ConvergenceSection) -> str:
    if found.verdict is None or found.gain is None:
        return f"without a verdict ({found.reason})"
    return f"{found.verdict} (AUC {signed(found.gain)} from half of them to all)"


def _cell(figure: Figure | None, gap: str) -> str:
    """Value and interval, which may break between the two alone; the interval without leading zeros."""
    if figure is None:
        return show(None)
    short = re.sub(r"(?<=[\[,])0(?=\.)", "", bracket(figure).replace("\u00a0", "")).replace("1.000", "1.00")
    return f"{show(figure.value)}{gap}{short}".rstrip()


def _simultaneous(group: ClassFigures) -> str:
    return "" if group.auc_simultaneous is None else bracket(group.auc_simultaneous, 2)


def _tpr(attack: AttackSection, rate: str) -> bool:
    return rate in attack.overall.tpr_at_fpr and attack.overall.tpr_at_fpr[rate].value is not None
