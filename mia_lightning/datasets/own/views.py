"""Records through a deterministic transform: what of a dataset's transform is left out, or put in its place."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mia_lightning.datasets.augmentation import Augmentation
from mia_lightning.datasets.own.chains import Chain, InOrder, Normalisation, name_of, steps_of
from mia_lightning.datasets.own.items import ItemError, Label, as_fields, as_label, as_record, named, parted
from mia_lightning.errors import first_line
from mia_lightning.seeds import drawn_since, isolated, states

_CLOSE = 1e-5  # of normalised records; a division by 255 is rounded otherwise than a product with 1 / 255

Collate = Callable[[list[Any]], Any]
Reads = Callable[[Any], Label]
Item = tuple[Tensor, Label, str | None]


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """A dataset, item by item.

    Attributes:
        dataset: with its own transform, or a copy of it with another one.
        collate: of its loader, where it is an own one; each item is then a batch of one.
        key: of a record's name in its item: a key, or a place as text; None for no name.
        raw: a copy of it that gives bytes, and the normalisation after which they are the records; None for none.
        augment: what of its transform is taken out of the records, for training.
        ignores_draws: whether equal records are fixed ones although they draw.
        reads: makes the label of an item a plain value.
    """

    dataset: Any
    collate: Collate | None = None
    key: str | None = None
    raw: "tuple[Any, Normalisation] | None" = None
    augment: tuple[Augmentation, ...] = ()
    ignores_draws: bool = False
    reads: Reads = as_label

    def item(self, index: int) -> Item:
        """The record, its label and its name.

        Raises:
            ItemError: the item has another form.
        """
        return self._of(self.dataset[index])

    def fields(self, index: int) -> dict[str, Tensor] | None:
        """The named tensors of a record; None where it is one tensor."""
        item = self.dataset[index]
        x, _ = parted(item if self.collate is None else self.collate([item]))
        if not isinstance(x, Mapping):
            return None
        return as_fields(x if self.collate is None else {key: each[0] for key, each in x.items()})

    def bytes(self, index: int) -> Item:
        """The same with the record as uint8; only where there is `raw`."""
        assert self.raw is not None
        return self._of(self.raw[0][index])

    def _of(self, item: Any) -> Item:
        x, label = _parted(item, self.collate)
        return x, self.reads(label), None if self.key is None else named(item, self.key)


def _parted(item: Any, collate: Collate | None) -> tuple[Tensor, Any]:
    if collate is None:
        x, label = parted(item)
        return as_record(x), label
    x, label = parted(collate([item]))
    if isinstance(x, Mapping):
        x = {key: _only(each, collate) for key, each in x.items()}
        return as_record(x), _only(label, collate)
    record = as_record(x)
    if record.ndim == 0 or len(record) != 1 or len(label) != 1:
        raise ItemError(f"is collated by {name_of(collate)} to a batch of another form than (x [1, ...], y [1])")
    return record[0], label[0]


def _only(given: Any, collate: Collate) -> Any:
    """The one record of a batch of one."""
    if not hasattr(given, "__len__") or len(given) != 1:
        raise ItemError(f"is collated by {name_of(collate)} to a batch of another form than [1, ...] of each name")
    return given[0]


def transform_of(dataset: Any) -> Any:
    """The transform that can be taken out of a dataset; None where there is none."""
    transform = getattr(dataset, "transform", None)
    return transform if callable(transform) else None


def with_transform(dataset: Any, transform: Any) -> Any:
    """A shallow copy with another transform; that of the labels is kept.

    Raises:
        AttributeError: the dataset does not let its transform be set.
    """
    twin = copy.copy(dataset)
    twin.transform = transform
    if type(getattr(dataset, "transforms", None)).__name__ == "StandardTransform":  # of torchvision's datasets
        twin.transforms = type(dataset.transforms)(transform, dataset.target_transform)
    return twin


def is_fixed(view: View, sample: Sequence[int]) -> bool:
    """Whether the items of the sample are the same each time, without a draw from a global generator.

    Raises:
        ItemError: an item has another form.
    """
    found = []
    for number in range(2):
        with isolated(number, "views"):
            before = states()
            found.append([view.item(index) for index in sample])
            if not view.ignores_draws and drawn_since(before) is not None:
                return False
    return all(a == b and _equal(x, y) for (x, a, _), (y, b, _) in zip(*found, strict=True))


def fixed_view(view: View, sample: Sequence[int], failures: list[str]) -> View | None:
    """The view without the random steps that are known, and with bytes where its transform allows it.

    None where it is random all the same, or the dataset fails without these steps.

    Args:
        failures: joined by the error of such a dataset.

    Raises:
        ItemError: an item has another form.
    """
    transform = transform_of(view.dataset)
    chain = Chain.of(transform)
    if not chain.is_random:
        return _with_bytes(view, chain, sample) if is_fixed(view, sample) else None
    try:
        bare = replace(view, dataset=with_transform(view.dataset, chain.fixed()))
        shape = tuple(bare.item(sample[0])[0].shape)
        augment = chain.augmentations(shape)
        if augment is None or not is_fixed(bare, sample):
            return None
    except ItemError:
        raise
    except Exception as error:  # the dataset's own code, with a transform that it does not know
        for index in sample:  # an error that has nothing to do with that
            view.item(index)
        failures.append(f"{type(error).__name__}: {first_line(error)}")
        return None
    return _with_bytes(replace(bare, augment=augment), chain, sample)


def _with_bytes(view: View, chain: Chain, sample: Sequence[int]) -> View:
    found = chain.as_bytes()
    if found is None:
        return view
    take, normalisation = found
    try:
        twin = replace(view, raw=(with_transform(view.dataset, take), normalisation))
        is_same = all(_is_close(twin, index, normalisation) for index in sample)
    except Exception:  # likewise
        return view
    return twin if is_same else view


def _is_close(view: View, index: int, normalisation: Normalisation) -> bool:
    (raw, label, _), (x, same, _) = view.bytes(index), view.item(index)
    if raw.dtype != torch.uint8 or raw.shape != x.shape or label != same:
        return False
    return torch.allclose(normalised(raw, normalisation), x, rtol=_CLOSE, atol=_CLOSE)


def normalised(raw: Tensor, normalisation: Normalisation) -> Tensor:
    """Bytes `[C, ...]` as the records that they stand for, in float32."""
    x = raw.float() * normalisation.scale
    if normalisation.mean:
        x = (x - _column(normalisation.mean, x)) / _column(normalisation.std, x)
    return x


def denormalised(x: Tensor, normalisation: Normalisation) -> Tensor:
    """The bytes that a record `[C, ...]` stands for."""
    x = x.double()
    if normalisation.mean:
        x = x * _column(normalisation.std, x) + _column(normalisation.mean, x)
    return (x / normalisation.scale).round().clamp(0, 255).to(torch.uint8)


def _column(values: Sequence[float], x: Tensor) -> Tensor:
    return torch.tensor(values).reshape(-1, *[1] * (x.ndim - 1))


def are_alike(one: View, other: View, sample: Sequence[int]) -> bool:
    """Whether two views give the same records."""
    return all(_equal(one.item(index)[0], other.item(index)[0], _CLOSE) for index in sample)


def _equal(x: Tensor, y: Tensor, tolerance: float = 0.0) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if not x.is_floating_point():
        return torch.equal(x, y)
    return torch.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)


def what_is_random(dataset: Any, index: int) -> str:
    """The name of the steps of its transform that draw; of the transform, or the dataset, where these are not known."""
    transform = transform_of(dataset)
    if transform is None:
        return name_of(dataset)
    drawing: list[str] = []

    def watched(step: Any) -> Callable[[Any], Any]:
        def call(x: Any) -> Any:
            before = states()
            x = step(x)
            if drawn_since(before) is not None:
                drawing.append(name_of(step))
            return x

        return call

    try:
        with isolated(0, "views"):
            with_transform(dataset, InOrder([watched(step) for step in steps_of(transform)]))[index]
    except Exception:  # likewise
        return name_of(transform)
    return " and ".join(dict.fromkeys(drawing)) or name_of(transform)
