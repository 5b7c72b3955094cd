"""The columns of JSON lines: one object a line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mia_lightning.datasets.tables.columns import TypedColumns, as_list
from mia_lightning.datasets.tables.packing import ENDINGS, UNREADABLE, encoding_of, opener
from mia_lightning.errors import InputError, first_line


def is_json_lines(file: Path) -> bool:
    """Whether the name says so, by its last ending but those of packing."""
    endings = [each.lower() for each in file.suffixes]
    while endings and endings[-1] in ENDINGS:
        endings.pop()
    return endings[-1:] in ([".jsonl"], [".ndjson"], [".json"])


class JsonLines(TypedColumns):
    """The keys of the objects as columns; a key that an object does not have, and null, are the empty text.

    Lines without any content are left out. The file is UTF-8, or UTF-16 with a byte order mark, as it is or compressed
    as `Table`.

    Args:
        file: which is there.
        place: its name in messages.
        encoding: of the text, where it is another than above.
        mend: of a file that is no such text, for the message.

    Raises:
        InputError: the file cannot be read, has no object, or a line is none.
    """

    def __init__(
        self,
        file: Path,
        place: str,
        encoding: str | None = None,
        mend: str = "save it in UTF-8, one JSON object a line",
    ) -> None:
        super().__init__(place)
        try:
            with opener(file, place)() as stream:
                content = stream.read()
            text = content.decode(encoding_of(content, encoding))
        except UNREADABLE as error:
            raise InputError(
                f"{place} cannot be read as text in {encoding or 'UTF-8'} ({first_line(error)}): {mend}"
            ) from error
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        self._line_N = [number for number, _ in lines]
        self._object_N = [self._object(line, number) for number, line in lines]
        self.columns = list(dict.fromkeys(key for each in self._object_N for key in each))
        if not self.columns:
            raise InputError(f"{place} is empty: give one JSON object a line, one line a record")

    def __len__(self) -> int:
        return len(self._line_N)

    def line_of(self, record: int) -> str:
        return f"line {self._line_N[record]}"

    def lists(self, column: str) -> list[list[Any] | str]:
        cells = [each.get(column) for each in self._object_N]
        return [each if isinstance(each, list) else as_list(_text_of(each).strip()) for each in cells]

    def _object(self, line: str, number: int) -> Mapping[str, Any]:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"line {number} of {self.place} is no JSON ({first_line(error)}): give one object a line"
            ) from error
        if not isinstance(found, dict):
            raise InputError(
                f"line {number} of {self.place} is a {type(found).__name__} and no object: give one JSON object a line"
            )
        return found

    def _cells(self, column: str) -> Any:
        cells = [each.get(column) for each in self._object_N]
        nested = next((i for i, each in enumerate(cells) if isinstance(each, dict | list)), None)
        if nested is not None:
            raise InputError(
                f"{self.line_of(nested)} of {self.place} has a list or an object in {column!r}: give a text or a "
                "number, or leave the column out"
            )
        try:
            return pa.array([_text_of(each) for each in cells], pa.string())
        except (UnicodeError, pa.ArrowException) as error:  # half of a pair of surrogates
            raise InputError(
                f"column {column!r} of {self.place} has a character that no file can hold: leave it out"
            ) from error


def _text_of(cell: object) -> str:
    return "" if cell is None else cell if isinstance(cell, str) else json.dumps(cell)
