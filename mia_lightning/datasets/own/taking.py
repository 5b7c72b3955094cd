"""How the records of all sets are taken once: through which deterministic transform, and what training adds to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mia_lightning.datasets.augmentation import Augmentation
from mia_lightning.datasets.own.chains import Chain
from mia_lightning.datasets.own.collating import collate_of
from mia_lightning.datasets.own.filling import read
from mia_lightning.datasets.own.own_transform import own_transform
from mia_lightning.datasets.own.places import Places
from mia_lightning.datasets.own.sets import Own, OwnSet
from mia_lightning.datasets.own.taken_again import Again, refusal_of, taken_again
from mia_lightning.datasets.own.views import (
    Reads,
    View,
    are_alike,
    fixed_view,
    is_fixed,
    transform_of,
    what_is_random,
    with_transform,
)
from mia_lightning.errors import InputError

_SAMPLED = 16  # items of each set in each dataset: whether a transform is random shows in any of them

_IGNORE = "`dataset.train_transform=ignore` (`train_transform` in Python)"
_WITHOUT = f"set {_IGNORE} to train shadow models without it"


@dataclass(eq=False)
class Taken:
    """What was found out.

    Attributes:
        views: of each set, by the number of the dataset inside it.
        augment: the random steps of the training transform, in our own terms.
        remarks: sentences for the report.
    """

    views: list[Mapping[int, View]] = field(default_factory=list)
    augment: tuple[Augmentation, ...] = ()
    remarks: list[str] = field(default_factory=list)

    @property
    def have_bytes(self) -> bool:
        """Whether all records can be read as uint8, with one normalisation."""
        found = [view.raw for by_leaf in self.views for view in by_leaf.values()]
        return None not in found and len({each[1] for each in found if each is not None}) == 1


@dataclass(frozen=True)
class _Random:
    """What is random in the training transform: known steps, the transform as a whole, or each item, taken again."""

    steps: tuple[Augmentation, ...] = ()
    again: Again | None = None


def taken(
    sets: Sequence[OwnSet],
    places: Sequence[Places],
    *,
    stand_ins: Mapping[tuple[int, int], Any],
    train_transform: Own,
    loading: Own,
    key: str | None,
    reads: Reads,
) -> Taken:
    """The views by which all records can be taken.

    Args:
        stand_ins: what the user gives in the place of some datasets, by the numbers of the set and of the dataset.
        train_transform: whether random steps of the training transform must be known here, or are left out.
        loading: whether a `collate_fn` of the loader counts.
        key: of a name in the items.
        reads: makes the label of an item a plain value.

    Raises:
        InputError: records change at random, and nothing gives them otherwise.
    """
    found = Taken(views=[{} for _ in sets])
    held_out: list[tuple[Any, Chain]] = []  # datasets with transforms that are known to be fixed
    order = sorted(range(len(sets)), key=lambda number: sets[number].is_training)
    augmented: list[_Random] = []
    samples: dict[tuple[int, int], Sequence[int]] = {}
    training: dict[int, View] = {}
    for number in order:
        each, place = sets[number], places[number]
        for leaf in np.unique(place.leaf_M).tolist():
            dataset = place.leaves[leaf]
            index_M = np.unique(place.index_M[place.leaf_M == leaf])
            sample = index_M[np.linspace(0, len(index_M) - 1, min(_SAMPLED, len(index_M))).astype(int)].tolist()
            stand_in = stand_ins.get((number, leaf))
            own = replace(_own_view(each, dataset, sample, loading, key), reads=reads)
            samples[number, leaf] = sample
            if each.is_training:
                training.setdefault(leaf, replace(own, key=None))
            failures: list[str] = []
            view = _checked(own, sample, each, failures)
            fixed = view
            if stand_in is not None:
                fixed = _given(own, stand_in, sample, each)
            elif each.is_training:
                fixed = like_held_out(view, own, held_out, sample, str(each), found.remarks)
            elif view is not None and hasattr(dataset, "transform"):
                held_out.append((dataset, Chain.of(transform_of(dataset))))
            if each.is_training and train_transform == "own":
                augmented.append(_augment(view, fixed, own, sample, each, failures))
            elif each.is_training and (view is None or view.augment):
                found.remarks.append(_ignored(dataset, sample[0]))
            if fixed is None:
                raise InputError(
                    f"The records of the {each} change each time that they are read, by "
                    f"{what_is_random(dataset, sample[0])}{_with(failures)}; give `eval_dataset`, the same records "
                    "through a fixed transform, or keep the transform of a dataset in its attribute `transform` and "
                    "give held-out data a fixed one."
                )
            found.views[number] = {**found.views[number], leaf: fixed}
    if len(set(augmented)) > 1:
        raise InputError(
            f"The datasets of the training set have different random transforms; give all of them one, or {_WITHOUT}."
        )
    for one in augmented[:1]:
        found.augment = one.steps
        if one.again is not None:
            found.augment = (taken_again(one.again, sets, places, found.views, samples, training, _WITHOUT),)
    found.remarks = list(dict.fromkeys(found.remarks))
    return found


def _own_view(each: OwnSet, dataset: Any, sample: Sequence[int], loading: Own, key: str | None) -> View:
    collate = read(lambda _: collate_of(each, dataset, sample, loading), 0, f"An item of the {each}")
    return View(dataset=dataset, collate=collate, key=key)


def _checked(own: View, sample: Sequence[int], each: OwnSet, failures: list[str]) -> View | None:
    return read(lambda _: fixed_view(own, sample, failures), sample[0], f"An item of the {each}")


def _with(failures: Sequence[str]) -> str:
    """What went wrong in the user's own code, for a sentence; "" for nothing."""
    return f" (to put another transform in its place fails: {failures[0]})" if failures else ""


