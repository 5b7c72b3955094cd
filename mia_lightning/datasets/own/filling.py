"""The records of all sets, item by item, into one array."""

import mmap
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from mia_lightning.datasets.own.items import ItemError, Label
from mia_lightning.datasets.own.places import Places
from mia_lightning.datasets.own.sets import OwnSet
from mia_lightning.datasets.own.views import View
from mia_lightning.errors import InputError, first_line
from mia_lightning.seeds import drawn_since, isolated, states

T = TypeVar("T")

MAPPED_BYTES = 2**28
"""Records that take as much are mapped from a file without a name in the system's temporary folder."""


def filled(
    sets: Sequence[OwnSet], places: Sequence[Places], views: Sequence[Mapping[int, View]], *, as_bytes: bool
) -> tuple[Tensor, list[Label], list[str]]:
    """Records `[N, *features]`, their labels and the names that stand in the items.

    Args:
        views: of each set, by the number of the dataset inside it.
        as_bytes: whether records are read as uint8.

    Raises:
        InputError: an item has another form or shape than the first, cannot be read, or draws random numbers.
    """
    total = sum(map(len, sets))
    labels: list[Label] = []
    x_N: Tensor | None = None
    names: list[str] = []
    row = 0
    with isolated(0, "records"):
        before = states()
        for each, place, by_leaf in zip(sets, places, views, strict=True):
            take = {n: view.bytes if as_bytes else view.item for n, view in by_leaf.items()}
            for m, (leaf, index) in enumerate(zip(place.leaf_M.tolist(), place.index_M.tolist(), strict=True)):
                x, label, name = read(take[leaf], index, f"Item {m} of the {each}")
                if x_N is None:
                    x_N = room((total, *x.shape), x.dtype)
                if x.shape != x_N.shape[1:] or x.dtype != x_N.dtype:
                    raise InputError(
                        f"Item {m} of the {each} has {_form(x)} and the first record {_form(x_N[0])}; give all records "
                        "one shape and type, for instance by a Resize in the transform."
                    )
                x_N[row] = x
                labels.append(label)
                row += 1
                if name is not None:
                    names.append(name)
        drawn = drawn_since(before)
    if drawn is not None:
        raise InputError(
            f"Some items of {type(sets[0].dataset).__name__} draw from the generator of {drawn} as they are read, so "
            "that their records are not the same each time; give `eval_dataset`, the same records through a fixed "
            "transform."
        )
    assert x_N is not None
    return x_N, labels, names


def read(take: Callable[[int], T], index: int, what: str) -> T:
    """What is taken from a dataset, or a sentence that begins with what it is.

    Raises:
        InputError: it cannot be read, or has another form than (x, y).
    """
    try:
        return take(index)
    except ItemError as error:
        raise InputError(f"{what} {error}.") from error
    except InputError:
        raise
    except Exception as error:  # the user's own code
        raise InputError(
            f"{what} cannot be read: {type(error).__name__}: {first_line(error)}; see that the dataset gives it."
        ) from error


def room(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor to be filled, in memory or, if large, in a file that vanishes with it.

    Raises:
        InputError: there is no space for it.
    """
    size = prod(shape) * dtype.itemsize
    if size < MAPPED_BYTES:
        return torch.empty(*shape, dtype=dtype)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would kill the process at the first write
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=dtype).view(*shape)
    except OSError as error:
        raise InputError(
            f"The records take {size / 2**30:.3g} GiB, and no file of that size can be made in "
            f"'{tempfile.gettempdir()}' ({error.strerror or error}); free space there, or choose another TMPDIR."
        ) from error


def _form(x: Tensor) -> str:
    return f"shape {list(x.shape)} of {str(x.dtype).removeprefix('torch.')}"
