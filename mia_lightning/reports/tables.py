"""Flat views of a report: one row for each attack and class (or group), one scalar for each headline figure."""

from collections.abc import Sequence
from typing import Any

from mia_lightning.reports.findings import figures_by_name
from mia_lightning.reports.schema import (
    AttackSection,
    AuditReport,
    ClassFigures,
    GroupFigures,
    TargetClass,
    TargetGroup,
)

Row = dict[str, Any]
# Figures by whose intervals runs are compared.
_WITH_LIMITS = ("auc", "tpr_at_fpr_")


def per_class_rows(report: AuditReport) -> list[Row]:
    """One row for each attack and class: who, how many, the target's accuracies, all figures, then the reasons.

    A figure that is undefined is None; `<figure>_low` and `<figure>_high` are the limits of its interval, and
    `<figure>_reason` says why it is undefined: each is None where there is nothing to be said. `auc_simultaneous_low`
    and `_high` hold for all classes at once. All rows have the same columns, in the same order.
    """
    names = _names(report)
    target_class = {section.class_index: section for section in report.target.per_class}
    rows: list[Row] = []
    for attack in report.attacks:
        for group in attack.per_class:
            key = {"class_index": group.class_index, "class_name": group.class_name}
            rows.append(_row(attack, key, group, target_class[group.class_index], names))
    return rows


def per_group_rows(report: AuditReport) -> list[Row]:
    """One row for each attack and group of records, with the columns of `per_class_rows` but those of the class.

    Empty where the records have no groups.
    """
    names = _names(report)
    return [
        _row(attack, {"group_name": group.group_name}, group, of_target, names)
        for attack in report.attacks
        for group, of_target in zip(attack.per_group, report.target.per_group, strict=True)
    ]


def _names(report: AuditReport) -> list[str]:
    return list(dict.fromkeys(name for attack in report.attacks for name in figures_by_name(attack.overall)))


def _row(
    attack: AttackSection,
    key: Row,
    group: ClassFigures | GroupFigures,
    accuracies: TargetClass | TargetGroup,
    names: Sequence[str],
) -> Row:
    figures = figures_by_name(group)
    row: Row = {
        "attack": attack.name,
        "defense": attack.defense,
        "adaptive": attack.adaptive,
        **key,
        "num_members": group.num_members,
        "num_nonmembers": group.num_nonmembers,
        "base_rate": group.base_rate,
        "train_accuracy": accuracies.train_accuracy,
        "test_accuracy": accuracies.test_accuracy,
        "generalization_gap": accuracies.generalization_gap,
    }
    for name in names:
        figure = figures.get(name)
        row[name] = None if figure is None else figure.value
        row[f"{name}_low"] = None if figure is None else figure.low
        row[f"{name}_high"] = None if figure is None else figure.high
    for end in ("low", "high"):
        row[f"auc_simultaneous_{end}"] = getattr(group.auc_simultaneous, end, None)
    row |= {f"{name}_reason": figures[name].reason if name in figures else None for name in names}
    return row


def headline_scalars(report: AuditReport) -> dict[str, float]:
    """The figures by which runs are compared, under names that read like paths; undefined ones are left out.

    `leakage/<attack>/auc` and the other figures, `target/train_accuracy`, `target/test_accuracy` and
    `target/generalization_gap`; AUC and TPR with their limits, `leakage/<attack>/auc_low` and `auc_high`. An output
    defence is part of the path: `leakage/<attack>/<defense>/auc`.
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
            limits = {"_low": figure.low, "_high": figure.high} if name.startswith(_WITH_LIMITS) else {}
            for ending, value in {"": figure.value, **limits}.items():
                if value is not None:
                    scalars["/".join([*parts, name + ending])] = value
    return scalars
