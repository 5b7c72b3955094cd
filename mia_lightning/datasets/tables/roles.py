"""What the columns of a table are to an audit: labels, groups, members, weights, names of records."""

import difflib
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from mia_lightning.datasets.listing import Listing
from mia_lightning.datasets.tables.columns import Columns
from mia_lightning.datasets.tables.labels import labels_of
from mia_lightning.datasets.tables.values import check_present, distinct, dropped, finite_numbers, truth
from mia_lightning.errors import InputError
from mia_lightning.settings.kinds import FromList, Name
from mia_lightning.settings.words import Words
from mia_lightning.tasks.interface import Task

ColumnNames = Annotated[Sequence[Name], FromList, Words("a list of names of columns")]


_OF_GROUPS = ("group_column", "group_columns")


def require(table: Columns, **named: str | Sequence[str] | None) -> set[str]:
    """The columns that settings name, by these settings' names.

    Raises:
        InputError: one is missing, is named twice, or has two parts; columns of groups may have a second.
    """
    found = [
        (setting, column)
        for setting, columns in named.items()
        for column in ([columns] if isinstance(columns, str) else columns or ())
    ]
    for setting, column in found:
        if column not in table.columns:
            near = difflib.get_close_matches(column, table.columns, n=3, cutoff=0.5) or table.columns[:10]
            raise InputError(
                f"{table.place} has no column {column!r} among its {len(table.columns)} (near it: "
                f"{', '.join(map(repr, near))}): set dataset.{setting} to {table.naming}"
            )
    part_of: dict[str, str] = {}
    for setting, column in found:
        other = part_of.setdefault(column, setting)
        if found.count((setting, column)) > 1:
            raise InputError(f"dataset.{setting} names {column!r} twice: name it once")
        if other != setting and not {other, setting} & {*_OF_GROUPS}:
            raise InputError(
                f"dataset.{other} and dataset.{setting} both name the column {column!r} of {table.place}: give each a "
                "column of its own"
            )
    return {column for _, column in found}


def never_numbers(
    label_column: str | Sequence[str], label_separator: str | None, drop_columns: Sequence[str] | None
) -> list[str]:
    """The columns that are read as no numbers, whatever they look like: lists of labels, and what is left out."""
    labels = [label_column] if label_separator is not None and isinstance(label_column, str) else []
    return [*labels, *(drop_columns or ())]


def listing_of_table(
    table: Columns,
    *,
    label_column: str | Sequence[str],
    id_column: str | None = None,
    member_column: str | None = None,
    weight_column: str | None = None,
    groupings: Sequence[str] = (),
    label_separator: str | None = None,
    task: Task | None = None,
    is_missing_said: bool = True,
) -> Listing:
    """What the columns say of each record; the columns are there.

    Args:
        is_missing_said: whether NA and other words for nothing are no labels.

    Raises:
        InputError: a record has no label, group or identifier, or one is of another form.
    """
    labels = labels_of(table, label_column, task, separator=label_separator, is_missing_said=is_missing_said)
    group_names, group_N = groups(table, groupings) if groupings else (None, None)
    return Listing(
        place=table.place,
        label_N=labels.label_N,
        class_names=labels.names,
        names=() if id_column is None else names_of_records(table, id_column),
        member_N=None if member_column is None else truth(table, member_column),
        group_N=group_N,
        group_names=group_names,
        weight_N=None if weight_column is None else finite_numbers(table, weight_column, is_feature=False),
        task=task,
        remarks=labels.remarks,
    )


def check_named(table: Columns, used: Sequence[str]) -> None:
    nameless = [each for each in table.nameless if each in used]
    if nameless:
        raise InputError(
            f"column {int(nameless[0].split()[1]) + 1} of {table.place} has no name in the header line: name it, or "
            f"leave it out by {dropped(nameless)} (pandas writes such a column of row numbers without index=False)"
        )


def names_of_records(table: Columns, column: str) -> tuple[str, ...]:
    """The names of the records, all different.

    Raises:
        InputError: a record has none, or two have the same.
    """
    check_present(table, column, "identifier")
    names: list[str] = table.text(column).to_pylist()
    first_of: dict[str, int] = {}
    for record, name in enumerate(names):
        first = first_of.setdefault(name, record)
        if first != record:
            mend = f"so has {table.line_of(first)}; give each record its own, or leave dataset.id_column out"
            raise table.refusal_of(record, column, mend)
    return tuple(names)


def groups(table: Columns, columns: Sequence[str]) -> tuple[list[str], np.ndarray[Any, Any]]:
    """The names of all groups, and their numbers: int64 `[N]`, or `[N, G]` for the groups of several columns."""
    found = [distinct(table, column, "group") for column in columns]
    if len(found) == 1:
        return found[0]
    names: list[str] = []
    numbers = []
    for column, (of_column, group_N) in zip(columns, found, strict=True):
        numbers.append(group_N + len(names))
        names += [f"{column}: {name}" for name in of_column]
    return names, np.stack(numbers, 1)
