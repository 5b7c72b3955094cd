"""Names of records and classes, as a user's datasets have them."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mia_lightning.datasets.labels import are_class_numbers
from mia_lightning.datasets.own.items import Label
from mia_lightning.datasets.own.places import Places
from mia_lightning.datasets.own.sets import OwnSet
from mia_lightning.errors import InputError


def names_from(sets: Sequence[OwnSet], places: Sequence[Places], attribute: str) -> list[str] | None:
    """The values of an attribute of the datasets, or of those inside them, for each record; None where none has it.

    Raises:
        InputError: some have it and others do not, or it has another length than the dataset.
    """
    found = [_values(each, place, attribute) for each, place in zip(sets, places, strict=True)]
    if all(each is None for each in found):
        return None
    for each, values in zip(sets, found, strict=True):
        if values is None:
            raise InputError(
                f"`dataset.ids` is {attribute}, which the dataset of the {each} does not have; give it to all of them."
            )
    return [name for values in found if values is not None for name in values]


def _values(each: OwnSet, places: Places, attribute: str) -> list[str] | None:
    own_M = np.arange(len(each.dataset)) if each.index is None else np.asarray(each.index)  # type: ignore[arg-type]
    if hasattr(each.dataset, attribute):
        values = _texts(each.dataset, attribute, each)
        return [values[i] for i in own_M.tolist()]
    by_leaf = {}
    for number in np.unique(places.leaf_M).tolist():
        if not hasattr(places.leaves[number], attribute):
            return None
        by_leaf[number] = _texts(places.leaves[number], attribute, each)
    return [by_leaf[leaf][i] for leaf, i in zip(places.leaf_M.tolist(), places.index_M.tolist(), strict=True)]


def _texts(dataset: Any, attribute: str, each: OwnSet) -> list[str]:
    values: Any = getattr(dataset, attribute)
    values = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
    length = len(values) if hasattr(values, "__len__") and not isinstance(values, str) else None
    if length != len(dataset):
        came = "is no list" if length is None else f"has {length} values"
        raise InputError(
            f"`dataset.ids` is {attribute}, which {came} in the dataset of the {each}; it must have one for each of "
            f"its {len(dataset)} records."
        )
    return [str(value) for value in values]


def paths_of(places: Sequence[Places]) -> list[str] | None:
    """The paths of the records' files, within the folder that holds all of them; None where a dataset has none."""
    leaves = places[0].leaves if places else []
    used = sorted({int(number) for place in places for number in np.unique(place.leaf_M)})
    paths = {number: _paths(leaves[number]) for number in used}
    held = [each for each in paths.values() if each is not None]
    if len(held) < len(used):
        return None
    roots = [getattr(leaves[number], "root", None) or os.path.commonpath(paths[number] or []) for number in used]
    folder = os.path.commonpath([os.path.abspath(root) for root in roots])
    within = {n: [_within(path, folder) for path in paths[n] or []] for n in used}
    return [
        within[leaf][i]
        for place in places
        for leaf, i in zip(place.leaf_M.tolist(), place.index_M.tolist(), strict=True)
    ]


def _within(path: str, folder: str) -> str:
    return os.path.relpath(os.path.abspath(path), folder).replace(os.sep, "/")


def _paths(dataset: Any) -> list[str] | None:
    """Of torchvision's ImageFolder and its like."""
    samples = getattr(dataset, "samples", None)
    if not isinstance(samples, list) or len(samples) != len(dataset) or not samples:
        return None
    if not all(isinstance(each, tuple) and each and isinstance(each[0], str | os.PathLike) for each in samples):
        return None
    return [os.fspath(each[0]) for each in samples]


def numbered_names(sets: Sequence[OwnSet]) -> list[str]:
    """Set and place in its dataset, such as `training/17`."""
    return [f"{each.name}/{i}" for each in sets for i in (range(len(each)) if each.index is None else each.index)]


def classes_of(
    sets: Sequence[OwnSet], places: Sequence[Places], data: Any, labels: Sequence[Label]
) -> list[str] | None:
    """The names of the classes: those of the datasets, else numbers, as many as the data says or labels need.

    None where the labels are no class numbers from 0, and the data do not name them.

    Raises:
        InputError: the datasets name them differently.
    """
    named: dict[tuple[str, ...], OwnSet] = {}
    for each, place in zip(sets, places, strict=True):
        for dataset in [each.dataset, *(place.leaves[int(n)] for n in np.unique(place.leaf_M))]:
            classes: Any = getattr(dataset, "classes", None)
            if isinstance(classes, list | tuple) and all(isinstance(one, str) for one in classes):
                named.setdefault(tuple(classes), each)
    if len(named) > 1:
        (one, first), (other, second) = list(named.items())[:2]
        odd = sorted(set(one) ^ set(other)) or list(one)
        raise InputError(
            f"The {first} has the classes {_few(one)} and the {second} {_few(other)}, so that labels of one are other "
            f"classes in the other; give both the same, see {odd[0]!r}."
        )
    names = list(next(iter(named), ()))
    distinct = sorted(set(labels), key=str)
    if not all(isinstance(each, int | float) for each in distinct):
        wide = {len(each) for each in distinct if isinstance(each, tuple)}
        return names if set(distinct) <= set(names) or wide == {len(names)} else None
    number_C = np.unique([int(each) for each in distinct])  # type: ignore[arg-type]  # all are numbers
    highest = int(number_C[-1])
    is_from_1 = len(number_C) == highest == len(names) and int(number_C[0]) == 1
    if (len(names) > highest or is_from_1) and len(set(names)) == len(names):
        return names
    count = getattr(data, "num_classes", None)
    count = count if type(count) is int else 0
    if count <= highest and not are_class_numbers(number_C, len(labels)):
        return None
    return [str(c) for c in range(max(count, highest + 1))]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
