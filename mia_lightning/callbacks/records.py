"""The records that a monitor looks at: a fixed sample of a map-style dataset, without augmentation."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from operator import length_hint
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from mia_lightning.datasets.own.dealing import ever_dealt, weighted_records
from mia_lightning.datasets.own.places import places_of
from mia_lightning.errors import InputError
from mia_lightning.seeds import generator, isolated

KEPT_BYTES = 2**28  # of collated batches, which are otherwise fetched again for each look


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordSample:
    """Some records of a dataset, in batches that are the same at each look.

    Attributes:
        dataset: map-style; item i is what a loader would collate.
        index_N: int64, the chosen records by their place in the dataset, ascending.
        collate: makes a batch of items.
        batch_size: records of a batch.
        name: whose records these are, for sentences: "training".
    """

    dataset: Any
    index_N: Tensor
    collate: Callable[[list[Any]], Any]
    batch_size: int
    name: str
    _kept: dict[int, Any] = field(default_factory=dict)
    _room: list[int] = field(default_factory=lambda: [KEPT_BYTES])

    def __len__(self) -> int:
        return len(self.index_N)

    @property
    def num_batches(self) -> int:
        return -(-len(self) // self.batch_size)

    def batch(self, place: int) -> Any:
        """The batch at a place, collated, on the CPU; kept where there is room."""
        if place in self._kept:
            return self._kept[place]
        index = self.index_N[place * self.batch_size : (place + 1) * self.batch_size].tolist()
        with isolated(0, "monitor", "fetch"):  # what a dataset draws and drops moves no global generator
            batch = self.collate([self.dataset[i] for i in index])
        size = _bytes_of(batch)
        if size <= self._room[0]:
            self._kept[place] = batch
            self._room[0] -= size
        return batch

    def is_kept(self, place: int) -> bool:
        """Whether the batch at a place was fetched and is kept."""
        return place in self._kept

    def digests(self, places: range) -> list[bytes]:
        """Of the inputs of each record in the batches at these places, as long as there is room to keep them.

        The inputs are the first tensor of a batch.
        """
        found = []
        for place in places:
            inputs = next(_tensors(self.batch(place)), None)
            if not self.is_kept(place) or inputs is None:
                break
            rows = (row.detach().reshape(-1).view(torch.uint8) for row in inputs)
            found += [blake2b(row.numpy().tobytes()).digest() for row in rows]
        return found

    def sampled(self, count: int | None, seed: int) -> "RecordSample":
        """At most so many of these records, drawn by name; all of them for None."""
        if count is None or count >= len(self):
            return self
        drawn = torch.randperm(len(self), generator=generator(seed, "monitor", self.name))[:count]
        return replace(self, index_N=self.index_N[drawn.sort().values]).anew()

    def anew(self) -> "RecordSample":
        """These records, none of which is kept yet."""
        return replace(self, _kept={}, _room=[KEPT_BYTES])


def records_of(dataset: Any, loader: Any, *, name: str) -> RecordSample:
    """All records of a dataset that a user gave, collated as `loader` does."""
    is_loader = isinstance(loader, DataLoader)
    return RecordSample(
        dataset=dataset,
        index_N=torch.arange(len(dataset)),
        collate=(loader.collate_fn or default_collate) if is_loader else default_collate,
        batch_size=_batch_size(loader) if is_loader else 100,
        name=name,
    )


def records_of_loader(loader: Any, *, name: str, setting: str) -> RecordSample:
    """The records that a loader deals: all of its dataset, or those that its sampler names.

    Raises:
        InputError: it is no DataLoader, its dataset has no items by number, or its sampler leaves open which it deals.
    """
    mend = f"give `{setting}` these records as a dataset with `__len__` and `__getitem__`"
    if not isinstance(loader, DataLoader):
        raise InputError(
            f"The {name} loader is a {type(loader).__name__}, not a torch.utils.data.DataLoader, whose records could "
            f"be fetched one by one; {mend}."
        )
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise InputError(
            f"The {name} loader reads an iterable dataset ({type(dataset).__name__}), whose records cannot be fetched "
            f"one by one; {mend}."
        )
    records = records_of(dataset, loader, name=name)
    sampler = _sampler_of(loader)
    named = None if deals_batches(loader) else _named_by(sampler, len(records))
    if named is not None:
        return replace(records, index_N=torch.as_tensor(named).to(torch.int64).unique())
    if isinstance(sampler, RandomSampler | SequentialSampler | DistributedSampler):
        return records
    count, known = len(records), None if _is_one_of_several() else ever_dealt(sampler, len(records))
    if not deals_batches(loader):
        count = min(count, length_hint(sampler, count))
    if known is not None:
        count = min(count, len(known))
    if count < len(records):
        raise InputError(
            f"The {name} loader draws {count} of {len(records)} records by a {type(sampler).__name__}, which does not "
            f"say which; {mend}."
        )
    return records


def first_records(records: RecordSample, loader: Any, batches: float) -> tuple[RecordSample, bool]:
    """The records of the first `batches` batches, where the loader deals them in order; whether it does.

    With `limit_train_batches` a model trains on no others.
    """
    sampler = _sampler_of(loader)
    is_distributed = isinstance(sampler, DistributedSampler) and not sampler.shuffle
    if not isinstance(sampler, SequentialSampler) and not is_distributed:
        return records, False
    most = int(min(batches * _batch_size(loader), len(records)))
    return replace(records, index_N=records.index_N[:most]).anew(), True


def shared(first: RecordSample, second: RecordSample) -> int:
    """How many records of `first` are records of `second` as well, by their place in the same underlying dataset."""
    return len(_origins(first) & _origins(second))


def _origins(records: RecordSample) -> set[tuple[int, int]]:
    places = places_of(records.dataset, [], records.index_N.tolist())
    return {
        _origin(places.leaves[leaf], index)
        for leaf, index in zip(places.leaf_M.tolist(), places.index_M.tolist(), strict=True)
    }


def _origin(dataset: Any, index: int) -> tuple[int, int]:
    """The place of a record inside what resembles a `Subset`, too."""
    while isinstance(getattr(dataset, "indices", None), Sequence | np.ndarray | Tensor) and hasattr(dataset, "dataset"):
        dataset, index = dataset.dataset, int(dataset.indices[index])
    return id(dataset), index


def draws_again(loader: Any) -> bool:
    """Whether a loader draws with replacement, so that an epoch misses some records."""
    return bool(getattr(_sampler_of(loader), "replacement", False))


def deals_batches(loader: Any) -> bool:
    """Whether a sampler of the user's own makes whole batches, and not of what a sampler of records gives."""
    return loader.batch_sampler is not None and not hasattr(loader.batch_sampler, "sampler")