def _augment(
    view: View | None,
    fixed: View | None,
    own: View,
    sample: Sequence[int],
    each: OwnSet,
    failures: list[str],
) -> _Random:
    """What is random in the training transform; raises an `InputError` where it cannot be had."""
    if view is not None:
        return _Random(view.augment)
    random, why, more = what_is_random(own.dataset, sample[0]), "", ""
    if fixed is not None and fixed.collate is None:
        whole = own_transform(own.dataset, fixed, sample, random, failures)
        if whole is not None:
            return _Random((whole,))
    if fixed is not None and not failures:
        reason = refusal_of(own, fixed, sample)
        if reason is None:
            return _Random(again=Again.of(own, random))
        why = f", and items cannot be taken through it again for each step, since {reason}"
    if fixed is None:
        more = (
            ", and its records must be had through a fixed transform: that of held-out data in whose attribute "
            "`transform` it is kept, or that of `eval_dataset`"
        )
    raise InputError(
        f"The training transform of the {each} has {random}, a random change that has no exact counterpart here "
        "(RandomHorizontalFlip with p=0.5 and RandomCrop with padding of one width, as last steps but conversions and "
        "Normalize, have one), and is not given the very pictures that the fixed transform scales and normalises"
        f"{_with(failures)}{why}; {_WITHOUT}{more}."
    )


def _ignored(dataset: Any, index: int) -> str:
    return (
        "`dataset.train_transform` is ignore: models that are trained here do without "
        f"{what_is_random(dataset, index)} of the training transform, so that they may leak more, or otherwise, than a "
        "model that was trained with it."
    )


def _given(own: View, stand_in: Any, sample: Sequence[int], each: OwnSet) -> View:
    """The view of what the user gives in the place of a dataset."""
    name = type(getattr(stand_in, "dataset", stand_in)).__name__
    failures: list[str] = []
    view = _checked(replace(own, dataset=stand_in), sample, each, failures)
    if view is None or view.augment:
        raise InputError(
            f"`eval_dataset`, a {name}, changes its records each time that they are read, by "
            f"{what_is_random(stand_in, sample[0])}{_with(failures)}; give it a fixed transform."
        )
    odd = next((i for i in sample if view.item(i)[1] != own.item(i)[1]), None)
    if odd is not None:
        raise InputError(
            f"`eval_dataset`, a {name}, has the label {view.item(odd)[1]} at place {odd}, where the dataset of the "
            f"{each} has {own.item(odd)[1]}; give the same records in the same order."
        )
    return view


def like_held_out(
    view: View | None,
    own: View,
    held_out: Sequence[tuple[Any, Chain]],
    sample: Sequence[int],
    name: str,
    remarks: list[str],
) -> View | None:
    """The training records through the transform of the held-out ones, where it can be put in and is another one.

    Args:
        view: by their own transform; None where it draws and no step of it can be left out.
        own: by their own transform as it is.
        held_out: datasets, and their transforms.
        remarks: takes a sentence where the transform is another one.
    """
    if transform_of(own.dataset) is None:
        return view
    for dataset, chain in held_out:
        if dataset is own.dataset or (view is not None and transform_of(dataset) is None):
            continue
        try:
            other = replace(own, dataset=with_transform(own.dataset, chain.fixed()))
            if not is_fixed(other, sample) or (view is not None and are_alike(view, other, sample)):
                continue
            swapped = fixed_view(other, sample, [])
        except Exception:  # the dataset's own code, with a transform that was made for another one
            continue
        if swapped is None:
            continue
        if view is not None:
            remarks.append(
                f"The records of the {name} are taken through the transform of the held-out data, which gives others "
                "than that of the training data even without its random steps: members and non-members are to be seen "
                "alike."
            )
        return replace(swapped, augment=() if view is None else view.augment)
    return view
