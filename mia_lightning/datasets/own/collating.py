"""Loaders that make batches in a way of their own."""

from typing import Any

import torch
from torch import Tensor

from mia_lightning.datasets.own.chains import name_of
from mia_lightning.datasets.own.draws import drawn_since, states
from mia_lightning.datasets.own.items import ItemError, as_record, parted
from mia_lightning.datasets.own.sets import Own, OwnSet
from mia_lightning.datasets.own.views import Collate
from mia_lightning.errors import InputError
from mia_lightning.seeds import isolated


def collate_of(each: OwnSet, dataset: Any, index: int, loading: Own) -> Collate | None:
    """The set's own `collate_fn`, where it treats each record alone; None for that of torch.

    Args:
        dataset: with records of the set at `index`.

    Raises:
        InputError: it mixes the records of a batch, or draws, and is not to be left out.
    """
    if each.collate is None or loading == "ignore":
        return None
    with isolated(0, "collating"):
        item = dataset[index]
        before = states()
        try:
            single, double = (_batch(each.collate, [item] * number) for number in (1, 2))
        except (ItemError, TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError):
            single = double = None
        drawn = drawn_since(before)
    if single is not None and double is not None and drawn is None and all(map(_is_twice, single, double)):
        return each.collate
    raise InputError(
        f"The loader of the {each} has the collate_fn {name_of(each.collate)}, "
        + (f"which draws from the generator of {drawn}" if drawn else "which does not keep each record as it is")
        + "; leave it out, or set `dataset.loading=ignore` (`loading` in Python) to take the records without it."
    )


def _is_twice(one: Tensor, two: Tensor) -> bool:
    return one.ndim > 0 and torch.equal(two, torch.cat([one, one]))


def _batch(collate: Collate, items: list[Any]) -> tuple[Tensor, Tensor]:
    x, label = parted(collate(items))
    return as_record(x), torch.as_tensor(label)
