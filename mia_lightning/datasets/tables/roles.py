"""What the columns of a table are to an audit: labels, groups, members, weights, names of records."""

import difflib
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mia_lightning.datasets.doubts import check_classes
from mia_lightning.datasets.labels import about_labels
from mia_lightning.datasets.listing import Listing
from mia_lightning.datasets.tables.columns import FALSE, TRUE, Columns
from mia_lightning.errors import InputError
from mia_lightning.settings.kinds import FromList, Name
from mia_lightning.settings.overrides import override
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


def listing_of_table(
    table: Columns,
    *,
    label_column: str,
    id_column: str | None = None,
    member_column: str | None = None,
    weight_column: str | None = None,
    groupings: Sequence[str] = (),
    task: Task | None = None,
    is_missing_said: bool = True,
) -> Listing:
    """What the columns say of each record; the columns are there. Of a task without classes the label is one number.

    Args:
        is_missing_said: whether NA and other words for nothing are no labels.

    Raises:
        InputError: a record has no label, group or identifier, or one is of another form.
    """
    if is_missing_said:
        check_present(table, label_column, "label")
    class_names: Sequence[str] = [label_column]
    if task is None or task.has_classes:
        class_names, label_N = classes(table, label_column)
    else:
        label_N = finite_numbers(table, label_column, is_feature=False)
    group_names, group_N = groups(table, groupings) if groupings else (None, None)
    return Listing(
        place=table.place,
        label_N=label_N,
        class_names=class_names,
        names=() if id_column is None else names_of_records(table, id_column),
        member_N=None if member_column is None else truth(table, member_column),
        group_N=group_N,
        group_names=group_names,
        weight_N=None if weight_column is None else finite_numbers(table, weight_column, is_feature=False),
        task=task,
        remarks=about_numbered(class_names, f"column {label_column!r} of {table.file_name}"),
    )


def dropped(columns: Sequence[str]) -> str:
    """The override that leaves columns out."""
    return override("dataset.drop_columns", columns)


def check_named(table: Columns, used: Sequence[str]) -> None:
    nameless = [each for each in table.nameless if each in used]
    if nameless:
        raise InputError(
            f"column {int(nameless[0].split()[1]) + 1} of {table.place} has no name in the header line: name it, or "
            f"leave it out by {dropped(nameless)} (pandas writes such a column of row numbers without index=False)"
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


def check_present(table: Columns, column: str, what: str) -> None:
    """Refuse a column in which a record has nothing, or a word for nothing; `what` it is to have.

    The word "none" may be the name of a class.
    """
    is_missing_N = table.missing(column) & ~pc.equal(pc.utf8_lower(table.text(column)), "none").to_numpy(False)
    if is_missing_N.any():
        mend = f"records without {what}: {int(is_missing_N.sum())}; give each one, or leave them out"
        raise table.refusal_of(int(is_missing_N.argmax()), column, mend)


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


def distinct(table: Columns, column: str, what: str) -> tuple[list[str], np.ndarray[Any, Any]]:
    """The sorted names of classes or groups, and the number of each record's; `what` is "label" or "group"."""
    encoded = pc.dictionary_encode(table.text(column))
    values: list[str] = encoded.dictionary.to_pylist()
    if "" in values:
        raise table.refusal(column, bool, f"give each record a {what}, or leave the record out")
    numbers = [number_of(value) for value in values]
    if all(map(math.isfinite, numbers)):
        spelling = _spellings(values, numbers, f"column {column!r} of {table.place}")
        names = [spelling[number] for number in sorted(spelling)]
        rank = np.searchsorted(sorted(spelling), numbers)
    else:
        names = sorted(values)
        place = {name: number for number, name in enumerate(names)}
        rank = np.array([place[value] for value in values], np.int64)
    return names, rank[encoded.indices.to_numpy()]


def _spellings(values: Sequence[str], numbers: Sequence[float], what: str) -> dict[float, str]:
    """The shortest spelling of each number.

    Raises:
        InputError: two differ by zeros in front, as codes may.
    """
    spelling: dict[float, str] = {}
    for value, number in sorted(zip(values, numbers, strict=True), key=lambda each: (len(each[0]), each[0])):
        known = spelling.setdefault(number, value)
        if re.match(r"[+-]?0\d", value) and not re.match(r"[+-]?0\d", known):
            raise InputError(
                f"{what} has {known!r} and {value!r}, one number in two spellings: write it in one way, or, where "
                "these are different codes, with a letter before them"
            )
    return spelling


def finite_numbers(table: Columns, column: str, *, is_feature: bool = True) -> np.ndarray[Any, Any]:
    """float64 `[N]`; each is finite in float32, too."""
    try:
        values = table.numbers(column)
    except InputError as error:
        if not is_feature:
            raise
        raise InputError(f"{error}; {dropped([column])} leaves the column out") from None
    check_finite(table, column, values)
    return values


def check_finite(table: Columns, column: str, values: np.ndarray[Any, Any]) -> None:
    """Refuse a number that float32 cannot hold; NaN is let by."""
    with np.errstate(over="ignore"):  # a large value becomes infinite
        is_infinite = np.isinf(values.astype(np.float32))
    if is_infinite.any():
        raise table.refusal_of(int(is_infinite.argmax()), column, "encode it as a finite number (float32)")


def number_of(value: str) -> float:
    """The number as pyarrow reads it; NaN for text that is no number."""
    try:
        return float(pc.cast(pa.scalar(value), pa.float64()).as_py())
    except pa.ArrowInvalid:
        return math.nan


def truth(table: Columns, column: str) -> np.ndarray[Any, Any]:
    text = pc.utf8_lower(table.text(column))
    if not pc.all(pc.is_in(text, pa.array(TRUE + FALSE))).as_py():
        mend = "write 1 or true for members, 0 or false for the others"
        raise table.refusal(column, lambda value: value.lower() in TRUE + FALSE, mend)
    member: np.ndarray[Any, Any] = pc.is_in(text, pa.array(TRUE)).to_numpy(zero_copy_only=False)
    return member
