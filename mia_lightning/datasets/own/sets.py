"""The sets that a user gives: datasets and loaders, as they are or in lists and dictionaries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    default_collate,
)

from mia_lightning.datasets.loading import Loading
from mia_lightning.datasets.own.dealing import ever_dealt, passes
from mia_lightning.errors import InputError
from mia_lightning.settings.checking import shown

Own = Literal["own", "ignore"]
_IGNORE = "`dataset.loading=ignore` (`loading` of `Population.of` in Python)"


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnSet:
    """One set of records.

    Attributes:
        name: "training", "validation", "test"; with a number or key where there are several.
        source: what gave it, such as `train_dataloader`; "" for a dataset that was given itself.
        dataset: with `__getitem__` and `__len__`.
        index: of the records in it; None for all.
        collate: of the loader, where it is an own one.
        loading: of the loader; None without one.
        left_out: how many records the loader never gives.
        dealer: the class that deals the records of the loader where its way is not known here; "" where it is.
        is_training: whether its records are the training records.
    """

    name: str
    source: str
    dataset: Dataset[Any]
    index: Sequence[int] | None = None
    collate: Callable[[list[Any]], Any] | None = None
    loading: Loading | None = None
    left_out: int = 0
    dealer: str = ""
    is_training: bool

    @property
    def title(self) -> str:
        return f"{self.name} set"

    def __str__(self) -> str:
        return f"{self.title} (`{self.source}`)" if self.source else self.title

    def __len__(self) -> int:
        return len(self.dataset) if self.index is None else len(self.index)  # type: ignore[arg-type]


def sets_in(given: Any, name: str, source: str, *, is_training: bool, loading: Own) -> list[OwnSet]:
    """The sets of what is given: a dataset or loader, or several in a list, a dictionary or a combination of loaders.

    Raises:
        InputError: something of it has no records at places, or is dealt in a way that is not known.
    """
    each = list(_flat(given, ""))
    return [_set_of(one, f"{name}{key}" if len(each) > 1 else name, source, is_training, loading) for key, one in each]


def _flat(given: Any, key: str) -> Iterator[tuple[str, Any]]:
    held = getattr(given, "iterables", given)  # of Lightning's CombinedLoader
    if isinstance(held, Mapping):
        for name, one in held.items():
            yield from _flat(one, f"{key} {name}")
    elif isinstance(held, list | tuple):
        for number, one in enumerate(held):
            yield from _flat(one, f"{key} {number}")
    elif held is not None:
        yield key, held


def _set_of(given: Any, name: str, source: str, is_training: bool, loading: Own) -> OwnSet:
    what = f"the {name} set (`{source}`)" if source else f"the {name} set"
    if isinstance(given, DataLoader):
        dataset = given.dataset
        _check_dataset(dataset, what)
        collate = None if given.collate_fn is default_collate else given.collate_fn
        if given.batch_size is None and given.batch_sampler is None:
            raise InputError(
                f"The loader of {what} has batch_size=None, so that its dataset gives whole batches; give a dataset of "
                "single records."
            )
        index, shuffle, dealer = _dealt(given, what, is_training, loading)
        own, batches, left_out = None, given.batch_sampler, 0
        if dealer:
            left_out = 0 if index is None else len(dataset) - len(index)  # type: ignore[arg-type]
        elif is_training and type(batches) is BatchSampler and batches.drop_last:
            rows: Sequence[int] = range(len(dataset)) if index is None else index  # type: ignore[arg-type]
            left_out = len(rows) % batches.batch_size
            if left_out == len(rows):
                raise InputError(
                    f"{_capital(what)} has {len(rows)} records, and its loader makes batches of {batches.batch_size} "
                    "and leaves out the last one, which is all of them; set a smaller batch_size, or drop_last=False."
                )
            if shuffle:
                left_out = 0  # others in each epoch
            elif left_out:
                index = rows[:-left_out]
        if is_training and loading == "own":
            assert isinstance(batches, BatchSampler)
            own = Loading(batch_size=batches.batch_size, shuffle=shuffle, drop_last=batches.drop_last)
        return OwnSet(
            name=name,
            source=source,
            dataset=dataset,
            index=index,
            collate=collate,
            loading=own,
            left_out=left_out,
            dealer=dealer,
            is_training=is_training,
        )
    _check_dataset(given, what)
    return OwnSet(name=name, source=source, dataset=given, is_training=is_training)


def _check_dataset(dataset: Any, what: str) -> None:
    name = type(dataset).__name__
    if isinstance(dataset, IterableDataset):
        raise InputError(
            f"{_capital(what)} is the IterableDataset {name}, whose records have no places, so that nobody can say "
            "which of them a model trained on; give a dataset with `__getitem__` and `__len__`."
        )
    if isinstance(dataset, type) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise InputError(
            f"{_capital(what)} is {shown(dataset)}; give a torch DataLoader, or a dataset with `__getitem__` and "
            "`__len__`."
        )
    if len(dataset) == 0:
        raise InputError(f"{_capital(what)}, a {name}, has no records; see that it finds its files.")


def _dealt(
    loader: DataLoader[Any], what: str, is_training: bool, loading: Own
) -> tuple[Sequence[int] | None, bool, str]:
    """Which records the loader gives (None for all), whether each epoch has an order of its own, and `OwnSet.dealer`.

    Raises:
        InputError: records of the training set that do not come once an epoch.
    """
    is_strict = is_training and loading == "own"
    if type(loader.batch_sampler) is not BatchSampler:
        if is_strict:
            raise InputError(
                f"{_capital(what)} is dealt by the batch sampler {type(loader.batch_sampler).__name__}, which is not "
                f"known here; give the loader batch_size and shuffle, or set {_IGNORE}: batches are then those of "
                "`training`."
            )
        return _given_at_all(loader.batch_sampler, loader), True, type(loader.batch_sampler).__name__
    sampler: Any = loader.batch_sampler.sampler
    if type(sampler) is SequentialSampler:
        return None, False, ""
    if type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(loader.dataset):  # type: ignore[arg-type]
        return None, True, ""
    if type(sampler) is SubsetRandomSampler:
        return sorted(int(i) for i in sampler.indices), True, ""
    if getattr(sampler, "num_replicas", None) == 1 and hasattr(sampler, "shuffle"):
        return None, bool(sampler.shuffle), ""
    first, second = islice(passes(sampler, len(loader.dataset) + 1), 2)  # type: ignore[arg-type]
    is_once = len(set(first)) == len(first) and set(first) == set(second) and not hasattr(sampler, "weights")
    if is_once:
        return (sorted(first), True, "") if first != second else (first, False, "")
    if is_strict:
        raise InputError(
            f"{_capital(what)} is dealt by {type(sampler).__name__}, which does not give each record once an epoch; "
            f"give the loader shuffle=True, or set {_IGNORE}: batches are then those of `training`."
        )
    return None if type(sampler) is RandomSampler else _given_at_all(sampler, loader), True, type(sampler).__name__


def _given_at_all(sampler: Any, loader: DataLoader[Any]) -> Sequence[int] | None:
    """The records that a sampler gives in any epoch; None for all, and where this cannot be told."""
    num_records = len(loader.dataset)  # type: ignore[arg-type]
    found = ever_dealt(sampler, num_records)
    return None if not found or len(found) == num_records else sorted(found)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
