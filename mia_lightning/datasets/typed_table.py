"""Tables whose cells have types, read as those of text are: JSON lines and parquet."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mia_lightning.datasets.table import UNREADABLE, WIDE, Table
from mia_lightning.errors import InputError, first_line

PARQUET = b"PAR1"  # with which such a file begins


class _TypedTable(Table):
    """A table whose columns become trimmed text when they are asked for; the empty text stands for nothing."""

    _line_N: Sequence[int]  # where each record stands in the file
    _unit: str  # of these numbers

    def __len__(self) -> int:
        return len(self._line_N)

    def text(self, column: str) -> Any:
        if column not in self._column_of:
            self._column_of[column] = pc.utf8_trim_whitespace(pc.fill_null(self._cells(column), ""))
        return self._column_of[column]

    def _cells(self, column: str) -> Any:
        """Strings and nulls, a pyarrow array."""
        raise NotImplementedError

    def refusal(self, column: str, usable: Callable[[str], bool], mend: str) -> InputError:
        record, value = next((i, v) for i, v in enumerate(self.text(column).to_pylist()) if not usable(v))
        return InputError(
            f"{self._unit} {self._line_N[record]} of {self.place} has {value!r} in column {column!r}: {mend}"
        )

    def _nested(self, column: str) -> InputError:
        return InputError(f"column {column!r} of {self.place} has lists or objects: give a text or a number a record")


class ParquetTable(_TypedTable):
    """The columns of a parquet file; rows count from 0.

    Args:
        file: which is there.
        place: its name in messages.

    Raises:
        InputError: it cannot be read, or two columns have one name.
    """

    def __init__(self, file: Path, place: str) -> None:
        self.place, self.nameless, self._unit, self._column_of = place, [], "row", {}
        try:
            with file.open("rb") as stream:
                self._table = pq.read_table(stream)
        except (OSError, pa.ArrowException, ValueError) as error:
            raise InputError(
                f"{place} cannot be read as a parquet file ({first_line(error)}): write it again, or as CSV in UTF-8"
            ) from error
        self.columns, self._line_N = list(self._table.column_names), range(self._table.num_rows)

    def _cells(self, column: str) -> Any:
        try:
            return pc.cast(self._table[column].combine_chunks(), pa.string())
        except (pa.ArrowException, NotImplementedError) as error:
            raise self._nested(column) from error


class JsonLines(_TypedTable):
    """The keys of the objects of a file, one object a line, packed or not; a key that a line lacks is empty there.

    Args:
        file: which is there.
        place: its name in messages.
        encoding: of the file; None for UTF-8, or UTF-16 with a byte order mark.

    Raises:
        InputError: the file is empty or no text in this encoding, or a line is no object.
    """

    def __init__(self, file: Path, place: str, encoding: str | None = None) -> None:
        self.place, self.nameless, self._unit, self._column_of = place, [], "line", {}
        try:
            with self._opener(file)() as stream:
                content = stream.read()
            text = content.decode(encoding or ("utf-16" if content.startswith(WIDE) else "utf-8-sig"))
        except UNREADABLE as error:
            raise InputError(
                f"{place} cannot be read as text in {encoding or 'UTF-8'} ({first_line(error)}): set dataset.encoding "
                "to that of the file"
            ) from error
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        self._line_N = [number for number, _ in lines]
        self._rows_N = [self._object(line, number) for number, line in lines]
        if not self._rows_N:
            raise InputError(f"{place} is empty: give a file of one JSON object a line")
        self.columns = list(dict.fromkeys(key for row in self._rows_N for key in row))

    def _object(self, line: str, number: int) -> Mapping[str, Any]:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"line {number} of {self.place} is no JSON ({first_line(error)}): give one object a line"
            ) from error
        if not isinstance(found, dict):
            raise InputError(f"line {number} of {self.place} is no JSON object: give one object a line")
        return found

    def _cells(self, column: str) -> Any:
        cells = [row.get(column) for row in self._rows_N]
        if any(isinstance(each, dict | list) for each in cells):
            raise self._nested(column)
        cells = [each if each is None or isinstance(each, str) else json.dumps(each) for each in cells]
        try:
            return pa.array(cells, pa.string())
        except (UnicodeError, pa.ArrowException) as error:  # half of a pair of surrogates
            raise InputError(
                f"column {column!r} of {self.place} has a character that no file can hold: leave it out"
            ) from error
