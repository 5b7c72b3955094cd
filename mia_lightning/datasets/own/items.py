"""One item of a dataset: a record and its label, in the forms in which people give them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.form import Field, Form
from mia_lightning.settings.checking import shown

_RECORD_KEYS = ("x", "image", "images", "img", "pixel_values", "input", "inputs", "data", "features")
_LABEL_KEYS = ("y", "label", "labels", "target", "targets", "class")


class ItemError(ValueError):
    """What is wrong with an item: a clause that follows its name."""


def parted(item: Any) -> tuple[Any, Any]:
    """The record and the label of an item `(x, y)`, `(x, y, more)` or `{"x": x, "y": y}`.

    Of a dict without a usual name for the record, such as `{"input_ids": ..., "attention_mask": ..., "labels": y}`, all
    that are numbers but the label are the record, by their names.

    Raises:
        ItemError: it has no label, or has no or several keys of usual names.
    """
    if isinstance(item, Mapping) and not any(key in item for key in _RECORD_KEYS):
        label = _under(item, _LABEL_KEYS, "label")
        fields = {key: each for key, each in item.items() if key not in _LABEL_KEYS and _is_numbers(each)}
        return fields or _under(item, _RECORD_KEYS, "record"), label
    if isinstance(item, Mapping):
        return _under(item, _RECORD_KEYS, "record"), _under(item, _LABEL_KEYS, "label")
    if isinstance(item, tuple | list) and len(item) > 1:
        return item[0], item[1]
    came = f"a {type(item).__name__} of one" if isinstance(item, tuple | list) and item else shown(item)
    raise ItemError(f"is {came}, without a label; let `__getitem__` give (x, y)")


def named(item: Any, key: str) -> str:
    """The name of the record, which stands in the item under a key or, if that is a number, at that place.

    Raises:
        ItemError: nothing stands there.
    """
    try:
        name = item[key] if isinstance(item, Mapping) else item[int(key)]
    except (LookupError, ValueError, TypeError):
        raise ItemError(f"has no {key!r}, which `dataset.ids` names as the name of a record") from None
    return str(name.item() if isinstance(name, Tensor) and name.numel() == 1 else name)


def _under(item: Mapping[Any, Any], keys: Sequence[str], what: str) -> Any:
    found = [key for key in keys if key in item]
    if len(found) == 1:
        return item[found[0]]
    known = ", ".join(map(repr, item))
    if not found:
        raise ItemError(f"has the keys {known}, none of which is a usual one for the {what}; name it {keys[0]!r}")
    raise ItemError(f"has the keys {known}, of which {' and '.join(found)} may both be the {what}; give one of them")


def as_fields(given: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The named tensors of a record.

    Raises:
        ItemError: one of them is no tensor, array or list of numbers, or has a name that no argument can have.
    """
    if not given:
        raise ItemError("has a record that is an empty dict; give its tensors by their names")
    odd = next((key for key in given if not isinstance(key, str) or not key.isidentifier()), None)
    if odd is not None:
        raise ItemError(f"has a record with the name {odd!r}; name its tensors as the network names its arguments")
    return {key: as_record(torch.as_tensor(each) if _is_list(each) else each) for key, each in given.items()}


def stored_form(values: Mapping[str, Tensor]) -> Form:
    """How named tensors of these types and shapes are stored, whatever they mean."""
    return Form.of([Field(name=key, dtype=each.dtype, shape=tuple(each.shape)) for key, each in values.items()])


def _is_list(given: Any) -> bool:
    if isinstance(given, list | tuple):
        return bool(given) and all(map(_is_list, given))
    return isinstance(given, int | float)


def _is_numbers(given: Any) -> bool:
    """Whether it is a tensor, an array or a list of numbers."""
    if isinstance(given, np.ndarray | np.generic):
        return given.dtype.kind in "fiub"
    return isinstance(given, Tensor) or _is_list(given)


def as_record(given: Any) -> Tensor:
    """The record as a tensor on the CPU; a PIL image as uint8 `[C, H, W]`; named tensors as one row of bytes.

    Raises:
        ItemError: it is neither a tensor, an array, an image nor a dict of such.
    """
    if isinstance(given, Mapping):
        values = as_fields(given)
        return stored_form(values).packed(values)
    if isinstance(given, Tensor):
        x = given.detach().as_subclass(Tensor).cpu()  # an image of torchvision is of a subclass
    elif isinstance(given, np.ndarray | np.generic):
        x = torch.from_numpy(np.ascontiguousarray(given))
    elif hasattr(given, "getbands"):
        from torchvision.transforms.v2.functional import pil_to_tensor

        x = pil_to_tensor(given)
    else:
        raise ItemError(f"has the record {shown(given)}; give a tensor or an array of numbers")
    if x.dtype == torch.bool:
        return x.to(torch.uint8)
    return x.float() if x.dtype == torch.float64 else x


Label = int | float | str | tuple[float, ...]
"""A label as a dataset has it: a number, text, or a row of numbers."""


def plain(y: Any) -> Any:
    """The label by which two items can be compared, whatever it means."""
    try:
        return y if isinstance(y, str) or y is None else torch.as_tensor(y).tolist()
    except (TypeError, ValueError, RuntimeError):
        return y


def as_numbers(y: Any) -> Label:
    """The label of a task without classes, which `Task.reading` reads of all records together.

    Raises:
        ItemError: it is no number and no row of numbers.
    """
    value = plain(y)
    is_row = isinstance(value, list)
    row = value if is_row else [value]
    if not row or not all(isinstance(each, int | float) and math.isfinite(each) for each in row):
        raise ItemError(f"has the label {shown(y)}; give a finite number, or a row of such")
    return tuple(map(float, row)) if is_row else float(row[0])


def as_label(y: Any) -> Label:
    """The label as a plain value; which class it is, all labels together say (`datasets/labels.py`).

    Raises:
        ItemError: it is no class, such as a fraction or several labels.
    """
    if isinstance(y, str):
        return y
    if y is None:
        raise ItemError("has no label; give the class as y of (x, y)")
    try:
        value = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError):
        raise ItemError(f"has the label {shown(y)}; give a class number, from 0, or text") from None
    if value.ndim == 1 and len(value) > 1 and not value.is_complex():
        row = value.tolist()
        if sorted(row) != [0] * (len(row) - 1) + [1]:
            raise ItemError(
                f"has a label of shape {list(value.shape)}, {shown(row)}, which is no one-hot row; give the class "
                "number, such as y.argmax(), or, where a record has several labels, use task=multilabel"
            )
        return tuple(row)
    if value.numel() != 1:
        raise ItemError(
            f"has a label of shape {list(value.shape)}, which is no class number; give the class number, such as "
            "y.argmax()"
        )
    if value.is_complex() or (value.is_floating_point() and value.item() % 1 != 0):
        raise ItemError(
            f"has the label {value.item()} of type {str(value.dtype).removeprefix('torch.')}; give a class number of "
            "an integer type, such as int(y), or, where it is a number that the model predicts, use task=regression"
        )
    return float(value) if value.is_floating_point() else int(value)
