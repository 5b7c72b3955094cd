"""The short summary that ends a run on the terminal."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mia_lightning.reports.findings import label, most_exposed, percent, show, strongest
from mia_lightning.reports.schema import AuditReport

NUM_EXPOSED = 3


def render_summary(report: AuditReport) -> Group:
    """A table with one row for each attack, a line on the target and one on the most exposed classes.

    Fits 80 columns and says nothing by colour alone; undefined figures are dashes.
    """
    rates = list(dict.fromkeys(fpr for attack in report.attacks for fpr in attack.overall.tpr_at_fpr))
    table = Table(title="Membership leakage", title_justify="left", title_style="bold", pad_edge=False, box=None)
    table.add_column("attack", overflow="fold")
    for name in ("precision", "recall", "accuracy", "AUC", *(f"TPR at\n{percent(fpr)} FPR" for fpr in rates)):
        table.add_column(name, justify="right", vertical="bottom")
    for attack in report.attacks:
        figures = attack.overall
        shown = [figures.precision, figures.recall, figures.accuracy, figures.auc]
        values = [figure.value for figure in shown]
        values += [figures.tpr_at_fpr[fpr].value if fpr in figures.tpr_at_fpr else None for fpr in rates]
        table.add_row(Text(label(attack)), *(show(value) for value in values))
    target = report.target
    lines = [
        Text(
            f"Target: train accuracy {target.train_accuracy:.3f}, test accuracy {target.test_accuracy:.3f}, "
            f"gap {target.generalization_gap:.3f}"
        )
    ]
    attack_shown = strongest(report)
    if attack_shown is not None:
        exposed = ", ".join(
            f"{group.class_name} {show(group.auc.value, 2)}" for group in most_exposed(attack_shown, NUM_EXPOSED)
        )
        if exposed:
            lines.append(Text(f"Most exposed classes (AUC of {label(attack_shown)}): {exposed}"))
    return Group(table, Text(), *lines)