def num_batches(loader: Any) -> float:
    """Of one epoch; infinite where the loader does not know."""
    try:
        return len(loader)
    except TypeError:  # it, or its sampler, has no length
        return math.inf


def _sampler_of(loader: Any) -> Any:
    """What deals the records, one by one or in batches."""
    if deals_batches(loader):
        return loader.batch_sampler
    return _innermost(getattr(loader.batch_sampler, "sampler", loader.sampler))


def _is_one_of_several() -> bool:
    """Whether other processes train, too, whose samplers give the rest of the records."""
    is_begun = torch.distributed.is_available() and torch.distributed.is_initialized()
    return is_begun and torch.distributed.get_world_size() > 1


def _innermost(sampler: Any) -> Any:
    """The user's own sampler inside those by which Lightning deals records to several processes."""
    inner = getattr(getattr(sampler, "dataset", None), "_sampler", None)
    return sampler if inner is None else _innermost(inner)


def _named_by(sampler: Any, num_records: int) -> Any:
    """The records that a sampler draws from, where it names them."""
    weighted = weighted_records(sampler, num_records)
    if weighted is not None:
        return weighted
    indices = getattr(sampler, "indices", None)
    return indices if isinstance(indices, Sequence | np.ndarray | Tensor) else None


def _batch_size(loader: Any) -> int:
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    return size if isinstance(size, int) else 100


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for each in value:
            yield from _tensors(each)


def _bytes_of(batch: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(batch))
