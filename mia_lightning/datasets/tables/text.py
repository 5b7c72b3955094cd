"""A table of text with a header line, in the forms in which people keep one."""

import contextlib
import csv
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from pydantic import BeforeValidator, StringConstraints

from mia_lightning.datasets.tables.columns import Columns
from mia_lightning.datasets.tables.packing import UNREADABLE, encoding_of, opener
from mia_lightning.errors import InputError
from mia_lightning.settings.words import Words

_BLOCK = 1 << 24  # bytes; the longest line that can be read
_DELIMITERS = ",;\t|"

Delimiter = Annotated[
    str,
    BeforeValidator(lambda value: "\t" if value == "\\t" else value),
    StringConstraints(pattern=r'^[\x01-\x7f--["\r\n]]$'),
    Words("one ASCII character, such as a comma, a semicolon or \\t for a tab"),
]


class Table(Columns):
    """The columns of a file as trimmed text, and the line of each record for error messages.

    The file is UTF-8, or UTF-16 with a byte order mark, as it is or compressed: gzip, bzip2, xz, Zstandard, or a zip
    file of one table. Lines without any content are left out, and so are such columns where they have no name. Other
    columns without a name are called as in pandas: `Unnamed: 0` is the first column.

    Args:
        file: which is there.
        place: its name in messages.
        delimiter: between columns; None for the one of comma, semicolon, tab and bar that the header line has most of.
        encoding: of the text, where it is another than above.
        mend: of a file that is no such text, for the message.
        aside: columns that are never read as numbers.

    Attributes:
        columns: their names, trimmed.
        nameless: those that the file has no name for.

    Raises:
        InputError: the file is empty, ragged, or of another form, or two columns have one name.
    """

    naming = "a name in the header line, and dataset.delimiter to what separates them"

    def __init__(
        self,
        file: Path,
        place: str,
        delimiter: str | None = None,
        encoding: str | None = None,
        mend: str = "save it in that form",
        aside: Collection[str] = (),
    ) -> None:
        self.aside = aside
        self.place, self._mend, self._named_encoding = place, mend, encoding or "UTF-8"
        self._delimiter = delimiter or ","
        self._skipped = 0
        try:
            self._open = opener(file, place)
            with self._open() as stream:
                self._encoding = encoding_of(stream.read(2), encoding)
            self._look_at_head(delimiter)
            header = next(self._rows(), (1, []))[1]
        except UNREADABLE as error:
            raise self._unreadable(error) from error
        if not header:
            raise InputError(f"{place} is empty: give a CSV file with a header line and one line a record")
        trimmed = [_trimmed(name) for name in header]
        names = [name or f"Unnamed: {number}" for number, name in enumerate(trimmed)]
        try:
            with self._open() as stream:
                table = pyarrow.csv.read_csv(
                    stream,
                    read_options=pyarrow.csv.ReadOptions(
                        block_size=_BLOCK,
                        skip_rows=self._skipped,
                        encoding="utf8" if self._encoding == "utf-8-sig" else self._encoding,
                    ),
                    parse_options=pyarrow.csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
                    convert_options=pyarrow.csv.ConvertOptions(
                        column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
                    ),
                )
        except (pa.ArrowInvalid, *UNREADABLE) as error:
            raise self._ragged(len(header)) or self._unreadable(error) from error
        columns = [_trimmed_column(each) for each in table.columns]
        self._record_N = _with_content(columns)
        columns = columns if self._record_N is None else [each.take(self._record_N) for each in columns]
        self._column_of = {
            name: column
            for name, own, column in zip(names, trimmed, columns, strict=True)
            if own or pc.any(pc.not_equal(column, "")).as_py()
        }
        self.columns = list(self._column_of)
        self.nameless = [name for name, own in zip(names, trimmed, strict=True) if not own and name in self._column_of]
        self._check_names([name for name in names if name in self._column_of])

    def text(self, column: str) -> Any:
        return self._column_of[column]

    def line_of(self, record: int) -> str:
        number = record if self._record_N is None else int(self._record_N[record])
        return f"line {next(line for i, (line, _) in enumerate(self._rows()) if i == number + 1)}"

    def _look_at_head(self, delimiter: str | None) -> None:
        """Find the delimiter; skip a first line by which a spreadsheet names it (`sep=;`)."""
        with self._text() as text:
            line = text.readline()
            while line and not line.strip():
                line = text.readline()
        if re.fullmatch(r"sep=.\r?\n?", line):
            self._skipped, self._delimiter = 1, delimiter or line[4]
        elif delimiter is None:
            outside = re.sub(r'"[^"]*"', "", line)
            self._delimiter = max(_DELIMITERS, key=outside.count)

    @contextlib.contextmanager
    def _text(self) -> Iterator[io.TextIOWrapper]:
        with self._open() as stream, io.TextIOWrapper(stream, self._encoding, newline="") as text:
            yield text

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of each row, without blank lines as in pyarrow; slow, for error messages only."""
        with self._text() as text:
            for _ in range(self._skipped):
                text.readline()
            reader = csv.reader(text, delimiter=self._delimiter)
            for row in reader:
                if row:
                    yield reader.line_num + self._skipped, row

    def _ragged(self, width: int) -> InputError | None:
        """The error for the first line of another length than the header line, if there is one."""
        with contextlib.suppress(*UNREADABLE):
            for line, row in self._rows():
                if len(row) != width:
                    return InputError(
                        f"line {line} of {self.place} has {len(row)} values for {width} columns: "
                        "give each record one value a column"
                    )
        return None

    def _unreadable(self, error: BaseException) -> InputError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return InputError(f"{self.place} cannot be read as CSV in {self._named_encoding} ({reason}): {self._mend}")


def _trimmed(name: str) -> str:
    """Without outer blanks, and without quotes that stand behind blanks."""
    return re.sub(r'^\s+"(.*)"\s*$', r"\1", name, flags=re.DOTALL).strip()


def _trimmed_column(column: Any) -> Any:
    text = column.combine_chunks()
    if pc.any(pc.match_substring_regex(text, r'^\s+"')).as_py():
        text = pc.replace_substring_regex(text, r'^\s+"((?s:.*))"\s*$', r"\1")
    return pc.utf8_trim_whitespace(text)


def _with_content(columns: list[Any]) -> np.ndarray[Any, Any] | None:
    """The numbers of the rows that have any; None for all."""
    is_empty = pc.equal(columns[0], "")
    for column in columns[1:]:
        if not pc.any(is_empty).as_py():
            return None
        is_empty = pc.and_(is_empty, pc.equal(column, ""))
    has_content: np.ndarray[Any, Any] = pc.invert(is_empty).to_numpy(zero_copy_only=False)
    return None if has_content.all() or len(columns) == 1 else has_content.nonzero()[0]
