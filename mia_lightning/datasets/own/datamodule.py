"""The sets of a LightningDataModule, asked for as a Trainer asks."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mia_lightning.datasets.own.items import as_record, parted, plain
from mia_lightning.datasets.own.places import places_of
from mia_lightning.datasets.own.sets import Own, OwnSet, sets_in
from mia_lightning.errors import InputError, first_line
from mia_lightning.lightning_names import base_named, overrides
from mia_lightning.seeds import drawn_since, isolated, states

HELD_OUT = {"validation": "val_dataloader", "test": "test_dataloader"}
_COMPARED = 16  # items of each set
_OF_BATCHES = ("on_before_batch_transfer", "on_after_batch_transfer")


def is_datamodule(given: object) -> bool:
    """Whether it is a LightningDataModule, or a class of such, of `pytorch_lightning` or `lightning.pytorch`."""
    return base_named(given, "LightningDataModule") is not None


@dataclass(frozen=True)
class Sets:
    """What a DataModule gives.

    Attributes:
        sets: its training set, and its held-out sets.
        doubt: why another call might split the records otherwise; None where it does not.
        remarks: sentences for the report.
    """

    sets: list[OwnSet]
    doubt: str | None = None
    remarks: tuple[str, ...] = ()


def sets_of(datamodule: Any, held_out: Sequence[str] | None, loading: Own) -> Sets:
    """The sets of a DataModule.

    `prepare_data` and `setup` are called as a Trainer calls them. Where a Trainer has called them already, `setup` for
    the test set is called on a copy, since it could deal the records anew.

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
    if _is_set_up(datamodule):
        return replace(found, doubt=_dealt_since(datamodule, found.sets, loading))
    if drawn is None or (twin and _gives_the_same(twin, found.sets, held_out, loading)):
        return found
    doubt = (
        f"`setup` of the DataModule {name} draws from the global generator of {drawn}, so that each call may split "
        "the records otherwise: members and non-members here need not be those of the target's training; give "
        "`random_split` a generator with a fixed seed, in training too, or give the DataModule that the Trainer has "
        "used."
    )
    return replace(found, doubt=doubt)


def _dealt_since(datamodule: Any, sets: Sequence[OwnSet], loading: Own) -> str | None:
    """Why the training set may not be that of `fit`: the Trainer has called `setup` again, for something else."""
    state = getattr(datamodule.trainer, "state", None)
    stage = str(getattr(getattr(state, "fn", None), "value", "fit"))
    if stage == "fit":
        return None
    training = [each for each in sets if each.is_training]
    with isolated(1, "split"):
        twin, before = _apart(datamodule), states()
        _call(twin, "setup", stage=stage)
        drawn = drawn_since(before)
        again = [] if drawn is None else _training(twin, loading)
    if drawn is None or (len(again) == len(training) and all(map(_are_alike, training, again))):
        return None
    return (
        f"The Trainer of the DataModule {type(datamodule).__name__} has called `setup(stage={stage!r})`, which draws "
        f"from the global generator of {drawn} and so splits the records otherwise at each call: members and "
        "non-members here need not be those of the target's training; give `random_split` a generator with a fixed "
        "seed, in training too, or the DataModule as it is after `fit`."
    )


def _asked(datamodule: Any, held_out: Sequence[str] | None, loading: Own) -> Sets:
    name = type(datamodule).__name__
    if not _is_set_up(datamodule):
        _call(datamodule, "prepare_data")
        _call(datamodule, "setup", stage="fit")
    training = _training(datamodule, loading)
    if not training:
        raise InputError(f"`train_dataloader` of the DataModule {name} gives no loader.")
    others: list[OwnSet] = []
    remarks: list[str] = []
    for each in HELD_OUT if held_out is None else held_out:
        method = HELD_OUT[each]
        if not _has(datamodule, method):
            if held_out is not None:
                raise InputError(
                    f"`dataset.nonmembers` names {each}, but the DataModule {name} has no `{method}`; name "
                    f"{' or '.join(HELD_OUT)} as it has them."
                )
            continue
        asked = datamodule
        if each == "test":
            asked = _apart(datamodule) if _is_set_up(datamodule) else datamodule
            _call(asked, "setup", stage="test")
        found = sets_in(_call(asked, method), each, method, is_training=False, loading=loading)
        trained_on = 0 if asked is datamodule else _shared(training, _training(asked, loading), found)
        if trained_on:
            why = (
                f"`setup(stage='test')` of the DataModule {name} gives a test set of which {trained_on} of "
                f"{sum(map(len, found))} records are in the training set that its Trainer used, as where it deals the "
                "records anew at each call"
            )
            if held_out is not None:
                raise InputError(
                    f"`dataset.nonmembers` names test, but {why}; give `random_split` a generator with a fixed seed, "
                    "or name validation."
                )
            remarks.append(f"{why}: it is left out.")
            continue
        others += found
    return Sets([*training, *others], remarks=tuple(remarks))


def _is_set_up(datamodule: Any) -> bool:
    """Whether a Trainer has called `prepare_data` and `setup`."""
    return getattr(datamodule, "trainer", None) is not None


def _apart(datamodule: Any) -> Any:
    """A copy whose attributes can be set, and its lists and dictionaries changed; what they hold is shared."""
    twin = copy.copy(datamodule)
    vars(twin).update({name: copy.copy(each) for name, each in vars(twin).items() if isinstance(each, dict | list)})
    return twin


def _training(datamodule: Any, loading: Own) -> list[OwnSet]:
    loaders = _call(datamodule, "train_dataloader")
    return sets_in(loaders, "training", "train_dataloader", is_training=True, loading=loading)


def _shared(training: Sequence[OwnSet], again: Sequence[OwnSet], test: Sequence[OwnSet]) -> int:
    """How many records of the test sets lie at places of the training sets.

    Args:
        again: the training sets from the call of `setup` that gave the test sets: its datasets, which may be new
            objects, are those of `training` in their order.
    """

    def at(sets: Sequence[OwnSet], leaves: list[Any]) -> list[tuple[int, int]]:
        places = [places_of(each.dataset, leaves, each.index) for each in sets]
        return [pair for p in places for pair in zip(p.leaf_M.tolist(), p.index_M.tolist(), strict=True)]

    leaves: list[Any] = []
    at(again, leaves)
    tested = at(test, leaves)
    return len(set(tested) & set(at(training, [])))


def _copied(datamodule: Any) -> Any:
    """A copy to be set up from other states of the global generators; None where there can be none.

    Datasets and arrays that it holds already are shared.
    """
    if _is_set_up(datamodule):
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
            again = _asked(twin, held_out, loading).sets
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
        torch.equal(as_record(x), as_record(y)) and plain(a) == plain(b) for (x, a), (y, b) in zip(*found, strict=True)
    )


def _check_batches(datamodule: Any, name: str, loading: Own) -> None:
    """Refuse hooks that change batches, which records are not taken through."""
    own = next((each for each in _OF_BATCHES if _has(datamodule, each)), None)
    if own is not None and loading == "own":
        raise InputError(
            f"The DataModule {name} changes batches in `{own}`, through which records are not taken; move what it does "
            "into the transform of its datasets, or set `dataset.loading=ignore` (`loading` of `Population.of` in "
            "Python) to leave it out."
        )


def _has(datamodule: Any, method: str) -> bool:
    """Whether the method is its own, and not that of Lightning."""
    return overrides(datamodule, base_named(datamodule, "LightningDataModule"), method)


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
