"""A comparison on the terminal, and as CSV."""

from rich.console import Group
from rich.text import Text

from mia_lightning.comparison.schema import FIGURES, ComparisonReport
from mia_lightning.reports.cells import csv_of
from mia_lightning.reports.rows import ACCURACIES, with_limits
from mia_lightning.reports.words import show
from mia_lightning.terminal.tables import Columns

_SIGNS = {"holds": "✓", "does not hold": "✗", "undecided": "?", "not run": "–"}
_STYLES = {"holds": "green", "does not hold": "red", "undecided": "yellow", "not run": "dim"}


def render_comparison(report: ComparisonReport) -> Group:
    """A row for each variant and attack, and the statements below; fits 100 columns, says nothing by colour alone."""
    rows = []
    for variant in report.variants:
        for place, attack in enumerate(variant.attacks):
            target = (variant.train_accuracy, variant.test_accuracy)
            rows.append(
                [
                    *(variant.name if place == 0 else "", attack.name),
                    *(show(value) if place == 0 else "" for value in target),
                    *(show(getattr(attack, figure).value) for figure in FIGURES),
                ]
            )
    table = Columns(["variant", "attack", "train", "test", "accuracy", "precision", "recall", "AUC"], rows, 2)
    lines = [Text(f"{each.name}: not run: {each.skipped}", "yellow") for each in report.variants if each.skipped]
    lines += [Text(f"{each.name}: {each.doubt}", "yellow") for each in report.variants if each.doubt]
    for statement in report.statements:
        sign = f"{_SIGNS[statement.verdict]} {statement.verdict}: "
        lines.append(Text.assemble((sign, _STYLES[statement.verdict]), f"{statement.text} ({statement.detail})"))
    return Group(Text(report.title, "bold"), table, Text(), *lines)


def comparison_csv(report: ComparisonReport) -> bytes:
    """A row for each variant and attack."""
    of_variant = ["x", "dataset", "num_classes", "num_members", "num_nonmembers", "architecture", "shadow_source"]
    of_variant += ["num_shadows", "defense", "utility", *ACCURACIES, "doubt", "skipped"]
    every = [attack for variant in report.variants for attack in variant.attacks]
    rates = list(dict.fromkeys(rate for attack in every for rate in attack.tpr_at_fpr))
    columns = ["variant", *of_variant, "attack", "adaptive", *with_limits({}, FIGURES)]
    columns += [f"tpr_at_fpr_{rate}" for rate in rates]
    rows = []
    for variant in report.variants:
        shared = {"variant": variant.name, **{name: getattr(variant, name) for name in of_variant}}
        for attack in variant.attacks:
            row = {**shared, "attack": attack.name, "adaptive": attack.adaptive}
            row |= with_limits({figure: getattr(attack, figure) for figure in FIGURES}, FIGURES)
            rows.append(row | {f"tpr_at_fpr_{rate}": attack.tpr_at_fpr.get(rate) for rate in rates})
        if not variant.attacks:
            rows.append(shared)
    return csv_of(rows, columns)
