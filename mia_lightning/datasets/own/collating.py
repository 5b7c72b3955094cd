"""Loaders that make batches in a way of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mia_lightning.datasets.own.chains import name_of
from mia_lightning.datasets.own.items import ItemError, as_record, parted
from mia_lightning.datasets.own.sets import Own, OwnSet
from mia_lightning.datasets.own.views import Collate
from mia_lightning.errors import InputError
from mia_lightning.seeds import drawn_since, isolated, states

_TRIED = 3


def collate_of(each: OwnSet, dataset: Any, index: Sequence[int], loading: Own) -> Collate | None:
    """The set's own `collate_fn`, where it treats each record alone; None for that of torch.

    Args:
        dataset: with records of the set at `index`, of which a few are tried, alone and together.

    Raises:
        InputError: it mixes the records of a batch, or draws, and is not to be left out.
    """
    if each.collate is None or loading == "ignore":
        return None
    with isolated(0, "collating"):
        items = [dataset[i] for i in index[-_TRIED:]]
        before = states()
        is_alike = _is_alike(each.collate, items)
        drawn = drawn_since(before)
    if is_alike and drawn is None:
        return each.collate
    raise InputError(
        f"The loader of the {each} has the collate_fn {name_of(each.collate)}, "
        + (f"which draws from the generator of {drawn}" if drawn else "which does not keep each record as it is")
        + "; leave it out, or set `dataset.loading=ignore` (`loading` of `Population.of` in Python) to take the "
        "records without it."
    )


def _is_alike(collate: Collate, items: list[Any]) -> bool:
    """Whether a batch is its records, each as in a batch of its own."""
    try:
        together, alone = _batch(collate, items), [_batch(collate, [item]) for item in items]
        return all(torch.equal(whole, torch.cat(parts)) for whole, *parts in zip(together, *alone, strict=True))
    except (ItemError, TypeError, ValueError, RuntimeError, LookupError, AttributeError):  # of anybody's code
        return False


def _batch(collate: Collate, items: list[Any]) -> tuple[Tensor, ...]:
    """The tensors of a batch of records, and its labels."""
    x, label = parted(collate(items))
    fields = [as_record(each) for _, each in sorted(x.items())] if isinstance(x, Mapping) else [as_record(x)]
    return *fields, torch.as_tensor(label)
