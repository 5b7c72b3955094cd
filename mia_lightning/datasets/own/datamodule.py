"""The sets of a LightningDataModule, asked for as a Trainer asks."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mia_lightning.datasets.own.draws import drawn_since, states
from mia_lightning.datasets.own.items import as_label, as_record, parted
from mia_lightning.datasets.own.places import places_of
from mia_lightning.datasets.own.sets import Own, OwnSet, sets_in
from mia_lightning.errors import InputError, first_line
from mia_lightning.seeds import isolated

LIGHTNING = ("pytorch_lightning.", "lightning.pytorch.")
HELD_OUT = {"validation": "val_dataloader", "test": "test_dataloader"}
_COMPARED = 16  # items of each set
_OF_BATCHES = ("on_before_batch_transfer", "on_after_batch_transfer")


def is_datamodule(given: object) -> bool:
    """Whether it is a LightningDataModule, or a class of such, of `pytorch_lightning` or `lightning.pytorch`."""
    own = given if isinstance(given, type) else type(given)
    return any(each.__name__ == "LightningDataModule" and _is_lightning(each) for each in own.__mro__)


def sets_of(datamodule: Any, held_out: Sequence[str] | None, loading: Own) -> tuple[list[OwnSet], str | None]:
    """Its training set, and its held-out sets; and why another call might split the records otherwise, if it might.

    `prepare_data` and `setup` are called as a Trainer calls them, unless a Trainer has called them already.

    Args:
        held_out: `validation`, `test` or both; None for those that it has.

    Raises:
        InputError: one of its methods fails or gives no loader, or it lacks what `held_out` names.
    """
    name = type(datamodule).__name__
    if not _has(datamodule, "train_dataloader"):
        raise InputError(f"The DataModule {name} has no `train_dataloader`, so that nothing is known of its members.")
    _check_batches(datamodule, name, loading)
    twin, before = _copied(datamodule), states()
    found = _asked(datamodule, held_out, loading)
    drawn = drawn_since(before)
    if drawn is None or (twin is not None and _gives_the_same(twin, found, held_out, loading)):
        return found, None
    return found, (
        f"`setup` of the DataModule {name} draws from the global generator of {drawn}, so that each call may split "
        "the records otherwise: members and non-members here need not be those of the target's training; give "
        "`random_split` a generator with a fixed seed, in training too, or give the DataModule that the Trainer has "
        "used."
    )


def _asked(datamodule: Any, held_out: Sequence[str] | None, loading: Own) -> list[OwnSet]:
    name = type(datamodule).__name__
    if getattr(datamodule, "trainer", None) is None:  # else a Trainer has called them
        _call(datamodule, "prepare_data")
        _call(datamodule, "setup", stage="fit")
    training = sets_in(
        _call(datamodule, "train_dataloader"), "training", "train_dataloader", is_training=True, loading=loading
    )
    if not training:
        raise InputError(f"`train_dataloader` of the DataModule {name} gives no loader.")
    others: list[OwnSet] = []
    for each in HELD_OUT if held_out is None else held_out:
        method = HELD_OUT[each]
        if not _has(datamodule, method):
            if held_out is not None:
                raise InputError(
                    f"`dataset.nonmembers` names {each}, but the DataModule {name} has no `{method}`; name "
                    f"{' or '.join(HELD_OUT)} as it has them."
                )
            continue
        if each == "test":
            _call(datamodule, "setup", stage="test")
        others += sets_in(_call(datamodule, method), each, method, is_training=False, loading=loading)
    return [*training, *others]


def _copied(datamodule: Any) -> Any:
    """A copy to be set up from other states of the global generators; None where there can be none.

    Datasets and arrays that it holds already are shared.
    """
    if getattr(datamodule, "trainer", None) is not None:
        return None
    shared = {id(each): each for each in vars(datamodule).values() if isinstance(each, Dataset | Tensor | np.ndarray)}
    try:
        return copy.deepcopy(datamodule, shared)
    except Exception:  # it holds what no copy can share
        return None


def _gives_the_same(twin: Any, sets: Sequence[OwnSet], held_out: Sequence[str] | None, loading: Own) -> bool:
    """Whether it gives sets of the same records, as far as their places and a few of their items show it: a seed of
    its own is set in `setup`, or what it draws has no part in the split."""
    try:
        with isolated(1, "split"):
            again = _asked(twin, held_out, loading)
            return len(again) == len(sets) and all(map(_are_alike, sets, again))
    except Exception:  # the user's own code, which was not made to be called twice
        return False


def _are_alike(one: OwnSet, other: OwnSet) -> bool:
    places = [places_of(each.dataset, [], each.index) for each in (one, other)]
    if not all(np.array_equal(a, b) for a, b in zip(*((p.leaf_M, p.index_M) for p in places), strict=True)):
        return False
    found = []
    for each in (one, other):
        with isolated(0, "items"):
            rows = range(len(each)) if each.index is None else each.index
            few = [rows[int(i)] for i in np.linspace(0, len(rows) - 1, min(_COMPARED, len(rows)))]
            found.append([parted(each.dataset[i]) for i in few])
    return all(
        torch.equal(as_record(x), as_record(y)) and as_label(a) == as_label(b)
        for (x, a), (y, b) in zip(*found, strict=True)
    )


def _check_batches(datamodule: Any, name: str, loading: Own) -> None:
    """Refuse hooks that change batches, which records are not taken through."""
    own = next((each for each in _OF_BATCHES if _has(datamodule, each)), None)
    if own is not None and loading == "own":
        raise InputError(
            f"The DataModule {name} changes batches in `{own}`, through which records are not taken; move what it does "
            "into the transform of its datasets, or set `dataset.loading=ignore` (`loading` in Python) to leave it out."
        )


def _has(datamodule: Any, method: str) -> bool:
    """Whether the method is its own, and not that of Lightning."""
    if method in vars(datamodule):
        return True
    owner = next((each for each in type(datamodule).__mro__ if method in vars(each)), None)
    return owner is not None and not _is_lightning(owner)


def _is_lightning(cls: type) -> bool:
    return cls.__module__.startswith(LIGHTNING)


def _call(datamodule: Any, method: str, **arguments: str) -> Any:
    try:
        return getattr(datamodule, method)(**arguments)
    except InputError:
        raise
    except Exception as error:  # the user's own code
        called = f"{method}({', '.join(f'{each}={value!r}' for each, value in arguments.items())})"
        raise InputError(
            f"`{called}` of the DataModule {type(datamodule).__name__} fails: {type(error).__name__}: "
            f"{first_line(error)}; see that it works before a Trainer is there."
        ) from error
