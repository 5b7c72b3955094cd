"""The columns of a table as text, whatever file they come from."""

import ast
import contextlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import PurePath
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mia_lightning.errors import InputError

MISSING = ("", "?", "na", "n/a", "nan", "null", "none", "<na>")
_TRUTHS = ["true", "false"]
TRUE, FALSE = ["1", "true", "1.0", "yes"], ["0", "false", "0.0", "no"]
# Numbers with commas: decimal ones, and those that could be whole ones in groups of three digits.
_DECIMAL_COMMA = r"^([+-]?(\d+(,\d*)?|,\d+)([eE][+-]?\d+)?)?$"
_GROUPED = r"^[+-]?[1-9]\d{0,2}(,\d{3})+$"


class Columns(ABC):
    """The columns of a table as trimmed text; the empty text stands for nothing.

    Attributes:
        place: the name of the file in messages.
        columns: their names.
        nameless: those that the file has no name for; they are called as in pandas: `Unnamed: 0` is the first column.
        naming: what a setting that names a column is to be set to, for messages.
        aside: columns that are never read as numbers, so that their commas say nothing of other columns.
    """

    naming = "one of its columns"
    place: str
    columns: list[str]
    nameless: Sequence[str] = ()
    aside: Collection[str] = ()

    @property
    def file_name(self) -> str:
        """The name of the file without its folder, for the report."""
        return PurePath(self.place.strip("'")).name

    def __len__(self) -> int:
        return len(self.text(self.columns[0]))

    @abstractmethod
    def text(self, column: str) -> Any:
        """The trimmed text of a column, a pyarrow array of strings without nulls."""

    def lists(self, column: str) -> list[list[Any] | str]:
        """A column of lists, each as JSON or Python writes it; of a cell that is none the trimmed text."""
        return [as_list(cell) for cell in self.text(column).to_pylist()]

    @abstractmethod
    def line_of(self, record: int) -> str:
        """Where a record stands in the file, such as `line 3`."""

    def has_dates(self, column: str) -> bool:
        """Whether the file itself says that a column holds dates or times."""
        return False

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
        raise self._other_than_numbers(column, self._mend_of_numbers(text), gaps=False)

    def numbers_and_gaps(self, column: str) -> np.ndarray[Any, Any] | None:
        """A column as float64 `[N]`, with NaN for what is missing (`MISSING`); None where another text is no number."""
        is_missing_N = self.missing(column)
        present = self.text(column).filter(pa.array(~is_missing_N))
        values = _as_numbers(present, has_decimal_comma=self._has_decimal_comma)
        if values is None:
            return None
        all_N = np.full(len(is_missing_N), np.nan)
        all_N[~is_missing_N] = values
        return all_N

    def missing(self, column: str) -> np.ndarray[Any, Any]:
        """bool `[N]`: where a column has nothing, or a word for nothing."""
        return _is_missing(self.text(column)).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]

    def no_number(self, column: str) -> InputError:
        """The error for the first value of a column that is neither a number nor missing."""
        mend = f"{self._mend_of_numbers(self.text(column))}, and leave the cell empty where a number is missing"
        return self._other_than_numbers(column, mend, gaps=True)

    def _other_than_numbers(self, column: str, mend: str, *, gaps: bool) -> InputError:
        """The error for the first value that is no number, or else the first of true and false among numbers."""

        def is_usable(value: str) -> bool:
            return (gaps and value.lower() in MISSING) or self._is_number(value)

        if all(map(is_usable, self.text(column).to_pylist())):
            return self.refusal(column, lambda value: value.lower() not in _TRUTHS, mend)
        return self.refusal(column, is_usable, mend)

    def refusal(self, column: str, usable: Callable[[str], bool], mend: str) -> InputError:
        """The error for the first value of a column that is not usable."""
        record = next(i for i, value in enumerate(self.text(column).to_pylist()) if not usable(value))
        return self.refusal_of(record, column, mend)

    def refusal_of(self, record: int, column: str, mend: str) -> InputError:
        """The error for the value of a record."""
        value = self.text(column)[record].as_py()
        return InputError(f"{self.line_of(record)} of {self.place} has {value!r} in column {column!r}: {mend}")

    def _check_names(self, names: Sequence[str]) -> None:
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(f"column {twice[0]!r} of {self.place} appears twice: name each column differently")

    def _mend_of_numbers(self, text: Any) -> str:
        mend = "encode it as a finite number"
        if self._has_decimal_comma:
            return (
                f"{mend}; other columns have decimal commas, such as {self._with_decimal_commas!r}, so a point cannot "
                "be told from a separator of thousands"
            )
        if pc.any(pc.match_substring_regex(text, _GROUPED)).as_py():
            return mend + ", without a comma between thousands and with a point as the decimal mark"
        return mend

    def _is_number(self, value: str) -> bool:
        values = _as_numbers(pa.array([value]), has_decimal_comma=self._has_decimal_comma)
        return values is not None and not np.isnan(values).any()

    @property
    def _has_decimal_comma(self) -> bool:
        return self._with_decimal_commas is not None

    @cached_property
    def _with_decimal_commas(self) -> str | None:
        """The first column of numbers whose commas can be no separators of thousands; None for none."""
        return next((column for column in self._untyped() if _has_decimal_commas(self.text(column))), None)

    def _untyped(self) -> Sequence[str]:
        """The columns whose numbers are known by their text alone."""
        return [column for column in self.columns if column not in self.aside]


class TypedColumns(Columns):
    """Columns whose cells have types: each becomes text when it is asked for, and a text with a comma is no number."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._text_of: dict[str, Any] = {}

    def text(self, column: str) -> Any:
        if column not in self._text_of:
            self._text_of[column] = pc.utf8_trim_whitespace(pc.fill_null(self._cells(column), ""))
        return self._text_of[column]

    @abstractmethod
    def _cells(self, column: str) -> Any:
        """A column as a pyarrow array of strings and nulls."""

    def _untyped(self) -> Sequence[str]:
        return ()


def _has_decimal_commas(text: Any) -> bool:
    with_comma = text.filter(pc.match_substring(text, ","))
    if not len(with_comma) or pc.all(pc.match_substring_regex(with_comma, _GROUPED)).as_py():
        return False
    is_number = pc.match_substring_regex(text, _DECIMAL_COMMA)
    return bool(pc.all(pc.or_(is_number, _is_missing(text))).as_py())


def as_list(cell: str) -> list[Any] | str:
    """The list that a cell writes, or the cell."""
    for read in (json.loads, ast.literal_eval) if cell.startswith("[") else ():
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = read(cell)
            return found if isinstance(found, list) else cell
    return cell


def _is_missing(text: Any) -> Any:
    return pc.is_in(pc.utf8_lower(text), pa.array(MISSING))


def _as_numbers(text: Any, *, has_decimal_comma: bool) -> np.ndarray[Any, Any] | None:
    """float64 `[N]`, or None where a text is no number."""
    if has_decimal_comma:
        if pc.any(pc.match_substring(text, ".")).as_py():
            return None
        text = pc.replace_substring(text, ",", ".")
    with contextlib.suppress(pa.ArrowInvalid):
        return cast("np.ndarray[Any, Any]", pc.cast(text, pa.float64()).to_numpy())
    lower = pc.utf8_lower(text)
    if pc.all(pc.is_in(lower, pa.array(_TRUTHS))).as_py():
        return cast("np.ndarray[Any, Any]", pc.equal(lower, "true").to_numpy(zero_copy_only=False).astype(np.float64))
    return None
