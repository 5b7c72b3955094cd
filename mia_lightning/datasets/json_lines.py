"""A table in JSON lines: one object a line, whose keys name the columns."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from mia_lightning.datasets.table import Table
from mia_lightning.errors import InputError, first_line

SUFFIXES = (".jsonl", ".ndjson")


def is_json_lines(file: Path) -> bool:
    """Whether the name says so; a compressed file has one more ending, such as `.gz`."""
    return any(suffix.lower() in SUFFIXES for suffix in file.suffixes[-2:])


class JsonLines(Table):
    """The columns of a file as trimmed text, and the line of each record for error messages.

    A key that an object does not have, and null, are the empty text. Lines without any content are left out. The file
    is UTF-8, as it is or compressed as its ending says: gzip, bzip2, Zstandard.

    Args:
        file: which is there.
        place: its name in messages.

    Raises:
        InputError: it cannot be read, has no object, or a line is none or has a list or an object inside.
    """

    def __init__(self, file: Path, place: str) -> None:
        self.place, self.nameless = place, []
        self._lines: list[int] = []
        records: list[dict[str, str]] = []
        try:
            with pa.input_stream(str(file), compression="detect") as stream:
                text = stream.read().decode("utf-8-sig")
        except (OSError, UnicodeError) as error:
            raise InputError(
                f"{place} cannot be read as text ({first_line(error)}): save it in UTF-8, one JSON object a line"
            ) from error
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                records.append(self._record(line, number))
                self._lines.append(number)
        if not records:
            raise InputError(f"{place} is empty: give one JSON object a line, one line a record")
        self.columns = list(dict.fromkeys(key for record in records for key in record))
        self._text_of = {
            column: pa.array([record.get(column, "") for record in records], pa.string()) for column in self.columns
        }
        self._num_records = len(records)

    def __len__(self) -> int:
        return self._num_records

    def text(self, column: str) -> Any:
        return self._text_of[column]

    def line_of(self, record: int) -> str:
        """Where a record stands in the file."""
        return f"line {self._lines[record]}"

    def refusal(self, column: str, usable: Callable[[str], bool], mend: str) -> InputError:
        record, value = next((i, v) for i, v in enumerate(self.text(column).to_pylist()) if not usable(v))
        return InputError(f"{self.line_of(record)} of {self.place} has {value!r} in column {column!r}: {mend}")

    def _record(self, line: str, number: int) -> dict[str, str]:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"line {number} of {self.place} is no JSON ({first_line(error)}): mend the line"
            ) from error
        if not isinstance(found, dict):
            raise InputError(
                f"line {number} of {self.place} is a {type(found).__name__} and no object: give one such as "
                '{"path": "a.wav", "label": "yes"}'
            )
        nested = next((key for key, value in found.items() if isinstance(value, list | dict)), None)
        if nested is not None:
            raise InputError(
                f"line {number} of {self.place} has a list or an object in {nested!r}: give a text or a number for "
                "each key"
            )
        return {key.strip(): _as_text(value) for key, value in found.items()}


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value)
