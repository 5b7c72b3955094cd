"""What records with a form must be: each field's values, and what is said of them."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mia_lightning.datasets.form import Field, Form
from mia_lightning.errors import InputError
from mia_lightning.settings.checking import shown

if TYPE_CHECKING:
    from mia_lightning.datasets.population import Population

_CHECKED_BYTES = 2**24  # at once: bounds memory, not the result
_LARGEST = 2**53  # whole numbers up to it are float64
RESERVED = "labels"
"""The name of the labels in a batch of named tensors."""


def check_form(population: "Population") -> None:
    """Refuse records that are not what their form says.

    Raises:
        InputError: naming the field.
    """
    form, name = population.form, population.name
    assert form is not None
    if not isinstance(form, Form) or not form.fields:
        raise InputError(f"form of population {name!r} is {shown(form)}: give a Form of at least one field")
    for what in ("mean", "std", "image_shape"):
        if getattr(population, what) is not None:
            raise InputError(f"{what} of population {name!r} has no effect on records with a form: leave it None")
    if population.scale != 1:
        raise InputError(f"scale of population {name!r} has no effect on records with a form: leave it 1")
    _check_names(form, name)
    for field in form.fields:
        _check_field(field, _of(field, name))
    _check_stored(form, population.x_N, name)
    check_values(form, population.x_N, f"population {name!r}")


def check_values(form: Form, x_N: Tensor, where: str) -> None:
    """Refuse stored records with values that their form does not allow.

    Args:
        where: they stand, for messages.

    Raises:
        InputError: naming the record, the field and the value.
    """
    for start, values in _blocks(form, x_N):
        for field in form.fields:
            _check_values(field, values[field.name], start, f"{field.name!r} of {where}" if field.name else where)


def _of(field: Field, population: str) -> str:
    return f"{field.name!r} of population {population!r}" if field.name else f"x of population {population!r}"


def _check_names(form: Form, name: str) -> None:
    names = [field.name for field in form.fields]
    if "" in names and len(names) > 1:
        raise InputError(f"population {name!r} has a field without a name among {len(names)}: name each of them")
    names += [field.mask for field in form.fields if field.mask is not None]
    twice = next((each for each in names if names.count(each) > 1), None)
    if twice is not None:
        raise InputError(f"population {name!r} has {twice!r} twice among its fields and masks: name each once")
    if RESERVED in names:
        raise InputError(
            f"population {name!r} has a field {RESERVED!r}, which is the name of the labels in a batch: name it "
            "otherwise, or give it as the label"
        )
    if names != [""] and form != Form.of(form.fields):
        raise InputError(f"form of population {name!r} has its fields in another order than Form.of gives: use Form.of")


def _check_field(field: Field, what: str) -> None:
    """What is said of a field, without its values."""
    if field.is_code and field.dtype.is_floating_point:
        raise InputError(f"{what} has dtype {_short(field.dtype)}, and {field.kind} are whole numbers: store integers")
    needed = {"tokens": 1, "category": field.num_entries}.get(field.kind)
    if needed is not None and (len(field.sizes) != needed or min(field.sizes, default=0) < 1):
        raise InputError(
            f"`sizes` of {what} is {list(field.sizes)}: give "
            + ("the number of ids" if field.kind == "tokens" else f"the number of codes of each of {needed} entries")
        )
    if field.padding is not None and (field.kind != "tokens" or not 0 <= field.padding < field.sizes[0]):
        raise InputError(f"`padding` of {what} is {field.padding}: give the id of a token, of tokens alone, or None")
    if field.mask is not None and (field.kind != "tokens" or not field.name):
        raise InputError(f"`mask` of {what} is {field.mask!r}: name one for named tokens alone, or give None")
    if field.has_gaps and (field.kind != "numeric" or not field.dtype.is_floating_point):
        raise InputError(f"`has_gaps` of {what} is true: only numeric values of a floating type have gaps")
    if field.columns and len(field.columns) != field.num_entries:
        raise InputError(f"`columns` of {what} has {len(field.columns)} names for {field.num_entries} entries")
    if field.kind == "image" and len(field.shape) < 2:
        raise InputError(f"{what} has records of shape {list(field.shape)}: an image has rows and columns last")
    if field.kind == "tokens" and len(field.shape) != 1:
        raise InputError(f"{what} has records of shape {list(field.shape)}: tokens are one row, [records, length]")


def _check_stored(form: Form, x_N: Tensor, name: str) -> None:
    expected = (form.fields[0].shape, form.fields[0].dtype) if form.is_one else ((form.row_bytes,), torch.uint8)
    if (tuple(x_N.shape[1:]), x_N.dtype) != expected:
        raise InputError(
            f"x of population {name!r} has records of shape {list(x_N.shape[1:])} and type {_short(x_N.dtype)}, and "
            f"its form stores {list(expected[0])} of {_short(expected[1])}: use the rows of Form.packed"
        )


def _blocks(form: Form, x_N: Tensor) -> Iterator[tuple[int, dict[str, Tensor]]]:
    width = max(1, _CHECKED_BYTES // max(1, x_N[0].nbytes))
    for b, block in enumerate(x_N.split(width)):
        yield b * width, {"": block} if form.is_one else form.unpacked(block)


def _check_values(field: Field, value: Tensor, start: int, what: str) -> None:
    flat = value.reshape(len(value), -1)
    if field.is_code:
        sizes = torch.tensor(field.sizes, device=flat.device)
        wrong = (flat < 0) | (flat.long() >= sizes)
        limit = "its number of ids" if field.kind == "tokens" else "the number of codes of its entry"
        rest = f"which is not below {limit}, or is negative: give codes from 0, or a larger `sizes`"
    elif field.dtype.is_floating_point:
        wrong = flat.isinf() if field.has_gaps else ~flat.isfinite()
        rest = "which is not finite: replace or leave out such values" + (
            ", or say `has_gaps` where NaN is a gap" if field.kind == "numeric" and not field.has_gaps else ""
        )
    else:
        wrong = (flat > _LARGEST) | (flat < -_LARGEST) if field.dtype == torch.int64 else torch.zeros(1, 1).bool()
        rest = f"beyond {_LARGEST}, from where on numbers are not exact: store it in floating point"
    if not bool(wrong.any()):
        return
    row, place = wrong.nonzero()[0].tolist()
    column = f" in column {field.columns[place]!r}" if field.columns else f" at {place}" if flat.shape[1] > 1 else ""
    number = flat[row, place].item()
    shown_number = f"{number:g}" if isinstance(number, float) and not math.isnan(number) else str(number)
    raise InputError(f"record {start + row} of {what} has {shown_number}{column}, {rest}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
