"""Records from a CSV file with a header line."""

import contextlib
import csv
import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from pydantic import BeforeValidator, StringConstraints

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import DataNotThereError, InputError
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import Name, PathLike
from mia_lightning.settings.words import Words

_MISSING = ("", "?", "na", "n/a", "nan", "null", "none")
_TRUE, _FALSE = ["1", "true"], ["0", "false"]
_BLOCK = 1 << 24  # bytes; the longest line that can be read

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
    delimiter: Delimiter = ",",
    name: Name | None = None,
) -> Population:
    """A table of numbers: each column but those of label, member and group is a float32 feature, in file order.

    Args:
        path: a UTF-8 file whose first line names the columns.
        label_column: text or numbers; the sorted distinct values (numbers by value) name the classes.
        member_column: 0, 1, true or false: the records that a given target was trained on.
        group_column: text or numbers; the distinct values, sorted like labels, name groups for which leakage is
            reported, too.
        delimiter: one character; the two characters `\\t` stand for a tab.
        name: of the data set, in reports; by default the file's name without its ending.

    Raises:
        InputError: the file is absent, empty, ragged or not UTF-8, a column is unknown, or a value is missing
            or no number.
    """
    file = Path(path).expanduser()
    table = _Table(file, delimiter)
    table.require(label_column, "label_column")
    for column, argument in ((member_column, "member_column"), (group_column, "group_column")):
        if column is not None:
            table.require(column, argument)
    features = [column for column in table.columns if column not in (label_column, member_column, group_column)]
    if not features:
        raise InputError(f"{table.place} has no column beside the label's: add the features")
    class_names, label_N = _distinct(table, label_column, "label")
    group_names, group_N = (None, None) if group_column is None else _distinct(table, group_column, "group")
    member_N = None if member_column is None else _truth(table, member_column)
    x = np.empty((len(label_N), len(features)), np.float32)
    for j, column in enumerate(features):
        x[:, j] = _numbers(table, column)
    return make_population(
        x,
        label_N,
        name=file.stem if name is None else name,
        class_names=class_names,
        member=member_N,
        group=group_N,
        group_names=group_names,
    )


class _Table:
    """The file as columns of trimmed text, and the line of each record for error messages."""

    def __init__(self, file: Path, delimiter: str) -> None:
        if not file.is_file():
            raise DataNotThereError(f"'{file.absolute()}' is not a file: set dataset.path to the CSV file")
        self.file, self.delimiter, self.place = file, delimiter, f"'{file.absolute()}'"
        try:
            header = next(self._rows(), (1, []))[1]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise self._unreadable(error) from error
        self.columns = [column.strip() for column in header]
        self._check_header()
        try:
            table = pyarrow.csv.read_csv(
                file,
                read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK),
                parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid as error:
            raise self._ragged() or self._unreadable(error) from error
        self._table = table.rename_columns(self.columns)

    def require(self, column: str, argument: str) -> None:
        """Refuse a column that is missing; `argument` is the setting that names it."""
        if column not in self.columns:
            near = difflib.get_close_matches(column, self.columns, n=3, cutoff=0.5) or self.columns[:10]
            raise InputError(
                f"{self.place} has no column {column!r} among its {len(self.columns)} (near it: "
                f"{', '.join(map(repr, near))}): set dataset.{argument} to a name in the header line, "
                "and dataset.delimiter to what separates them"
            )

    def text(self, column: str) -> Any:
        """The trimmed text of a column, a pyarrow array of strings without nulls."""
        return pc.utf8_trim_whitespace(self._table.column(column).combine_chunks())

    def refusal(self, column: str, usable: Callable[[str], bool], mend: str) -> InputError:
        """The error for the first value of a column that is not usable."""
        record, value = next((i, v) for i, v in enumerate(self.text(column).to_pylist()) if not usable(v))
        line = next(line for i, (line, _) in enumerate(self._rows()) if i == record + 1)
        return InputError(f"line {line} of {self.place} has {value!r} in column {column!r}: {mend}")

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of each row, without blank lines as in pyarrow; slow, for error messages only."""
        with self.file.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, delimiter=self.delimiter)
            for row in reader:
                if row:
                    yield reader.line_num, row

    def _check_header(self) -> None:
        if not self.columns:
            raise InputError(f"{self.place} is empty: give a CSV file with a header line and one line a record")
        for number, column in enumerate(self.columns, start=1):
            if not column:
                raise InputError(
                    f"column {number} of {self.place} has no name in the header line: name it, or leave it "
                    "out (pandas writes such a column of row numbers without index=False)"
                )
        twice = [column for column, count in Counter(self.columns).items() if count > 1]
        if twice:
            raise InputError(f"column {twice[0]!r} of {self.place} appears twice: name each column differently")

    def _ragged(self) -> InputError | None:
        """The error for the first line of another length than the header line, if there is one."""
        with contextlib.suppress(UnicodeDecodeError, csv.Error):
            for line, row in self._rows():
                if len(row) != len(self.columns):
                    return InputError(
                        f"line {line} of {self.place} has {len(row)} values for {len(self.columns)} columns: "
                        "give each record one value a column"
                    )
        return None

    def _unreadable(self, error: Exception) -> InputError:
        reason = str(error).splitlines()[0]
        return InputError(f"{self.place} cannot be read as CSV in UTF-8 ({reason}): save it in that form")


def _distinct(table: _Table, column: str, what: str) -> tuple[list[str], np.ndarray[Any, Any]]:
    """The sorted names of classes or groups, and the number of each record's; `what` is "label" or "group"."""
    encoded = pc.dictionary_encode(table.text(column))
    values: list[str] = encoded.dictionary.to_pylist()
    if "" in values:
        raise table.refusal(column, bool, f"give each record a {what}, or leave the record out")
    numbers = [_number(value) for value in values]
    keys = list(zip(numbers, values, strict=True)) if all(map(math.isfinite, numbers)) else values
    order = sorted(range(len(values)), key=keys.__getitem__)
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values))
    return [values[i] for i in order], rank[encoded.indices.to_numpy()]


def _numbers(table: _Table, column: str) -> np.ndarray[Any, Any]:
    text = table.text(column)
    try:
        values: np.ndarray[Any, Any] = _float32(pc.cast(text, pa.float64()).to_numpy())
        if np.isfinite(values).all():
            return values
    except pa.ArrowInvalid:
        pass
    if any(value.lower() in _MISSING for value in text.to_pylist()):
        mend = "fill in the missing value, or leave the record out"
        raise table.refusal(column, lambda value: value.lower() not in _MISSING, mend)
    mend = "encode it as a finite number (float32)"
    raise table.refusal(column, lambda value: bool(np.isfinite(_float32(_number(value)))), mend)


def _float32(value: Any) -> Any:
    with np.errstate(over="ignore"):  # a large value becomes infinite, which is refused
        return np.float32(value)


def _number(value: str) -> float:
    """The number as pyarrow reads it; NaN for text that is no number."""
    try:
        return float(pc.cast(pa.scalar(value), pa.float64()).as_py())
    except pa.ArrowInvalid:
        return math.nan


def _truth(table: _Table, column: str) -> np.ndarray[Any, Any]:
    text = pc.utf8_lower(table.text(column))
    if not pc.all(pc.is_in(text, pa.array(_TRUE + _FALSE))).as_py():
        mend = "write 1 or true for members, 0 or false for the others"
        raise table.refusal(column, lambda value: value.lower() in _TRUE + _FALSE, mend)
    member: np.ndarray[Any, Any] = pc.is_in(text, pa.array(_TRUE)).to_numpy(zero_copy_only=False)
    return member
