"""A report as Markdown, short enough for the comment on a pull request."""

import re
from collections.abc import Sequence

from mia_lightning.reports.schema import AuditReport
from mia_lightning.reports.sections.signed import advice, exposed_sentences, gate_sentence, subtitle
from mia_lightning.reports.sections.structure import structure_sentences
from mia_lightning.reports.sections.trust import trust_warnings
from mia_lightning.reports.selection import by_strength
from mia_lightning.reports.sentences import headline
from mia_lightning.reports.words import about, label, percent, show, shown


def report_markdown(report: AuditReport) -> str:
    """Headline, gate, warnings and a row for each attack, the strongest first."""
    rates = [rate for rate in ("0.01", "0.001") if any(_has(each.overall.tpr_at_fpr, rate) for each in report.attacks)]
    heads = ["attack", "AUC", *(f"TPR at {percent(rate)} FPR" for rate in rates), "precision", "recall"]
    rows = []
    for attack in by_strength(report):
        figures = attack.overall
        rates_of = [figures.tpr_at_fpr.get(rate) for rate in rates]
        found = [figures.auc, *rates_of, figures.precision, figures.recall]
        rows.append([label(attack), *("–" if each is None else shown(each) for each in found)])
    target, utility = report.target, report.task.utility
    # The first warnings are those that the headline and the gate speak of.
    warnings = list(dict.fromkeys([*trust_warnings(report.trust), *report.warnings]))
    lines = [
        f"## {markdown(report.about.title or 'Membership inference audit')}: {markdown(headline(report))}",
        markdown(subtitle(report)),
        f"**{markdown(gate_sentence(report))}**" if report.gate is not None else "",
        "\n".join(f"> [!WARNING]\n> {markdown(each)}\n" for each in warnings),
        markdown_table(heads, rows, 1),
        f"Target: train {utility} {show(target.train_accuracy)}, test {utility} {show(target.test_accuracy)}, "
        f"gap {show(target.generalization_gap)}.",
        "\n".join(f"- {markdown(each)}" for each in structure_sentences(report.structure, report.dataset.values)),
        *(f"{heading[:1].upper()}{heading[1:]}: {markdown(said)}" for heading, said in exposed_sentences(report)),
        "\n".join(f"- {markdown(each)}" for each in advice(report)),
        f"Brackets are 95 % intervals for {' and '.join(dict.fromkeys(map(about, report.attacks)))}."
        if report.attacks
        else "",
    ]
    return "\n\n".join(line.rstrip() for line in lines if line) + "\n"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], num_names: int) -> str:
    """A table, the first columns on the left, the others on the right; cells are text."""
    lines = [heads, ["---" if place < num_names else "---:" for place in range(len(heads))], *rows]
    return "\n".join(f"| {' | '.join(map(markdown, cells))} |" for cells in lines)


def markdown(text: str) -> str:
    """Text in one line that Markdown shows as it is, but for code between backticks."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(
        part.replace("|", "\\|")
        if place % 2
        else re.sub(r"(?<!\w)_|_(?!\w)|[\\<|*`~]|(?<=\])(?=[(\[])|(?<!\w)@(?=\w)", _escaped, part)
        for place, part in enumerate(parts)
    )


def _escaped(found: re.Match[str]) -> str:
    return f"{found[0]}\u200b" if found[0] in ("", "@") else f"\\{found[0]}"


def _has(figures: object, rate: str) -> bool:
    return isinstance(figures, dict) and rate in figures and figures[rate].value is not None
