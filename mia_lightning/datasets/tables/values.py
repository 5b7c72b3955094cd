"""The values of a column: distinct texts, finite numbers, yes and no; what is missing is refused."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mia_lightning.datasets.tables.columns import FALSE, MISSING, TRUE, Columns
from mia_lightning.errors import InputError
from mia_lightning.settings.overrides import override


def dropped(columns: Sequence[str]) -> str:
    """The override that leaves columns out."""
    return override("dataset.drop_columns", columns)


def check_present(table: Columns, column: str, what: str) -> None:
    """Refuse a column in which a record has nothing, or a word for nothing; `what` it is to have.

    The word "none" may be the name of a class.
    """
    is_missing_N = table.missing(column) & ~pc.equal(pc.utf8_lower(table.text(column)), "none").to_numpy(False)
    if is_missing_N.any():
        mend = f"records without {what}: {int(is_missing_N.sum())}; give each one, or leave them out"
        raise table.refusal_of(int(is_missing_N.argmax()), column, mend)


def distinct(table: Columns, column: str, what: str) -> tuple[list[str], np.ndarray[Any, Any]]:
    """The sorted names of classes or groups, and the number of each record's; `what` is "label" or "group"."""
    encoded = pc.dictionary_encode(table.text(column))
    values: list[str] = encoded.dictionary.to_pylist()
    if "" in values:
        raise table.refusal(column, bool, f"give each record a {what}, or leave the record out")
    numbers = [exact_number_of(value) for value in values]
    if all(map(math.isfinite, numbers)):
        spelling = _spellings(values, numbers, f"column {column!r} of {table.place}")
        order = sorted(spelling)
        names = [spelling[number] for number in order]
        place = {number: c for c, number in enumerate(order)}
        rank = np.array([place[number] for number in numbers], np.int64)
    else:
        _check_gaps(table, column, what, values, numbers)
        names = sorted(values)
        place_of = {name: c for c, name in enumerate(names)}
        rank = np.array([place_of[value] for value in values], np.int64)
    return names, rank[encoded.indices.to_numpy()]


def _check_gaps(table: Columns, column: str, what: str, values: Sequence[str], numbers: Sequence[float]) -> None:
    """Refuse words for what is missing, such as nan, among numbers: there they name no class."""
    is_gap = [value.lower() in MISSING for value in values]
    others = [number for number, gap in zip(numbers, is_gap, strict=True) if not gap]
    if any(is_gap) and others and all(map(math.isfinite, others)):
        mend = f"give each record a {what}, or leave the record out"
        raise table.refusal(column, lambda value: value.lower() not in MISSING, mend)


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


def exact_number_of(value: str) -> float | int:
    """The number, whole ones to the last digit, as identifiers have many; NaN for text that is no number."""
    number = number_of(value)
    return int(value) if math.isfinite(number) and re.fullmatch(r"[+-]?\d+", value, re.ASCII) else number


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
