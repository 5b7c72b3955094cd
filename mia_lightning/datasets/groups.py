"""Groups of records, such as the hospitals they come from; leakage may differ between groups."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.settings.checking import shown

NO_GROUP = -1  # of a synthetic record


def numbered(group: Any, group_names: Sequence[str] | None, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """The number of each record's group, int64 `[N]`, and the names of the groups.

    Args:
        group: `[N]`, text or whole numbers. Without `group_names` the sorted distinct values name the groups; with
            them the numbers are indices of names, and -1 for a record of no group; `[N, G]` for G groupings.
        group_names: one for each group.
        name: of the population, for error messages.

    Raises:
        InputError: values that are neither text nor whole numbers, or names that are no list.
    """
    if isinstance(group_names, str) or not isinstance(group_names, Iterable | None):
        raise InputError(f"group_names of population {name!r} is {group_names!r}: give a list, one name for each group")
    device = group.device if isinstance(group, Tensor) else torch.device("cpu")
    try:
        values = group.cpu().numpy() if isinstance(group, Tensor) else np.asarray(group)
    except (TypeError, ValueError, RuntimeError):  # rows of different lengths, a sparse tensor
        raise InputError(
            f"group of population {name!r} is {shown(group)}: give text or whole numbers, one for each record"
        ) from None
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.flat):  # as pandas holds text
        values = values.astype(str)
    if values.dtype.kind not in ("iubU" if group_names is None else "iub"):
        kind = "text or whole numbers" if group_names is None else "numbers into group_names, from 0"
        raise InputError(f"group of population {name!r} has dtype {values.dtype}: give {kind}, one for each record")
    if group_names is None and values.ndim > 1:
        raise InputError(
            f"group of population {name!r} has shape {values.shape}: give one group for each record, or, for several "
            "groupings, the numbers of their groups and all group_names"
        )
    if group_names is None:
        distinct, number = np.unique(values, return_inverse=True)
        values, group_names = number.reshape(values.shape), [str(each) for each in distinct.tolist()]
    group_N = torch.from_numpy(values.astype(np.int64)).to(device)
    return group_N, tuple(str(each) for each in group_names)


def in_group(group_N: Tensor, number: int) -> Tensor:
    """bool `[N]`: which records are in a group, in whichever grouping."""
    return (group_N == number).flatten(1).any(1) if group_N.ndim > 1 else group_N == number


def check_groups(name: str, group_N: Tensor | None, group_names: tuple[str, ...], num_records: int) -> None:
    """Check the groups of the population `name`.

    Raises:
        InputError: numbers without names or names without numbers, another shape or dtype, a name that appears twice,
            or a number that is neither an index of a name nor -1.
    """
    if group_N is None:
        if group_names:
            raise InputError(
                f"population {name!r} has {len(group_names)} group_names but no group: give the group of each record, "
                "or leave the names out"
            )
        return
    if group_N.shape[:1] != (num_records,) or group_N.ndim > 2 or group_N.dtype != torch.int64:
        raise InputError(
            f"group of population {name!r} has shape {tuple(group_N.shape)} and dtype {group_N.dtype}: "
            f"give one int64 number for each of the {num_records} records, or a row of numbers for several groupings"
        )
    if len(set(group_names)) < len(group_names):
        twice = next(each for each in group_names if group_names.count(each) > 1)
        raise InputError(f"group name {twice!r} of population {name!r} appears twice: give each group its own")
    outside_N = (group_N < NO_GROUP) | (group_N >= len(group_names))
    if bool(outside_N.any()):
        row = int(outside_N.nonzero()[0][0])
        raise InputError(
            f"group {int(group_N[outside_N][0])} of record {row} of population {name!r} is not one of the "
            f"{len(group_names)} group_names: number the groups from 0, or give {NO_GROUP} to a record of none"
        )
