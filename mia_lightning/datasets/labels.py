"""Labels as people have them: text, from 1, with gaps, one-hot, bool, floats that are whole numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.arrays import Array, as_array, as_tensor
from mia_lightning.datasets.doubts import check_classes
from mia_lightning.errors import InputError
from mia_lightning.settings.checking import shown
from mia_lightning.tasks.interface import Task

Values = np.ndarray[Any, Any]

_FEW = 6  # labels in a sentence
_GAPS = ("nan", "none", "<na>", "nat")  # as Python and pandas write what is missing
_MOST_ROUNDING = 1e-3  # of the deviation of numbers


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """How labels that are no class numbers from 0 became these.

    Attributes:
        sentence: says so.
        is_text: whether they are text, and so no numbers that code of the user's own could read otherwise.
    """

    sentence: str
    is_text: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Classes:
    """The class of each record, or the label of another task.

    Attributes:
        label_N: int64, on the device of the given labels; of another shape where those were no row.
        names: of the classes, or of the labels or numbers of another task.
        map: how the labels became class numbers; None where they are class numbers from 0.
    """

    label_N: Tensor
    names: tuple[str, ...]
    map: LabelMap | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """For the report."""
        return () if self.map is None else (self.map.sentence,)


def as_labels(label: Array, class_names: Sequence[str] | None, name: str, task: Task) -> Classes:
    """The labels of a task: class numbers (`as_classes`), or what the task reads (`Task.reading`).

    Raises:
        InputError: they are none of the task, or are numbers with more digits than are held.
    """
    if task.reading is None:
        return as_classes(label, class_names, name)
    what = f"label of population {name!r}"
    label_N = task.reading.read(as_tensor(label, what), what)
    if label_N.is_floating_point():
        _check_digits(label, label_N, what)
    names = task.reading.names(label_N) if class_names is None else class_names
    return Classes(label_N=label_N, names=tuple(str(each) for each in names))


def _check_digits(label: Array, label_N: Tensor, what: str) -> None:
    """Refuse numbers of which `label_N` keeps so few digits that rounding shows beside their own variation."""
    given = label.detach().double().cpu().numpy() if isinstance(label, Tensor) else np.asarray(label, np.float64)
    held_ND = label_N.double().cpu().numpy().reshape(len(label_N), -1)
    given_ND = given.reshape(held_ND.shape)
    given_ND, held_ND = (
        each[np.isfinite(held_ND).all(1)] for each in (given_ND, held_ND)
    )  # the rest is refused as such
    if not len(given_ND):
        return
    error_D, deviation_D = np.abs(given_ND - held_ND).max(0), given_ND.std(0)
    coarse_D = (error_D > _MOST_ROUNDING * deviation_D) & (given_ND.max(0) > given_ND.min(0))
    if coarse_D.any():
        d = int(coarse_D.argmax())
        mean = given_ND[:, d].mean()
        raise InputError(
            f"{what} varies by {deviation_D[d]:.3g} around {mean:.6g}, where float32, which holds it, rounds by up to "
            f"{error_D[d]:.3g}: subtract a public constant near {mean:.2g} from all"
        )


def as_classes(label: Array, class_names: Sequence[str] | None, name: str) -> Classes:
    """Class numbers from 0, in the order of the labels' values.

    Whole numbers from 0 are class numbers, as long as more than half of the numbers up to the largest occur, and that
    is below N. All others (below 0 the two classes -1 and 1 alone), and text, are the names of classes: sorted by value
    (text that writes numbers, too), they are the classes 0 to C - 1. Of a one-hot row the place of the 1 is the class;
    of a pandas Categorical, the place among its categories.

    Args:
        label: `[N]` or `[N, 1]`, whole numbers of any type, bool or text; or one-hot `[N, C]`.
        class_names: one for each class. Text must then be among them; whole numbers are places among them from 0 or,
            where they cannot be, names among them, or all of the numbers from 1 to C.
        name: of the population, for messages.

    Raises:
        InputError: a missing label, a fraction, several labels for a record, text and numbers mixed, a label that is
            none of `class_names`, or labels that are measurements or identifiers.
    """
    what = f"label of population {name!r}"
    given = None if class_names is None else [str(each) for each in class_names]
    device = label.device if isinstance(label, Tensor) else torch.device("cpu")
    values, own_names, form = _values(label, what)
    if own_names is not None:  # the labels are places among names of their own
        found = _among(own_names, values, given, what)
    elif values.dtype.kind == "U":
        found = _of_text(values, given, what)
    else:
        found = _of_numbers(values, given, what)
    number_N, names, order = found
    sentence = about_labels(order, f"population {name!r}", form)
    return Classes(
        label_N=torch.from_numpy(np.ascontiguousarray(number_N, np.int64)).to(device),
        names=tuple(names),
        map=LabelMap(sentence=sentence, is_text=values.dtype.kind == "U") if sentence else None,
    )


_Found = tuple[Values, Sequence[str], Sequence[str]]
"""Class numbers, their names, and the labels that they stand for where these are no class numbers from 0."""


def _values(label: Any, what: str) -> tuple[Values, list[str] | None, str]:
    """Whole numbers or text; the names that numbers are places of, if any; and the form, if it is to be said."""
    categorical = getattr(label, "cat", label)
    if hasattr(categorical, "categories") and hasattr(categorical, "codes"):
        code_N = np.asarray(categorical.codes).astype(np.int64)
        if (code_N < 0).any():
            raise _missing(int((code_N < 0).argmax()), what)
        return code_N, [str(each) for each in categorical.categories], "a categorical"
    if isinstance(label, Tensor):
        as_tensor(label, what)  # refuses what has no numbers
        values = (label.double() if label.is_floating_point() else label).detach().cpu().numpy()
    else:
        values = as_array(label, what)
        if values.dtype.kind == "U" and not hasattr(label, "dtype"):  # of a list, in which numbers may stand, too
            values = as_array(np.array(label, object), what)
        if values.dtype.kind in "OT":
            values = _of_objects(values, what)
    dtype = str(label.dtype if isinstance(label, Tensor) else values.dtype)
    values = np.atleast_1d(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind == "U":
        empty = np.char.strip(values.reshape(-1)) == ""
        if empty.any():
            raise _missing(int(empty.argmax()), what)
        return values, None, ""
    if values.dtype.kind == "f":
        return _whole(values, what, dtype, getattr(label, "columns", None))
    values = as_tensor(values, what).numpy()
    if values.ndim == 2:
        return _places_of_ones(values, what, getattr(label, "columns", None))
    return values, None, ""


def _of_objects(values: Values, what: str) -> Values:
    """The text, or the numbers, that an array of objects holds."""
    flat = values.reshape(-1).tolist()
    row = next((row for row, each in enumerate(flat) if _is_missing(each)), None)
    if row is not None:
        raise _missing(row // max(1, len(flat) // max(1, len(values))), what)
    kinds = {np.asarray(each).dtype.kind for each in flat}
    if kinds == {"U"}:
        return values.astype(str)
    if kinds <= set("iub") or kinds <= set("fiu"):
        return values.astype(np.float64 if "f" in kinds else np.int64)
    if "U" in kinds and kinds <= set("Ufiub"):
        text = next(each for each in flat if isinstance(each, str))
        number = next(each for each in flat if not isinstance(each, str))
        raise InputError(f"{what} has the text {shown(text)} and the number {shown(number)}: give all labels one type")
    odd = next(each for each in flat if np.asarray(each).dtype.kind not in "Ufiub")
    raise InputError(f"{what} has dtype {values.dtype}, with {shown(odd)} in it: give numbers or text")


def _is_missing(value: object) -> bool:
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def _missing(row: int, what: str) -> InputError:
    return InputError(f"record {row} has no {what} (it is missing, or NaN): give it one, or leave the record out")


def _whole(values: Values, what: str, dtype: str, columns: Any) -> tuple[Values, list[str] | None, str]:
    """Floating-point labels, as whole numbers."""
    rows = values.reshape(len(values), -1) if values.size else values.reshape(0, 1)
    if np.isnan(rows).any():
        raise _missing(int(np.isnan(rows).any(1).argmax()), what)
    odd = ~np.isfinite(rows) | (np.abs(rows) > 2**53) | (rows != np.floor(rows))
    if odd.any():
        row = int(odd.any(1).argmax())
        mend = (
            "for instance by label.astype('int64'), or, where it is a number that the model predicts, use "
            "task=regression"
        )
        if values.ndim > 1:
            mend = "for instance by label.argmax(1)"
        raise InputError(
            f"{what} has dtype {dtype} and is {rows[row][odd[row]][0]:.6g} at record {row}, which is no class: give "
            f"class numbers of an integer type, {mend}"
        )
    whole = values.astype(np.int64)
    if values.ndim == 2:
        return _places_of_ones(whole, what, columns)
    return whole, None, f"whole numbers of type {dtype.removeprefix('torch.')}"


def _places_of_ones(value_NC: Values, what: str, columns: Any) -> tuple[Values, list[str] | None, str]:
    """The classes of one-hot rows; the names of their columns, where they have some."""
    is_odd = ((value_NC != 0) & (value_NC != 1)).any(1) | (value_NC.sum(1) != 1)
    if is_odd.any():
        row = int(is_odd.argmax())
        several = int((value_NC[row] == 1).sum()) > 1
        mend = "where a record has several labels, use task=multilabel" if several else "give each record one label"
        raise InputError(
            f"{what} has rows of {value_NC.shape[1]} numbers, and that of record {row} is "
            f"{shown(value_NC[row].tolist())}, which is not one 1 among zeros: give one class number for each record; "
            f"{mend}"
        )
    names = [str(c) for c in range(value_NC.shape[1])] if columns is None else [str(each) for each in columns]
    return value_NC.argmax(1), names, f"one-hot rows of {len(names)} numbers"


def _among(own: list[str], place_N: Values, given: list[str] | None, what: str) -> _Found:
    """Of places among own names, such as those of categories or of one-hot columns."""
    if given is None or given == own:
        return place_N, own, own if own != [str(c) for c in range(len(own))] else ()
    if sorted(given) == sorted(own):
        return np.array([given.index(each) for each in own])[place_N], given, given
    if len(given) != len(own) or own != [str(c) for c in range(len(own))]:
        raise InputError(
            f"{what} has the {len(own)} classes {in_order(own)}, and class_names are the {len(given)} {in_order(given)}"
            ": give the same names, or leave class_names out"
        )
    return place_N, given, ()


def _of_text(text_N: Values, given: list[str] | None, what: str) -> _Found:
    flat = text_N.reshape(-1)
    distinct, place_M = np.unique(flat, return_inverse=True)
    named: list[str] = distinct.tolist()
    if given is None:
        gap = _gap_among_numbers(named)
        if gap is not None:
            raise _missing(int((flat == gap).argmax()), what)
        names, numbers = by_value(named)
        place_M = np.array([names.index(each) for each in named], np.int64)[place_M]
        check_classes(numbers, place_M, what)
    else:
        other = next((each for each in named if each not in given), None)
        if other is not None:
            row = int((flat == other).argmax())
            raise InputError(
                f"{what} is {other!r} at record {row}, which is none of class_names, {in_order(given)}: name it there, "
                "or leave the record out"
            )
        names = given
        place_M = np.array([names.index(each) for each in named], np.int64)[place_M]
    counted = [str(c) for c in range(len(names))]
    return place_M.reshape(text_N.shape), names, () if names == counted else names


def _gap_among_numbers(named: Sequence[str]) -> str | None:
    """A word that Python writes for what is missing, such as nan, where all others are numbers; None for none."""
    gaps = [each for each in named if each.strip().lower() in _GAPS]
    others = [each for each in named if each not in gaps]
    is_number = bool(others) and None not in by_value(others)[1]
    return gaps[0] if gaps and is_number else None


def by_value(named: Sequence[str]) -> tuple[list[str], list[float | None]]:
    """Names sorted as numbers if all of them are finite numbers, else as text; and the numbers, or None for each."""
    try:
        numbers = [float(each) for each in named]
    except ValueError:
        numbers = []
    if not numbers or not np.isfinite(numbers).all():
        return sorted(named), [None] * len(named)
    order = sorted(range(len(named)), key=lambda i: (numbers[i], named[i]))
    return [named[i] for i in order], [numbers[i] for i in order]


def are_class_numbers(distinct: Values, num_records: int) -> bool:
    """Whether sorted distinct whole numbers count from 0, and are no names: most numbers up to the largest occur.

    -1 and 1 are names of two classes; of other numbers below 0 nothing is known, and `Population` refuses them.
    """
    if distinct.tolist() == [-1, 1]:
        return False
    if len(distinct) == 0 or distinct[0] < 0:
        return True
    return bool(distinct[0] == 0 and distinct[-1] < max(2, num_records) and 2 * len(distinct) > distinct[-1])


def _of_numbers(value_N: Values, given: list[str] | None, what: str) -> _Found:
    value_N = value_N.astype(np.int64)
    distinct = np.unique(value_N)
    low, high = (int(distinct[0]), int(distinct[-1])) if len(distinct) else (0, 0)
    if given is not None:
        return _of_numbers_named(value_N, distinct, given)
    is_number = are_class_numbers(distinct, value_N.size)
    number_N = value_N if is_number else np.searchsorted(distinct, value_N)
    names = [str(c) for c in range(high + 1)] if is_number else [str(each) for each in distinct.tolist()]
    if low >= 0 and value_N.ndim == 1:
        check_classes(distinct.tolist(), number_N, what)
    return number_N, names, () if is_number else names


def _of_numbers_named(value_N: Values, distinct: Values, given: list[str]) -> _Found:
    """With names of the classes: places among them or, where some are none, names among them, or all from 1 to C."""
    C = len(given)
    if len(distinct) == 0 or distinct[0] < 0 or distinct[-1] < C:
        return value_N, given, ()
    texts = [str(each) for each in distinct.tolist()]
    if all(each in given for each in texts):
        places = np.array([given.index(each) for each in texts], np.int64)
        return places[np.searchsorted(distinct, value_N)], given, texts
    if distinct.tolist() == list(range(1, C + 1)):
        return value_N - 1, given, texts
    return value_N, given, ()  # which `Population` refuses


def about_labels(names: Sequence[str], where: str, form: str = "") -> str:
    """The sentence on labels that are other than the class numbers from 0; "" where they are these.

    Args:
        names: the labels in the order of the classes; () where they are the class numbers.
        where: has the labels.
        form: of the labels, if they are no whole numbers of an integer type.
    """
    order = f"{in_order(names)} are the classes 0 to {len(names) - 1}, in this order" if names else ""
    if not form:
        return f"The labels of {where}: {order}." if order else ""
    if not order:
        order = "the place of the 1 is the class" if "one-hot" in form else "they are the class numbers"
    return f"The labels of {where} are {form}: {order}."


def in_order(names: Sequence[str]) -> str:
    """Names in a sentence; numbers in a row as the first and the last."""
    numbers = [int(each) for each in names if each.isdecimal()]
    if len(numbers) == len(names) > 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    texts = [each if each.removeprefix("-").isdecimal() else repr(each) for each in names]
    return ", ".join(texts if len(texts) <= _FEW else [*texts[: _FEW - 1], "…", texts[-1]])
