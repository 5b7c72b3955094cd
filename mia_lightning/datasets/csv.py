"""Records from a CSV file with a header line."""

import difflib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, StringConstraints

from mia_lightning.datasets.doubts import about_identifiers, are_few, check_classes, looks_like_identifier
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.datasets.table import FALSE, TRUE, Table
from mia_lightning.errors import DataNotThereError, InputError
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import FromList, Name, PathLike
from mia_lightning.settings.overrides import override
from mia_lightning.settings.words import Words
from mia_lightning.tasks.interface import LabelTask

Delimiter = Annotated[
    str,
    BeforeValidator(lambda value: "\t" if value == "\\t" else value),
    StringConstraints(pattern=r'^[\x01-\x7f--["\r\n]]$'),
    Words("one ASCII character, such as a comma, a semicolon or \\t for a tab"),
]


@checked("dataset")
def load_csv(
    *,
    path: PathLike,
    label_column: Name,
    member_column: Name | None = None,
    group_column: Name | None = None,
    drop_columns: Annotated[Sequence[Name], FromList, Words("a list of names of columns")] | None = None,
    delimiter: Delimiter | None = None,
    name: Name | None = None,
    task: LabelTask | None = None,
) -> Population:
    """A table of numbers: each column but those of label, member and group is a float32 feature, in file order.

    Numbers may have decimal commas; true and false are 1 and 0. A column that looks like an identifier is remarked.

    Args:
        path: a file whose first line names the columns: UTF-8, or UTF-16 with a byte order mark, as it is or compressed
            (gzip, bzip2, xz, Zstandard, a zip file of one table).
        label_column: text or numbers; the sorted distinct values (numbers by value) name the classes. "1" and "1.0" are
            one class. Of a regression, numbers.
        member_column: 0, 1, true, false, yes or no: the records that a given target was trained on.
        group_column: text or numbers; the distinct values, sorted like labels, name groups for which leakage is
            reported, too.
        drop_columns: those that are left out, such as a customer's number.
        delimiter: one character; None for the one of comma, semicolon, tab and bar of which the header line has most.
            The two characters `\\t` stand for a tab.
        name: of the data set, in reports; by default the file's name without its ending.
        task: what a label is; by default a class.

    Raises:
        InputError: the file is absent, empty, ragged or no such text, a column is unknown, a value is missing or no
            number, or the label is a measurement.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataNotThereError(f"'{file.absolute()}' is not a file: set dataset.path to the CSV file")
    table = Table(file, f"'{file.absolute()}'", delimiter)
    named = {"label_column": label_column, "member_column": member_column, "group_column": group_column}
    for argument, column in [*named.items(), *(("drop_columns", each) for each in drop_columns or ())]:
        if column is not None:
            _require(table, column, argument)
    used = [column for column in table.columns if column not in (drop_columns or ())]
    _check_named(table, used)
    features = [column for column in used if column not in named.values()]
    if not features:
        raise InputError(f"{table.place} has no column beside the label's: add the features")
    has_classes = task is None or task.has_classes
    if has_classes:
        class_names, label_N = _distinct(table, label_column, "label")
        name_C = [number if math.isfinite(number := _number(each)) else None for each in class_names]
        check_classes(name_C, label_N, f"column {label_column!r} of {table.place}")
    else:
        class_names, label_N = [label_column], _numbers(table, label_column)
    group_names, group_N = (None, None) if group_column is None else _distinct(table, group_column, "group")
    member_N = None if member_column is None else _truth(table, member_column)
    x = np.empty((len(label_N), len(features)), np.float32)
    identifiers = []
    for j, column in enumerate(features):
        values = _numbers(table, column)
        x[:, j] = values
        if has_classes and looks_like_identifier(values, label_N):
            identifiers.append(column)
    remarks = []
    if identifiers and are_few(len(identifiers), len(features)):
        columns = [f"The column {column!r}" for column in identifiers]
        remarks = [about_identifiers(columns, file.name, f"leave it out by {_dropped(identifiers)}")]
    return make_population(
        x,
        label_N,
        name=file.stem if name is None else name,
        class_names=class_names,
        member=member_N,
        group=group_N,
        group_names=group_names,
        remarks=remarks,
        task=task,
    )


def _require(table: Table, column: str, argument: str) -> None:
    """Refuse a column that is missing; `argument` is the setting that names it."""
    if column not in table.columns:
        near = difflib.get_close_matches(column, table.columns, n=3, cutoff=0.5) or table.columns[:10]
        raise InputError(
            f"{table.place} has no column {column!r} among its {len(table.columns)} (near it: "
            f"{', '.join(map(repr, near))}): set dataset.{argument} to a name in the header line, "
            "and dataset.delimiter to what separates them"
        )


def _dropped(columns: Sequence[str]) -> str:
    """The override that leaves columns out."""
    return override("dataset.drop_columns", columns)


def _check_named(table: Table, used: Sequence[str]) -> None:
    nameless = [each for each in table.nameless if each in used]
    if nameless:
        raise InputError(
            f"column {int(nameless[0].split()[1]) + 1} of {table.place} has no name in the header line: name it, or "
            f"leave it out by {_dropped(nameless)} (pandas writes such a column of row numbers without index=False)"
        )


def _distinct(table: Table, column: str, what: str) -> tuple[list[str], np.ndarray[Any, Any]]:
    """The sorted names of classes or groups, and the number of each record's; `what` is "label" or "group"."""
    encoded = pc.dictionary_encode(table.text(column))
    values: list[str] = encoded.dictionary.to_pylist()
    if "" in values:
        raise table.refusal(column, bool, f"give each record a {what}, or leave the record out")
    numbers = [_number(value) for value in values]
    if all(map(math.isfinite, numbers)):
        spelling = _spellings(values, numbers, f"column {column!r} of {table.place}")
        names = [spelling[number] for number in sorted(spelling)]
        rank = np.searchsorted(sorted(spelling), numbers)
    else:
        names = sorted(values)
        rank = np.array([names.index(value) for value in values], np.int64)
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


def _numbers(table: Table, column: str) -> np.ndarray[Any, Any]:
    """float64 `[N]`; each is finite in float32, too."""
    try:
        values = table.numbers(column)
    except InputError as error:
        raise InputError(f"{error}; {_dropped([column])} leaves the column out") from None
    if not np.isfinite(_float32(values)).all():
        mend = "encode it as a finite number (float32)"
        raise table.refusal(column, lambda value: bool(np.isfinite(_float32(_number(value)))), mend)
    return values


def _float32(value: Any) -> Any:
    with np.errstate(over="ignore"):  # a large value becomes infinite, which is refused
        return np.float32(value)


def _number(value: str) -> float:
    """The number as pyarrow reads it; NaN for text that is no number."""
    try:
        return float(pc.cast(pa.scalar(value), pa.float64()).as_py())
    except pa.ArrowInvalid:
        return math.nan


def _truth(table: Table, column: str) -> np.ndarray[Any, Any]:
    text = pc.utf8_lower(table.text(column))
    if not pc.all(pc.is_in(text, pa.array(TRUE + FALSE))).as_py():
        mend = "write 1 or true for members, 0 or false for the others"
        raise table.refusal(column, lambda value: value.lower() in TRUE + FALSE, mend)
    member: np.ndarray[Any, Any] = pc.is_in(text, pa.array(TRUE)).to_numpy(zero_copy_only=False)
    return member
