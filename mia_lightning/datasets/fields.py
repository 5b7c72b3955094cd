"""The form of records that a caller gives as named arrays, or as one array of a kind."""

from collections.abc import Mapping
from typing import Annotated, Any, get_args

import torch
from torch import Tensor

from mia_lightning.datasets.arrays import Array, as_tensor
from mia_lightning.datasets.form import Field, Form, Kind
from mia_lightning.errors import InputError
from mia_lightning.settings.checking import shown
from mia_lightning.settings.kinds import Name
from mia_lightning.settings.words import Such, Words

Kinds = str | Mapping[str, Any]
"""The kind of one array, such as "tokens"; its settings, such as `{"kind": "tokens", "padding": 0}`; or these by the
names of several arrays."""

KindsSetting = Annotated[
    Name | Mapping[str, Any], Words("a kind, or a mapping of names to kinds"), Such("{ids:tokens,codes:category}")
]
"""Of a setting: the same."""

_KINDS = get_args(Kind)
_SETTINGS = ("kind", "padding", "mask", "sizes", "columns", "vocabulary", "has_gaps", "sample_rate")
_OF_CODES = "tokens, category"
_MASK = "attention_mask"


def of_items(
    x: Tensor | Mapping[str, Tensor], kinds: Kinds | None
) -> tuple[Tensor | Mapping[str, Tensor], Kinds | None]:
    """Records and kinds of a user's own items: of named tensors, rows of int64 are tokens unless told otherwise.

    An int64 tensor `attention_mask` that is 0 exactly where tokens are one id, which is then padding, or nowhere, is
    not kept, but derived from the tokens.
    """
    if isinstance(x, Tensor) or (kinds is not None and not isinstance(kinds, Mapping)):
        return x, kinds
    told = dict(kinds or {})
    found = {**{key: "tokens" for key, each in x.items() if key not in told and _is_row_of_ids(each)}, **told}
    mask = x.get(_MASK)
    if mask is None or _MASK in told:
        return x, found
    for key in [each for each in found if each != _MASK and found[each] == "tokens"]:
        if x[key].shape != mask.shape:
            continue
        filling = x[key][mask == 0].unique().tolist()
        if len(filling) > 1:
            continue
        padding = filling[0] if filling else None
        is_padding = torch.zeros_like(mask, dtype=torch.bool) if padding is None else x[key].eq(padding)
        if torch.equal(mask, (~is_padding).to(mask.dtype)):
            found = {name: kind for name, kind in found.items() if name != _MASK}
            found[key] = {"kind": "tokens", "padding": padding, "mask": _MASK}
            return {name: each for name, each in x.items() if name != _MASK}, found
    return x, found


def _is_row_of_ids(value: Tensor) -> bool:
    return value.dtype == torch.int64 and value.ndim == 2


def formed(x: Array | Mapping[str, Array], kinds: Kinds | None, name: str) -> tuple[Tensor, Form | None]:
    """Records as a population stores them, and their form; None for one array of numbers or pixels.

    Raises:
        InputError: arrays of different lengths, a kind that is not known or does not fit its array, or an array of
            integers without one.
    """
    if isinstance(x, Mapping):
        return _several(x, kinds, name)
    if isinstance(x, list | tuple) and len({tuple(getattr(each, "shape", ())) for each in x}) > 1:
        raise InputError(
            f"x of population {name!r} is a {type(x).__name__} of {len(x)} arrays of different shapes: give records of "
            "one shape, or several arrays by the names of what the network takes, such as {'a': ..., 'b': ...}"
        )
    x_N = as_tensor(x, f"x of population {name!r}")
    if kinds is None:
        return x_N, None
    field = _field("", x_N, kinds, f"x of population {name!r}")
    if field.kind in ("numeric", "image") and not field.has_gaps:
        return x_N, None
    return x_N, Form(fields=(field,))


def _several(x: Mapping[str, Array], kinds: Kinds | None, name: str) -> tuple[Tensor, Form]:
    where = f"population {name!r}"
    if not x or not all(isinstance(key, str) and key.isidentifier() for key in x):
        raise InputError(
            f"x of {where} has the names {shown(list(x))}: name each array as the network's forward names its argument"
        )
    if kinds is not None and not isinstance(kinds, Mapping):
        raise InputError(f"kinds of {where} is {shown(kinds)}: give a kind for each name, such as {{'ids': 'tokens'}}")
    unknown = [key for key in kinds or {} if key not in x]
    if unknown:
        raise InputError(f"kinds of {where} names {unknown[0]!r}: x has {', '.join(map(repr, x))}")
    values = {key: as_tensor(value, f"{key!r} of {where}") for key, value in x.items()}
    lengths = {key: len(value) if value.ndim else 0 for key, value in values.items()}
    (first, length), *others = lengths.items()
    differing = next(((key, other) for key, other in others if other != length), None)
    if differing is not None:
        raise InputError(
            f"{first!r} of {where} has {length} records and {differing[0]!r} has {differing[1]}: give one row for each "
            "record in all of them"
        )
    fields = [_field(key, value, (kinds or {}).get(key), f"{key!r} of {where}") for key, value in values.items()]
    form = Form.of(fields)
    return form.packed(values), form


def _field(name: str, value: Tensor, kind: Any, what: str) -> Field:
    if kind is None:
        kind = _usual(value, what)
    given = {"kind": kind} if isinstance(kind, str) else kind
    if not isinstance(given, Mapping) or "kind" not in given or not set(given) <= set(_SETTINGS):
        raise InputError(
            f"the kind of {what} is {shown(kind)}: give one of {', '.join(_KINDS)}, or a mapping of `kind` and any of "
            f"{', '.join(_SETTINGS[1:])}"
        )
    if given["kind"] not in _KINDS:
        raise InputError(f"the kind of {what} is {shown(given['kind'])}: give one of {', '.join(_KINDS)}")
    settings: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in given.items()}
    if value.ndim == 0:
        raise InputError(f"{what} has no axis of records: give the shape [records, *features]")
    shape = tuple(value.shape[1:])
    if settings["kind"] in ("tokens", "category"):
        if value.is_floating_point():
            raise InputError(
                f"{what} has dtype {str(value.dtype).removeprefix('torch.')}: {settings['kind']} are whole numbers; "
                "give them as integers"
            )
        settings.setdefault("sizes", _sizes(settings["kind"], value))
    return Field(name=name, dtype=value.dtype, shape=shape, **settings)


def _usual(value: Tensor, what: str) -> Kind:
    """The kind of an array of which nothing is said."""
    if value.is_floating_point():
        return "numeric"
    if value.dtype == torch.uint8 and value.ndim == 4:
        return "image"
    raise InputError(
        f"{what} has whole numbers of shape {list(value.shape)}, which may be {_OF_CODES} or numeric: say which in "
        "kinds, or leave it out, as what only numbers the records"
    )


def _sizes(kind: str, value: Tensor) -> tuple[int, ...]:
    """As many codes as the largest that occurs."""
    if not value.numel():
        return (1,)
    if kind == "tokens":
        return (max(1, int(value.max()) + 1),)
    highest = value.reshape(len(value), -1).amax(0).clamp(min=0)
    return tuple(int(each) + 1 for each in highest)
