"""A table of text with a header line, in the forms in which people keep one."""

import bz2
import contextlib
import csv
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from mia_lightning.errors import InputError

MISSING = ("", "?", "na", "n/a", "nan", "null", "none", "<na>")
TRUE, FALSE = ["1", "true", "1.0", "yes"], ["0", "false", "0.0", "no"]
_BLOCK = 1 << 24  # bytes; the longest line that can be read
_DELIMITERS = ",;\t|"
# Numbers with commas: decimal ones, and those that could be whole ones in groups of three digits.
_DECIMAL_COMMA = r"^([+-]?(\d+(,\d*)?|,\d+)([eE][+-]?\d+)?)?$"
_GROUPED = r"^[+-]?[1-9]\d{0,2}(,\d{3})+$"
_PACKED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": lambda file: pa.input_stream(str(file), compression="zstd"),
}
_FOREIGN = {b"\xd0\xcf\x11\xe0": "a workbook", b"PAR1": "a parquet file", b"\x89HDF": "an HDF5 file"}
WIDE = (b"\xff\xfe", b"\xfe\xff")  # byte order marks of UTF-16
UNREADABLE = (OSError, EOFError, UnicodeError, csv.Error, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)


class Table:
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

    Attributes:
        columns: their names, trimmed.
        nameless: those that the file has no name for.

    Raises:
        InputError: the file is empty, ragged, or of another form, or two columns have one name.
    """

    def __init__(
        self,
        file: Path,
        place: str,
        delimiter: str | None = None,
        encoding: str | None = None,
        mend: str = "save it in that form",
    ) -> None:
        self.place, self._mend, self._named_encoding = place, mend, encoding or "UTF-8"
        self._open = self._opener(file)
        self._delimiter = delimiter or ","
        self._skipped = 0
        try:
            with self._open() as stream:
                start = stream.read(2)
            self._encoding = encoding or ("utf-16" if start in WIDE else "utf-8-sig")
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

    def __len__(self) -> int:
        return len(next(iter(self._column_of.values())))

    def text(self, column: str) -> Any:
        """The trimmed text of a column, a pyarrow array of strings without nulls."""
        return self._column_of[column]

    def numbers(self, column: str) -> np.ndarray[Any, Any]:
        """A column as float64 `[N]`; true and false are 1 and 0.

        Raises:
            InputError: a value is missing, or is no number.
        """
        text = self.text(column)
        values = _as_numbers(text, has_decimal_comma=self._has_decimal_comma)
        if values is not None and not np.isnan(values).any():
            return values
        if any(value.lower() in MISSING for value in text.to_pylist()):
            mend = "fill in the missing value, or leave the record out"
            raise self.refusal(column, lambda value: value.lower() not in MISSING, mend)
        mend = "encode it as a finite number"
        if self._has_decimal_comma:
            mend += "; other columns have decimal commas, so a point cannot be told from a separator of thousands"
        elif pc.any(pc.match_substring_regex(text, _GROUPED)).as_py():
            mend += ", without a comma between thousands and with a point as the decimal mark"
        raise self.refusal(column, self._is_number, mend)

    def refusal(self, column: str, usable: Callable[[str], bool], mend: str) -> InputError:
        """The error for the first value of a column that is not usable."""
        record, value = next((i, v) for i, v in enumerate(self.text(column).to_pylist()) if not usable(v))
        number = record if self._record_N is None else int(self._record_N[record])
        line = next(line for i, (line, _) in enumerate(self._rows()) if i == number + 1)
        return InputError(f"line {line} of {self.place} has {value!r} in column {column!r}: {mend}")

    def _is_number(self, value: str) -> bool:
        return _as_numbers(pa.array([value]), has_decimal_comma=self._has_decimal_comma) is not None

    @cached_property
    def _has_decimal_comma(self) -> bool:
        """Whether a column of numbers has commas that can be no separators of thousands."""
        for text in self._column_of.values():
            with_comma = text.filter(pc.match_substring(text, ","))
            if (
                len(with_comma)
                and pc.all(pc.match_substring_regex(text, _DECIMAL_COMMA)).as_py()
                and not pc.all(pc.match_substring_regex(with_comma, _GROUPED)).as_py()
            ):
                return True
        return False

    def _opener(self, file: Path) -> Callable[[], BinaryIO]:
        """What opens the text, whatever it is packed in."""
        with file.open("rb") as handle:
            start = handle.read(8)
        for mark, what in _FOREIGN.items():
            if start.startswith(mark):
                raise InputError(f"{self.place} is {what} and no text: save the table as CSV in UTF-8")
        if start.startswith(b"PK\x03\x04"):
            return self._opener_of_zip(file)
        for mark, opener in _PACKED.items():
            if start.startswith(mark):
                return lambda: cast(BinaryIO, opener(file))
        return lambda: file.open("rb")

    def _opener_of_zip(self, file: Path) -> Callable[[], BinaryIO]:
        try:
            with zipfile.ZipFile(file) as archive:
                names = [each for each in archive.namelist() if not each.endswith("/") and "__MACOSX" not in each]
        except zipfile.BadZipFile as error:
            raise self._unreadable(error) from error
        if any(each in ("xl/workbook.xml", "xl/workbook.bin", "content.xml") for each in names):
            raise InputError(f"{self.place} is a workbook and no text: save the sheet as CSV in UTF-8")
        if len(names) != 1:
            raise InputError(f"{self.place} is a zip file of {len(names)} files: pack one table alone")
        return lambda: cast(BinaryIO, zipfile.ZipFile(file).open(names[0]))

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

    def _check_names(self, names: list[str]) -> None:
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(f"column {twice[0]!r} of {self.place} appears twice: name each column differently")

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


def _as_numbers(text: Any, *, has_decimal_comma: bool) -> np.ndarray[Any, Any] | None:
    """float64 `[N]`, or None where a text is no number."""
    if has_decimal_comma:
        if pc.any(pc.match_substring(text, ".")).as_py():
            return None
        text = pc.replace_substring(text, ",", ".")
    with contextlib.suppress(pa.ArrowInvalid):
        return cast("np.ndarray[Any, Any]", pc.cast(text, pa.float64()).to_numpy())
    lower = pc.utf8_lower(text)
    if pc.all(pc.is_in(lower, pa.array(["true", "false"]))).as_py():
        return cast("np.ndarray[Any, Any]", pc.equal(lower, "true").to_numpy(zero_copy_only=False).astype(np.float64))
    return None
