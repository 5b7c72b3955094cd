"""Random transforms of somebody's dataset that need more than a record holds: the item is taken again for each step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mia_lightning.datasets.own.items import ItemError
from mia_lightning.datasets.own.own_transform import as_a_loader, check_shape, failed, seed_all, wrong_shape
from mia_lightning.datasets.own.places import Places
from mia_lightning.datasets.own.sets import OwnSet
from mia_lightning.datasets.own.views import View, transform_of, with_transform
from mia_lightning.errors import InputError, first_line
from mia_lightning.seeds import drawn_since, isolated, states


@dataclass(frozen=True)
class Again:
    """That the records of a dataset are to be taken again; equal for datasets with one transform.

    Attributes:
        transform: of the dataset; the dataset itself, where it keeps none in an attribute.
        view: of the dataset with this transform.
        name: of what is random in it.
    """

    transform: Any
    view: View = field(compare=False)
    name: str = field(compare=False)

    @classmethod
    def of(cls, own: View, name: str) -> "Again":
        transform = transform_of(own.dataset)
        return cls(transform=own.dataset if transform is None else transform, view=own, name=name)


@dataclass(frozen=True, eq=False)
class TakenAgain:
    """Each record of a step is taken from its dataset again, through the training transform.

    The global generators of torch, numpy and Python are seeded from the record's draw, and are afterwards as they were;
    so no other record or model changes what a record becomes. Models that are trained here may train on held-out
    records, too, and these are taken through the same transform.

    Attributes:
        views: of datasets with the training transform.
        view_N, index_N: int64 `[N]`, for each record of the population the number of its view and its place there.
        shape: of a record.
        name: of what is random in the transform.
    """

    views: tuple[View, ...]
    view_N: Tensor
    index_N: Tensor
    shape: tuple[int, ...]
    name: str

    takes_index: ClassVar[bool] = True
    takes_constants: ClassVar[bool] = False

    def __repr__(self) -> str:
        return f"the transform of the training set ({self.name}), for which each record is taken from its dataset again"

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        return wrong_shape(self.shape, shape)

    def apply(self, x: Tensor, draw_KB: Tensor, index_KB: Tensor | None = None) -> Tensor:
        """The items `[K, B, *shape]` of the records at `index_KB`, in the type of `x` and on its device."""
        assert index_KB is not None
        changed = torch.empty(x.shape, dtype=x.dtype)
        with isolated(0, "own transform"), as_a_loader():
            for k, (draws, numbers) in enumerate(zip(draw_KB.tolist(), index_KB.tolist(), strict=True)):
                for b, (draw, n) in enumerate(zip(draws, numbers, strict=True)):
                    changed[k, b] = self._item(n, draw)
        return changed.to(x.device)

    def _item(self, n: int, draw: int) -> Tensor:
        view, index = self.views[int(self.view_N[n])], int(self.index_N[n])
        seed_all(draw)
        try:
            made = view.item(index)[0]
        except Exception as error:  # the user's own code
            raise failed(error) from error
        check_shape(made, self.shape)
        return made


def refusal_of(own: View, fixed: View, sample: Sequence[int]) -> str | None:
    """Why items cannot take the place of the stored records, as a clause; None where they can.

    Args:
        own: a dataset with the training transform.
        fixed: the records as they are stored.
        sample: of records that are tried.
    """
    if fixed.fields(sample[0]) is not None:
        return "records are named tensors"
    try:
        first, second = ([_seeded(own, index, draw) for draw, index in enumerate(sample)] for _ in range(2))
        for (x, label, _), (y, _, _), index in zip(first, second, sample, strict=True):
            stored, of_stored, _ = fixed.item(index)
            if x.shape != stored.shape or x.dtype != stored.dtype:
                return f"items are {_form(x)} with it and {_form(stored)} without it"
            if label != of_stored:
                return f"labels are others with it: {label} at place {index}, and {of_stored} without it"
            if not torch.equal(x, y):
                return "items are others each time although the global generators are seeded"
    except ItemError as error:
        return f"an item {error}"
    except Exception as error:  # the user's own code
        return f"{type(error).__name__}: {first_line(error)}"
    if not any(is_drawn for *_, is_drawn in second):
        return "it draws from none of the global generators"
    return None


def taken_again(
    again: Again,
    sets: Sequence[OwnSet],
    places: Sequence[Places],
    fixed: Sequence[Mapping[int, View]],
    samples: Mapping[tuple[int, int], Sequence[int]],
    training: Mapping[int, View],
    advice: str,
) -> TakenAgain:
    """The augmentation of all records.

    Args:
        again: of the training set.
        fixed: of each set, by the number of the dataset inside it, the records as they are stored.
        samples: places that are tried, by the numbers of the set and of the dataset.
        training: by the number of a dataset inside the training set, its view with its own transform.
        advice: what to do where records of a held-out set cannot be had so.

    Raises:
        InputError: such records.
    """
    views: list[View] = []
    view_parts, index_parts = [], []
    for number, (each, place) in enumerate(zip(sets, places, strict=True)):
        view_M = torch.empty(len(place.leaf_M), dtype=torch.int64)
        for leaf, stored in fixed[number].items():
            view = training.get(leaf)
            if view is None:
                view = _swapped(again, place.leaves[leaf], stored, samples[number, leaf], each, advice)
            view_M[torch.from_numpy(place.leaf_M == leaf)] = len(views)
            views.append(view)
        view_parts.append(view_M)
        index_parts.append(torch.as_tensor(place.index_M, dtype=torch.int64))
    first = next(iter(fixed[0].items()))
    shape = first[1].item(samples[0, first[0]][0])[0].shape
    return TakenAgain(
        views=tuple(views),
        view_N=torch.cat(view_parts),
        index_N=torch.cat(index_parts),
        shape=tuple(shape),
        name=again.name,
    )


def _swapped(again: Again, dataset: Any, stored: View, sample: Sequence[int], each: OwnSet, advice: str) -> View:
    """A held-out dataset with the training transform in the place of its own."""
    source = again.view.dataset
    is_alike = type(dataset) is type(source) and hasattr(dataset, "transform") and again.transform is not source
    reason: str | None = f"a {type(dataset).__name__} is no {type(source).__name__} with an attribute `transform`"
    if is_alike:
        try:
            view = replace(again.view, dataset=with_transform(dataset, again.transform))
            reason = refusal_of(view, stored, sample)
        except AttributeError as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
        if reason is None:
            return view
    raise InputError(
        f"The training transform has {again.name}, for which each record is taken from its dataset again; models that "
        f"train on records of the {each} need it there, too, and it cannot be used ({reason}); give held-out data of "
        f"the training set's class, with the transform in the attribute `transform`, or {advice}."
    )


def _seeded(view: View, index: int, draw: int) -> tuple[Tensor, Any, bool]:
    with isolated(0, "own transform"):
        seed_all(draw)
        before = states()
        x, label, _ = view.item(index)
        return x, label, drawn_since(before) is not None


def _form(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} of shape {list(x.shape)}"
