"""What the records of an audit must be."""

import math
from numbers import Real
from typing import TYPE_CHECKING

import torch

from mia_lightning.datasets.arrays import check_here, check_tensor
from mia_lightning.datasets.form_checks import check_form
from mia_lightning.datasets.groups import check_groups
from mia_lightning.errors import InputError, is_storable
from mia_lightning.settings.checking import shown

if TYPE_CHECKING:
    from mia_lightning.datasets.population import Population

_CHECKED_NUMBERS = 2**22  # at once: bounds memory, not the result


def check_population(population: "Population") -> None:
    """Refuse one that cannot be audited.

    Raises:
        InputError: as `Population`.
    """
    _check_kinds(population)
    _check_shapes(population)
    _check_labels(population)
    if population.form is not None:
        check_form(population)
    else:
        _check_finite(population)
    _check_normalisation(population)


def _check_kinds(population: "Population") -> None:
    name = population.name
    if not isinstance(name, str) or not is_storable(name):
        raise InputError(f"name of population {shown(name)} is no text that a file can hold: give another one")
    for what in ("x_N", "label_N", "mean", "std", "member_N", "group_N"):
        value = getattr(population, what)
        if value is not None or what in ("x_N", "label_N"):
            check_tensor(value, f"{what.removesuffix('_N')} of population {name!r}")
    for what in ("class_names", "group_names", "remarks", "record_names"):
        texts = getattr(population, what)
        if not isinstance(texts, tuple) or not all(isinstance(each, str) for each in texts):
            raise InputError(f"{what} of population {name!r} is {shown(texts)}: give a tuple of texts")
        if not is_storable("".join(texts)):
            unreadable = next(each for each in texts if not is_storable(each))
            raise InputError(
                f"{what} of population {name!r} has {shown(unreadable)}, with a character that no file can hold: "
                "give another name"
            )
    scale: object = population.scale
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise InputError(f"scale of population {name!r} is {shown(scale)}: give a number")


def _check_shapes(population: "Population") -> None:
    name, x_N, label_N, member_N = population.name, population.x_N, population.label_N, population.member_N
    if x_N.ndim < 2 or math.prod(x_N.shape[1:]) == 0:
        raise InputError(
            f"x of population {name!r} has shape {tuple(x_N.shape)}: give it the shape [records, *features] "
            "with at least one feature"
        )
    if label_N.shape != x_N.shape[:1]:
        raise InputError(
            f"population {name!r} has {len(x_N)} records in x but labels of shape {tuple(label_N.shape)}: "
            "give one label for each record"
        )
    if len(population.record_names) not in (0, len(x_N)):
        raise InputError(
            f"population {name!r} has {len(x_N)} records and {len(population.record_names)} record_names: give one for "
            "each record, or none"
        )
    if len(x_N) == 0:
        raise InputError(f"population {name!r} has no records: give it some of at least two classes")
    if member_N is not None and (member_N.shape != label_N.shape or member_N.dtype != torch.bool):
        raise InputError(
            f"member of population {name!r} has shape {tuple(member_N.shape)} and dtype {member_N.dtype}: "
            f"give one bool for each of the {len(x_N)} records"
        )
    check_groups(name, population.group_N, population.group_names, len(x_N))
    image_shape = population.image_shape
    if image_shape is not None and (x_N.ndim != 2 or math.prod(image_shape) != x_N.shape[1]):
        raise InputError(
            f"image_shape of population {name!r} is {list(image_shape)}, but a record has shape {list(x_N.shape[1:])}: "
            "give the shape of the images that were flattened, or leave it None"
        )
    others = (label_N, member_N, population.group_N, population.mean, population.std)
    devices = {str(each.device) for each in (x_N, *others) if each is not None}
    if len(devices) > 1:
        raise InputError(
            f"the tensors of population {name!r} lie on {' and '.join(sorted(devices))}: put them on one device"
        )
    check_here(x_N, f"x of population {name!r}")


def _check_labels(population: "Population") -> None:
    name, label_N, num_classes = population.name, population.label_N, population.num_classes
    if label_N.dtype != torch.int64:
        raise InputError(f"label of population {name!r} has dtype {label_N.dtype}: give class numbers as int64")
    if num_classes < 2:
        raise InputError(
            f"population {name!r} has {num_classes} class: membership is audited on a classifier, "
            "so give records of at least two classes"
        )
    if len(set(population.class_names)) < num_classes:
        twice = next(each for each in population.class_names if population.class_names.count(each) > 1)
        raise InputError(f"class name {twice!r} of population {name!r} appears twice: give each class its own")
    outside = (label_N < 0) | (label_N >= num_classes)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise InputError(
            f"label {int(label_N[row])} of record {row} of population {name!r} is outside "
            f"0 to {num_classes - 1}: number the classes from 0, or name them all in class_names"
        )


def _check_finite(population: "Population") -> None:
    x_N = population.x_N
    if x_N.is_complex():
        raise InputError(f"x of population {population.name!r} is complex: give real numbers")
    if not x_N.is_floating_point():
        return
    width = max(1, _CHECKED_NUMBERS // x_N[0].numel())
    ends = (torch.stack(block.aminmax()) for block in x_N.split(width))  # NaN where a block has one
    start = next((b * width for b, end in enumerate(ends) if not bool(end.isfinite().all())), None)
    if start is None:
        return
    row = start + int((~x_N[start : start + width].isfinite()).flatten(1).any(1).nonzero()[0])
    place = (~x_N[row].isfinite()).nonzero()[0].tolist()
    raise InputError(
        f"record {row} of population {population.name!r} has the value "
        f"{float(x_N[row][tuple(place)])} at feature {', '.join(map(str, place))}: "
        f"replace or leave out what is not finite in {str(x_N.dtype).removeprefix('torch.')}"
    )


def _check_normalisation(population: "Population") -> None:
    name, shape = population.name, population.input_shape
    if not math.isfinite(population.scale) or population.scale == 0:
        raise InputError(f"scale {population.scale} of population {name!r} must be finite and not zero")
    for what, value in (("mean", population.mean), ("std", population.std)):
        if value is None:
            continue
        if not _broadcasts(value.shape, shape):
            raise InputError(
                f"{what} of population {name!r} has shape {tuple(value.shape)}, which does not broadcast "
                f"against a record of shape {shape}: give one number, or one for each channel as [C, 1, 1]"
            )
        if not bool(value.isfinite().all()) or (what == "std" and not bool((value > 0).all())):
            raise InputError(
                f"{what} {value.flatten().tolist()} of population {name!r} must be finite"
                + (" and above zero" if what == "std" else "")
            )


def _broadcasts(shape: tuple[int, ...], record: tuple[int, ...]) -> bool:
    if len(shape) > len(record):
        return False
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(record), strict=False))
