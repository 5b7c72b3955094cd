"""The labels of a table's records: one column of classes, several of two states, or numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import MinLen

from mia_lightning.datasets.doubts import check_classes
from mia_lightning.datasets.labels import about_labels, by_value
from mia_lightning.datasets.tables.columns import FALSE, MISSING, TRUE, Columns
from mia_lightning.datasets.tables.values import check_present, distinct, finite_numbers, number_of, truth
from mia_lightning.errors import InputError, listed
from mia_lightning.settings.kinds import FromList, Name, Text
from mia_lightning.settings.words import Such, Words
from mia_lightning.tasks.interface import Task

LabelColumns = Annotated[
    Name | Annotated[Sequence[Name], FromList, MinLen(1)], Words("the name of a column, or a list of names")
]
Separator = Annotated[Text, Such("';'")]
Column = np.ndarray[Any, Any]

_FEW = 4  # values in a sentence


@dataclass(frozen=True, eq=False, kw_only=True)
class Labels:
    """What the records' labels are.

    Attributes:
        label_N: int64 `[N]` into `names`; or of several labels uint8 `[N, labels]`, of numbers float64 `[N]` or
            `[N, numbers]`.
        names: of the classes, the labels or the numbers.
        remarks: what is to be said of them.
    """

    label_N: Column
    names: Sequence[str]
    remarks: Sequence[str] = ()


def labels_of(
    table: Columns,
    columns: str | Sequence[str],
    task: Task | None,
    *,
    separator: str | None = None,
    is_missing_said: bool = True,
) -> Labels:
    """The labels in these columns, which are there, as the task reads them; None for classes.

    Args:
        columns: one name, or several under a task whose records have several labels or numbers.
        separator: of the labels in a cell, where one column holds all labels of a record.
        is_missing_said: whether NA and other words for nothing name no class.

    Raises:
        InputError: a record has no label, or one is of another form than the task's.
    """
    outputs = "classes" if task is None else task.outputs
    is_of_sets = outputs == "labels" and isinstance(columns, str)
    if separator is not None and not is_of_sets:
        raise InputError(
            f"`dataset.label_separator` is {separator!r}, and no column holds several labels of a record: leave it "
            "out, or set task=multilabel and `dataset.label_column` to one column"
        )
    if isinstance(columns, str):
        if is_of_sets:
            return _of_sets(table, columns, separator)
        columns = [columns]
    if outputs == "classes" and len(columns) > 1:
        raise InputError(
            f"`dataset.label_column` names {len(columns)} columns, {listed(columns)}, and a record has one class under "
            f"task={'classification' if task is None else task.name}: name one of them, or set task=multilabel for "
            "labels that are on or off, task=regression for numbers"
        )
    if is_missing_said or outputs == "labels":
        for column in columns:
            check_present(table, column, "label")
    return {"classes": _of_classes, "labels": _of_states, "numbers": _of_numbers}[outputs](table, columns)


def _of_classes(table: Columns, columns: Sequence[str]) -> Labels:
    names, label_N = classes(table, columns[0])
    remarks = about_numbered(names, f"column {columns[0]!r} of {table.file_name}")
    return Labels(label_N=label_N, names=names, remarks=remarks)


def _of_numbers(table: Columns, columns: Sequence[str]) -> Labels:
    number_ND = np.stack([finite_numbers(table, each, is_feature=False) for each in columns], 1)
    return Labels(label_N=number_ND[:, 0] if len(columns) == 1 else number_ND, names=columns)


def _of_sets(table: Columns, column: str, separator: str | None) -> Labels:
    """One label for each that a cell of the column lists; sorted."""
    set_N = [_set(cell, separator) for cell in table.lists(column)]
    missing = [record for record, found in enumerate(set_N) if found is None]
    if len(missing) == len(set_N):
        raise InputError(
            f"`dataset.label_column` names one column of {table.place}, {column!r}, whose cells are no lists, and task="
            "multilabel takes [records, labels]: name a column for each label, such as "
            f"`dataset.label_column=[{column},another]`, or what stands between the labels of a cell, such as "
            "`dataset.label_separator=';'`, or use task=classification"
        )
    if missing:
        raise InputError(
            f"{table.line_of(missing[0])} of {table.place} has no list of labels in column {column!r}, and "
            f"{len(missing)} of {len(set_N)} records have none: give [] for a record without labels, or leave them out"
        )
    names, _ = by_value(sorted({name for found in set_N for name in found or ()}))
    place = {name: number for number, name in enumerate(names)}
    label_NL = np.zeros((len(set_N), len(names)), np.uint8)
    check_classes([None] * len(names), label_NL, f"column {column!r} of {table.place}")
    for record, found in enumerate(set_N):
        label_NL[record, [place[name] for name in found or ()]] = 1
    num_none = int((~label_NL.any(1)).sum())
    remark = f"Records of {table.file_name} without any label in column {column!r}: {num_none} of {len(set_N)}."
    return Labels(label_N=label_NL, names=names, remarks=[remark] if num_none else [])


def _set(cell: list[Any] | str, separator: str | None) -> set[str] | None:
    """The labels of a record; None where the cell does not say them."""
    if isinstance(cell, str):
        if separator is None or (cell and cell.lower() in MISSING):
            return None
        cell = cell.split(separator)
    is_plain = all(isinstance(each, str | int | float) for each in cell)
    return {name for each in cell if (name := str(each).strip())} if is_plain else None


def _of_states(table: Columns, columns: Sequence[str]) -> Labels:
    found = [_states(table, each) for each in columns]
    return Labels(
        label_N=np.stack([is_on_N for _, is_on_N, _ in found], 1).astype(np.uint8),
        names=[name for name, _, _ in found],
        remarks=[remark for _, _, remark in found if remark],
    )


def _states(table: Columns, column: str) -> tuple[str, Column, str]:
    """The name of a label, whether each record has it, and what is to be said of it.

    Of two values that say neither yes nor no it is the second, sorted (numbers by value), that names the label.
    """
    values, place_N = distinct(table, column, "label")
    if all(each.lower() in TRUE + FALSE for each in values):
        return column, truth(table, column), ""
    if len(values) != 2:
        shown = listed(values) if len(values) <= _FEW else ", ".join([*map(repr, values[:_FEW]), "…"])
        many = "one value" if len(values) == 1 else f"{len(values)} values"
        raise InputError(
            f"column {column!r} of {table.place} has {many}, {shown}, and a label of task=multilabel is on or off: "
            "give two values, such as 0 and 1, or leave the column out of `dataset.label_column`"
        )
    off, on = values
    return (
        f"{column}: {on}",
        place_N == 1,
        f"The label of column {column!r} of {table.file_name} is on where it is {on!r}, off where it is {off!r}.",
    )


def classes(table: Columns, column: str) -> tuple[list[str], np.ndarray[Any, Any]]:
    """The names of the classes, sorted (numbers by value), and the class of each record, int64 `[N]`.

    Raises:
        InputError: a record has no label, or the labels are no classes.
    """
    names, label_N = distinct(table, column, "label")
    name_C = [number if math.isfinite(number := number_of(each)) else None for each in names]
    check_classes(name_C, label_N, f"column {column!r} of {table.place}")
    return names, label_N


def about_numbered(class_names: Sequence[str], what: str) -> list[str]:
    """What to say where labels are numbers other than 0, 1, ..., which another program may count otherwise."""
    if not all(math.isfinite(number_of(each)) for each in class_names):
        return []
    return [] if list(class_names) == [str(c) for c in range(len(class_names))] else [about_labels(class_names, what)]
