"""The records of both sides without augmentation, each side through the same transform, as an audit takes them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch.utils.data import default_collate

from mia_lightning.callbacks.records import RecordSample
from mia_lightning.datasets.own.chains import Chain
from mia_lightning.datasets.own.filling import read
from mia_lightning.datasets.own.items import ItemError, as_record
from mia_lightning.datasets.own.places import Places, places_of
from mia_lightning.datasets.own.taking import like_held_out
from mia_lightning.datasets.own.views import Item, View, fixed_view, is_fixed, transform_of, what_is_random
from mia_lightning.errors import InputError
from mia_lightning.seeds import isolated

_TRIED = 32  # records of each dataset that are fetched twice: a coin that changes half of them goes unseen with 2^-32


@dataclass(frozen=True, eq=False, kw_only=True)
class WholeView(View):
    """A dataset whose items have any form: the record is their first tensor, and a number stands for all the rest."""

    def _of(self, item: Any) -> Item:
        rest, record = blake2b(digest_size=8), None
        for leaf in _leaves(item):
            try:
                x = as_record(leaf)
            except ItemError:
                rest.update(repr(leaf).encode())
                continue
            if record is None and x.ndim:
                record = x
            else:
                rest.update(x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return torch.empty(0) if record is None else record, int.from_bytes(rest.digest(), "big"), None


@dataclass(frozen=True, eq=False, kw_only=True)
class Inner:
    """A dataset by the datasets inside it, each of which stands where its own was.

    Attributes:
        places: of its records.
        dataset: by the number of the one inside.
    """

    places: Places
    dataset: Mapping[int, Any]

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.places.leaf_M[index])][int(self.places.index_M[index])]

    def __len__(self) -> int:
        return len(self.places.leaf_M)


@dataclass(frozen=True, eq=False)
class _Collated:
    """A batch as a dataset of one item."""

    collate: Callable[[list[Any]], Any]
    items: list[Any]

    def __getitem__(self, index: int) -> Any:
        return self.collate(self.items)


def both_fixed(members: RecordSample, held_out: RecordSample, *, seed: int) -> tuple[RecordSample, RecordSample]:
    """Members and held-out records whose batches are the same each time that they are fetched.

    Random steps of a transform that are known are left out. Members are taken through the transform of the held-out
    records where that is another one, or theirs draws, and through the collation of these where theirs changes batches.

    Raises:
        InputError: none of this gives the same batch twice, or a record cannot be read.
    """
    known: list[tuple[Any, Chain]] = []
    with isolated(seed, "monitor", "fetch"):
        others = _fixed(held_out, known, None, "monitor.held_out_records")
        return _fixed(members, known, others, "monitor.train_records"), others


def _fixed(
    records: RecordSample, known: list[tuple[Any, Chain]], like: RecordSample | None, setting: str
) -> RecordSample:
    """The records of one side.

    Args:
        known: transforms of held-out datasets; those of this side join them if it is the held-out one.
        like: the held-out records, for members.
        setting: by which a user gives such records, for the sentence.
    """
    places, remarks = places_of(records.dataset, []), list[str]()
    chosen_M = records.index_N.numpy()
    leaf_M, index_M = places.leaf_M[chosen_M], places.index_M[chosen_M]
    datasets = {}
    for leaf in np.unique(leaf_M).tolist():
        dataset, name = places.leaves[leaf], f"{records.name} dataset"
        own_M = np.unique(index_M[leaf_M == leaf])
        sample = own_M[np.linspace(0, len(own_M) - 1, min(_TRIED, len(own_M))).astype(int)].tolist()
        own = WholeView(dataset=dataset)
        failures: list[str] = []
        take = partial(fixed_view, own, sample, failures)
        view = read(lambda _, take=take: take(), 0, f"An item of the {name}")  # type: ignore[misc]
        if like is not None:
            view = like_held_out(view, own, known, sample, name, remarks)
        elif view is not None and hasattr(dataset, "transform"):
            known.append((dataset, Chain.of(transform_of(dataset))))
        view = view or fixed_view(replace(own, ignores_draws=True), sample, [])
        if view is None:
            failed = f" (without its random steps it fails: {failures[0]})" if failures else ""
            mend = "" if like is None else ", and the `transform` of the held-out records could not mend it"
            raise InputError(
                f"The {name} ({type(dataset).__name__}) gives another record each time that the same one is fetched, "
                f"by {what_is_random(dataset, sample[0])}{failed}{mend}; give `{setting}` the records as a dataset "
                "without random transforms."
            )
        datasets[leaf] = view.dataset
    for remark in remarks:
        rank_zero_info(remark)
    found = replace(records, dataset=Inner(places=places, dataset=datasets)).anew()
    return replace(found, collate=_fixed_collate(found, like, setting)).anew()


def _fixed_collate(records: RecordSample, like: RecordSample | None, setting: str) -> Callable[[list[Any]], Any]:
    """The collation of the records, or that of others, or torch's, where it makes the same batch twice."""
    items = [records.dataset[i] for i in records.index_N[:_TRIED].tolist()]
    for collate in (records.collate, default_collate if like is None else like.collate):
        try:
            if is_fixed(WholeView(dataset=_Collated(collate, items), ignores_draws=True), [0]):
                return collate
        except Exception:  # of a collation that was made for other records, and is only tried here
            if collate is records.collate:
                raise
    mend = "" if like is None else ", and that of the held-out records could not mend it"
    raise InputError(
        f"The `collate_fn` of the {records.name} loader makes another batch each time of the same records{mend}; give "
        f"`{setting}` the records as a dataset that torch's own collation takes."
    )


def _leaves(item: Any) -> Iterator[Any]:
    if isinstance(item, Mapping):
        for name, each in item.items():
            yield str(name)
            yield from _leaves(each)
    elif isinstance(item, Sequence) and not isinstance(item, str | bytes):
        for each in item:
            yield from _leaves(each)
    else:
        yield item
