"""Flat views of a report: one row for each attack and class, one scalar for each headline figure."""

from typing import Any

from mia_lightning.reports.findings import FIGURE_NAMES, figures_by_name
from mia_lightning.reports.schema import AuditReport

Row = dict[str, Any]


def per_class_rows(report: AuditReport) -> list[Row]:
    """One row for each attack and class: who, how many, the target's accuracies, all figures, then the reasons.

    A figure that is undefined is None; `<figure>_reason` says why, and is None where nothing is to be said.
    All rows have the same columns, in the same order.
    """
    rates = dict.fromkeys(fpr for attack in report.attacks for fpr in attack.overall.tpr_at_fpr)
    names = [*FIGURE_NAMES, *(f"tpr_at_fpr_{fpr}" for fpr in rates)]
    target_class = {section.class_index: section for section in report.target.per_class}
    rows: list[Row] = []
    for attack in report.attacks:
        for group in attack.per_class:
            accuracies = target_class[group.class_index]
            figures = figures_by_name(group)
            row: Row = {
                "attack": attack.name,
                "defense": attack.defense,
                "adaptive": attack.adaptive,
                "class_index": group.class_index,
                "class_name": group.class_name,
                "num_members": group.num_members,
                "num_nonmembers": group.num_nonmembers,
                "base_rate": group.base_rate,
                "train_accuracy": accuracies.train_accuracy,
                "test_accuracy": accuracies.test_accuracy,
                "generalization_gap": accuracies.generalization_gap,
            }
            row |= {name: figures[name].value if name in figures else None for name in names}
            row |= {f"{name}_reason": figures[name].reason if name in figures else None for name in names}
            rows.append(row)
    return rows


def headline_scalars(report: AuditReport) -> dict[str, float]:
    """The figures by which runs are compared, under names that read like paths; undefined ones are left out.

    `leakage/<attack>/auc` and the other figures, `target/train_accuracy`, `target/test_accuracy` and
    `target/generalization_gap`. An output defence is part of the path: `leakage/<attack>/<defense>/auc`.
    """
    scalars = {
        "target/train_accuracy": report.target.train_accuracy,
        "target/test_accuracy": report.target.test_accuracy,
        "target/generalization_gap": report.target.generalization_gap,
    }
    for attack in report.attacks:
        parts = ["leakage", attack.name]
        if attack.defense is not None:
            parts.append(f"{attack.defense}_adaptive" if attack.adaptive else attack.defense)
        for name, figure in figures_by_name(attack.overall).items():
            if figure.value is not None:
                scalars["/".join([*parts, name])] = figure.value
    return scalars
