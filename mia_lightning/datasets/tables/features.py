"""What the columns of a table hold that a model is trained on: numbers, categories, and gaps in both."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from mia_lightning.datasets.doubts import (
    about_identifiers,
    about_rounding,
    are_few,
    are_names,
    is_coarse,
    looks_like_identifier,
)
from mia_lightning.datasets.form import Field, Form
from mia_lightning.datasets.tables.columns import Columns
from mia_lightning.datasets.tables.values import check_finite, dropped
from mia_lightning.errors import InputError, listed

Values = np.ndarray[Any, Any]

_CLOCK = r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[ap]m)?( ?(z|[+-]\d{2}:?\d{2}))?"
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DAYS = (
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}",
    r"\d{1,2}[-/.]\d{1,2}[-/.](\d{2}|\d{4})",
    rf"\d{{1,2}}[ -]{_MONTH}[ ,-]+\d{{2,4}}",
    rf"{_MONTH} \d{{1,2}},? \d{{4}}",
)
_DATE = rf"(?i)^(({'|'.join(_DAYS)})([ t]+{_CLOCK})?|{_CLOCK})$"
_ZEROS_IN_FRONT = r"^0\d+$"  # of codes, such as those of places
_LIKE_A_NUMBER = r"^[$€£]?[+-]?(\d{1,3}([.,' ]\d{3})+|\d+|[.,]\d)([.,]?\d*)([eE][+-]?\d+)?\s?[%$€£]?$"
_FEW_NUMBERS = 20  # so many are names of classes rather than measurements with some text among them
_WORDS_OF_TEXT = 4  # on average, of free text
_FEWEST_FOR_REMARKS = 20  # records


@dataclass
class Features:
    """The columns that a model is trained on, and what is to be said of columns.

    Attributes:
        numbers: by column, float64 `[N]`, NaN for a gap.
        categories: by column, the names of the codes, of which the first is that of a gap, and int64 codes `[N]`.
        remarks: sentences for the report.
    """

    numbers: dict[str, Values] = field(default_factory=dict)
    categories: dict[str, tuple[list[str], Values]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def stored(self) -> tuple[Tensor, Form]:
        """The records as a population stores them, and their form.

        Numbers without gaps, and nothing else, are one tensor without a name, which every network takes.
        """
        values: dict[str, Tensor] = {}
        fields = []
        has_gaps = any(bool(np.isnan(each).any()) for each in self.numbers.values())
        if self.numbers:
            name = "numbers" if self.categories or has_gaps else ""
            values[name] = torch.from_numpy(np.stack(list(self.numbers.values()), 1).astype(np.float32))
            fields.append(Field(name=name, shape=(len(self.numbers),), columns=tuple(self.numbers), has_gaps=has_gaps))
        if self.categories:
            vocabulary = tuple(tuple(names) for names, _ in self.categories.values())
            sizes = tuple(map(len, vocabulary))
            dtype = next(
                each for each in (torch.uint8, torch.int16, torch.int32) if max(sizes) - 1 <= torch.iinfo(each).max
            )
            values["categories"] = torch.from_numpy(np.stack([code_N for _, code_N in self.categories.values()], 1))
            values["categories"] = values["categories"].to(dtype)
            fields.append(
                Field(
                    name="categories",
                    kind="category",
                    dtype=dtype,
                    shape=(len(sizes),),
                    sizes=sizes,
                    columns=tuple(self.categories),
                    vocabulary=vocabulary,
                )
            )
        form = Form.of(fields)
        return (values[""] if form.is_one else form.packed(values)), form


def read_features(
    table: Columns, columns: Sequence[str], label_N: Values, where: str, *, keep_identifiers: bool
) -> Features:
    """The features in these columns of a table.

    Args:
        where: the name of the file in remarks.
        keep_identifiers: whether columns that look like identifiers are features all the same.

    Raises:
        InputError: a column holds dates, or text among many numbers, or a number that float32 cannot hold, or no column
            is left.
    """
    found, empty = Features(), []
    for column in columns:
        if bool(table.missing(column).all()):
            empty.append(column)
            continue
        _refuse_dates(table, column)
        values = None if _has_codes(table.text(column)) else table.numbers_and_gaps(column)
        if values is None:
            _refuse_text_among_numbers(table, column)
            found.categories[column] = _encoded(table, column)
        else:
            check_finite(table, column, values)
            found.numbers[column] = values
    if empty:
        found.remarks.append(f"{_columns(empty)} of {where} {_has(empty)} no value, and {_are(empty)} left out.")
    _set_apart(found, label_N, where, keep_identifiers=keep_identifiers)
    if not found.numbers and not found.categories:
        raise InputError(f"{table.place} has no column beside the label's to train on: add the features")
    _remark_coarse_numbers(found, where)
    _remark_constants(found, where)
    _remark_rare_categories(found, where)
    return found


def _refuse_dates(table: Columns, column: str) -> None:
    present = _present(table, column)
    dates = present if table.has_dates(column) else present.filter(pc.match_substring_regex(present, _DATE))
    if 2 * len(dates) > len(present):
        raise InputError(
            f"column {column!r} of {table.place} holds dates or times, such as {dates[0].as_py()!r}: give numbers, "
            f"such as days since one date, or leave the column out by {dropped([column])}"
        )


def _refuse_text_among_numbers(table: Columns, column: str) -> None:
    """Refuse a column of numbers that cannot be read for some text, which would become as many categories."""
    distinct = pc.unique(_present(table, column))
    num = int(pc.sum(pc.match_substring_regex(distinct, _LIKE_A_NUMBER)).as_py())
    is_of_text = num < len(distinct) and (num <= _FEW_NUMBERS or 2 * num < len(distinct))
    if is_of_text or _has_codes(distinct):
        return
    raise InputError(f"{table.no_number(column)}; {dropped([column])} leaves the column out")


def _has_codes(text: Any) -> bool:
    return bool(pc.any(pc.match_substring_regex(text, _ZEROS_IN_FRONT)).as_py())


def _present(table: Columns, column: str) -> Any:
    return table.text(column).filter(pa.array(~table.missing(column)))


def _encoded(table: Columns, column: str) -> tuple[list[str], Values]:
    """The names of the codes, sorted behind that of a gap, which is the empty text; and the code of each record."""
    encoded = pc.dictionary_encode(_present(table, column))
    names: list[str] = encoded.dictionary.to_pylist()
    rank = np.empty(len(names), np.int64)
    rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(1, len(names) + 1)
    code_N = np.zeros(len(table), np.int64)
    code_N[~table.missing(column)] = rank[encoded.indices.to_numpy()]
    return ["", *sorted(names)], code_N


def _set_apart(found: Features, label_N: Values, where: str, *, keep_identifiers: bool) -> None:
    """Take out the columns of identifiers and of free text, or name them where they are kept."""
    texts = [
        column
        for column, (names, code_N) in found.categories.items()
        if 2 * len(names) > len(code_N) >= _FEWEST_FOR_REMARKS and _num_words(names) >= _WORDS_OF_TEXT
    ]
    named = [
        column
        for column, (_, code_N) in found.categories.items()
        if column not in texts and are_names(code_N[code_N > 0])
    ]
    numbered = [
        column
        for column, values in found.numbers.items()
        if looks_like_identifier(values[~np.isnan(values)], label_N[~np.isnan(values)])
    ]
    if not are_few(len(numbered), len(found.numbers) + len(found.categories)):
        numbered = []
    for columns, what in ((named, "text"), (numbered, "whole numbers")):
        if columns:
            of = [f"The column {column!r}" for column in columns]
            found.remarks.append(about_identifiers(of, where, _mend(columns, keep_identifiers), what=what))
    if texts:
        found.remarks.append(
            f"{_columns(texts)} of {where} {'looks' if len(texts) == 1 else 'look'} like free text, which categories "
            f"cannot hold: {_mend(texts, keep_identifiers)}; dataset=text reads such a column."
        )
    for column in () if keep_identifiers else (*texts, *named, *numbered):
        found.numbers.pop(column, None)
        found.categories.pop(column, None)


def _mend(columns: Sequence[str], keep_identifiers: bool) -> str:
    one = len(columns) == 1
    if keep_identifiers:
        return f"leave {'it' if one else 'them'} out by {dropped(columns)}"
    return f"{'it is' if one else 'they are'} kept out of training, unless dataset.keep_identifiers=true"


def _num_words(names: Sequence[str]) -> float:
    """In a name, on average."""
    return sum(len(re.findall(r"\S+", name)) for name in names) / len(names)


def _remark_coarse_numbers(found: Features, where: str) -> None:
    coarse = [column for column, values in found.numbers.items() if is_coarse(values)]
    if coarse:
        names = [f"The column {column!r}" for column in coarse]
        found.remarks.append(about_rounding(names, where, f", or leave it out by {dropped(coarse)}"))


def _remark_constants(found: Features, where: str) -> None:
    constant = [column for column, values in found.numbers.items() if bool((values == values[0]).all())]
    constant += [column for column, (_, code_N) in found.categories.items() if bool((code_N == code_N[0]).all())]
    if constant:
        found.remarks.append(
            f"{_columns(constant)} of {where} {_has(constant)} one value, and {_say(constant)} nothing."
        )


def _remark_rare_categories(found: Features, where: str) -> None:
    """Which categories a single record has: the models that do not train on it have not seen them."""
    num_of = {column: int((np.bincount(code_N)[1:] == 1).sum()) for column, (_, code_N) in found.categories.items()}
    rare = {column: num for column, num in num_of.items() if num}
    if rare and len(next(iter(found.categories.values()))[1]) >= _FEWEST_FOR_REMARKS:
        some = [f"{num} of {column!r}" for column, num in rare.items()]
        found.remarks.append(
            f"Categories of {where} that a single record has: {sum(rare.values())} ({', '.join(some[:5])}"
            f"{', …' if len(rare) > 5 else ''}); a model that does not train on such a record has never seen its "
            "category, which may give the record away as a non-member."
        )


def _columns(names: Sequence[str]) -> str:
    return f"{'The column' if len(names) == 1 else 'The columns'} {listed(names)}"


def _has(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _say(names: Sequence[str]) -> str:
    return "says" if len(names) == 1 else "say"
