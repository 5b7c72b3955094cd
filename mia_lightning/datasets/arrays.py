"""Values that a caller gives as arrays, as tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.settings.checking import shown

Array = Tensor | np.ndarray[Any, Any] | Sequence[Any]

_KEPT_DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)


def as_array(values: Any, what: str) -> np.ndarray[Any, Any]:
    if np.ma.isMaskedArray(values) and np.ma.is_masked(values):
        raise InputError(
            f"{what} has {int(np.ma.count_masked(values))} masked values, and a mask is not kept: fill them in, or "
            "leave their records out"
        )
    if hasattr(values, "tocsr"):
        raise InputError(f"{what} is sparse: give all of its numbers, by its method toarray()")
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths
        raise InputError(f"{what} is no array ({error}): give numbers in rows of equal length") from error


def as_tensor(values: Array, what: str) -> Tensor:
    if not isinstance(values, Tensor):
        given, values = values, as_array(values, what)
        if values.dtype.kind not in "fiub":
            _refuse_columns(given, what)
            raise InputError(f"{what} has dtype {values.dtype}: give numbers, of a floating or integer type")
        # What torch cannot hold: long doubles, and what `_held` mends.
        if values.dtype.kind == "f" and values.dtype.itemsize > 4:
            with np.errstate(over="ignore"):  # becomes infinite, which `Population` refuses
                values = values.astype(np.float32)
        elif values.dtype.kind == "u" and values.dtype.itemsize > 1:
            if values.size and values.max() > np.iinfo(np.int64).max:
                raise InputError(f"{what} holds {values.max()}: give numbers below 2**63")
            values = values.astype(np.int64)
        values = _held(values)
    check_tensor(values, what)
    check_here(values, what)
    if values.dtype in _KEPT_DTYPES:
        return values
    if values.is_complex() or values.is_quantized:
        raise InputError(f"{what} has dtype {values.dtype}: give numbers, of a floating or integer type")
    if values.dtype == torch.bool:
        return values.to(torch.uint8)
    return values.to(torch.float32 if values.is_floating_point() else torch.int64)


def _refuse_columns(given: Any, what: str) -> None:
    """Refuse a DataFrame by the columns that are no numbers."""
    if not hasattr(given, "columns") or not hasattr(given, "dtypes"):
        return
    odd = [str(name) for name, dtype in zip(given.columns, given.dtypes, strict=True) if not _is_numeric(dtype)]
    if odd:
        some = ", ".join(map(repr, odd[:5])) + (", …" if len(odd) > 5 else "")
        raise InputError(
            f"{what} has columns of other than plain numbers, {some}: leave them out, make numbers of them, or write "
            "the table to a file and read it by mia_lightning.datasets.table.load_table, which takes texts and gaps"
        )


def _is_numeric(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in "fiub"


def as_mask(values: Array, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values
    array = as_array(values, what)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} has dtype {array.dtype}: give one bool for each record")
    return _held(array)


def _held(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of it; a copy of one of foreign byte order, with negative strides or in read-only memory."""
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def as_constant(values: Array | float, what: str) -> Tensor:
    """A tensor as it is; numbers without rounding."""
    if isinstance(values, Tensor):
        return values
    array = as_array(values, what)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{what} has dtype {array.dtype}: give numbers")
    return torch.tensor(array.astype(np.float64))


def check_order(given: Mapping[str, object], population: str) -> None:
    """Refuse pandas objects whose indexes name the same records in another order: they are taken by their places.

    Args:
        given: by what each is called in the sentence.

    Raises:
        InputError: naming the first two that differ.
    """
    index_of: dict[str, Any] = {what: getattr(values, "index", None) for what, values in given.items()}
    indexed = [(what, index) for what, index in index_of.items() if hasattr(index, "equals")]
    for what, index in indexed[1:]:
        first, other = indexed[0]
        if not index.equals(other) and len(index) == len(other) and set(index) == set(other):
            raise InputError(
                f"{first} and {what} of population {population!r} have the same index in another order, and records "
                f"are matched by their places: give {what.strip('`')}.loc[{first}.index], or both without an index, by "
                "to_numpy()"
            )


def check_tensor(value: object, what: str) -> None:
    """Refuse what is no tensor with a place in memory for each of its numbers.

    Raises:
        InputError: it is of another class, sparse, nested, or in another layout.
    """
    if not isinstance(value, Tensor):
        raise InputError(f"{what} is {shown(value)}: give a tensor, or arrays to mia_lightning.make_population")
    if value.layout is not torch.strided or value.is_nested:
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.").lstrip("_")
        raise InputError(f"{what} is a tensor of layout {kind}: give one with all of its numbers, such as x.to_dense()")


def check_here(value: Tensor, what: str) -> None:
    if value.is_meta:
        raise InputError(f"{what} is on the device meta, where tensors have no numbers: give it with its numbers")
