"""The labels of a table's records: one column of classes, several of two states, or numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import MinLen

from mia_lightning.datasets.doubts import check_classes
from mia_lightning.datasets.labels import about_labels
from mia_lightning.datasets.tables.columns import FALSE, TRUE, Columns
from mia_lightning.datasets.tables.values import check_present, distinct, finite_numbers, number_of, truth
from mia_lightning.errors import InputError, listed
from mia_lightning.settings.kinds import FromList, Name
from mia_lightning.settings.words import Words
from mia_lightning.tasks.interface import Task

LabelColumns = Annotated[
    Name | Annotated[Sequence[Name], FromList, MinLen(1)], Words("the name of a column, or a list of names")
]
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
    table: Columns, columns: str | Sequence[str], task: Task | None, *, is_missing_said: bool = True
) -> Labels:
    """The labels in these columns, which are there, as the task reads them; None for classes.

    Args:
        columns: one name, or several under a task whose records have several labels or numbers.
        is_missing_said: whether NA and other words for nothing name no class.

    Raises:
        InputError: a record has no label, or one is of another form than the task's.
    """
    outputs = "classes" if task is None else task.outputs
    if is_missing_said or outputs == "labels":
        for column in [columns] if isinstance(columns, str) else columns:
            check_present(table, column, "label")
    if outputs == "classes":
        return _of_classes(table, columns, "classification" if task is None else task.name)
    return _of_states(table, columns) if outputs == "labels" else _of_numbers(table, columns)


def _of_classes(table: Columns, columns: str | Sequence[str], task: str) -> Labels:
    column, *others = [columns] if isinstance(columns, str) else columns
    if others:
        raise InputError(
            f"`dataset.label_column` names {1 + len(others)} columns, {listed([column, *others])}, and a record has "
            f"one class under task={task}: name one of them, or set task=multilabel for labels that are on or off, "
            "task=regression for numbers"
        )
    names, label_N = classes(table, column)
    remarks = about_numbered(names, f"column {column!r} of {table.file_name}")
    return Labels(label_N=label_N, names=names, remarks=remarks)


def _of_numbers(table: Columns, columns: str | Sequence[str]) -> Labels:
    names = [columns] if isinstance(columns, str) else columns
    number_ND = np.stack([finite_numbers(table, each, is_feature=False) for each in names], 1)
    return Labels(label_N=number_ND[:, 0] if len(names) == 1 else number_ND, names=names)


def _of_states(table: Columns, columns: str | Sequence[str]) -> Labels:
    if isinstance(columns, str):
        raise InputError(
            f"`dataset.label_column` names one column of {table.place}, {columns!r}, and task=multilabel takes "
            "[records, labels] of 0 and 1: name a column for each label, such as "
            f"`dataset.label_column=[{columns},another]`, or use task=classification"
        )
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
