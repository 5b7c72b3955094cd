"""A user's own torch `Dataset`, `DataLoader` or `LightningDataModule`, read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mia_lightning.datasets.augmentation import Augmentation
from mia_lightning.datasets.fields import Kinds, KindsSetting, of_items
from mia_lightning.datasets.labels import LabelMap, as_labels
from mia_lightning.datasets.loading import Loading
from mia_lightning.datasets.origin import Origin, Part
from mia_lightning.datasets.own.chains import Normalisation, name_of
from mia_lightning.datasets.own.datamodule import HELD_OUT, Sets, is_datamodule, sets_of
from mia_lightning.datasets.own.filling import filled, read
from mia_lightning.datasets.own.items import as_label, as_numbers, stored_form
from mia_lightning.datasets.own.naming import classes_of, names_from, numbered_names, paths_of
from mia_lightning.datasets.own.places import Places, check_disjoint, places_of
from mia_lightning.datasets.own.sets import OwnSet, sets_in
from mia_lightning.datasets.own.taking import Taken, taken
from mia_lightning.datasets.own.views import View
from mia_lightning.errors import InputError
from mia_lightning.seeds import isolated
from mia_lightning.settings import checked
from mia_lightning.settings.checking import shown
from mia_lightning.settings.kinds import FromList, Name
from mia_lightning.settings.words import Words
from mia_lightning.tasks import Classification
from mia_lightning.tasks.interface import LabelTask

PerChannel = float | Annotated[Sequence[float], FromList]


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnRecords:
    """What was read; fields as of `Population`.

    Attributes:
        x_N: named tensors where the items hold such.
        kinds: of `x_N`, as `make_population` takes it.
        is_training_N: bool, the records of the training set; None where there is one set alone.
    """

    name: str
    x_N: Tensor | Mapping[str, Tensor]
    kinds: Kinds | None
    label_N: Tensor
    class_names: tuple[str, ...]
    label_map: LabelMap | None
    scale: float
    mean: Tensor | None
    std: Tensor | None
    is_training_N: Tensor | None
    record_names: tuple[str, ...]
    origin: Origin | None
    loading: Loading | None
    augment: tuple[Augmentation, ...]
    remarks: tuple[str, ...]


def is_own(given: object) -> bool:
    """Whether it is a torch Dataset, a DataLoader or a LightningDataModule, or a class of such."""
    own = given if isinstance(given, type) else type(given)
    return issubclass(own, Dataset | DataLoader) or is_datamodule(own)


@checked("dataset")
def read_own(
    data: Any,
    *,
    nonmembers: Annotated[Any, Words("validation, test or both, or a dataset")] = None,
    eval_dataset: Annotated[Any, Words("a dataset")] = None,
    name: Name | None = None,
    ids: Name | None = None,
    class_names: Annotated[Sequence[Name], FromList] | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    train_transform: Literal["own", "ignore"] = "own",
    loading: Literal["own", "ignore"] = "own",
    kinds: KindsSetting | None = None,
    task: LabelTask | None = None,
) -> OwnRecords:
    """The records of a LightningDataModule, a DataLoader or a dataset with `__getitem__` and `__len__`.

    They are taken once, through a deterministic transform: that of the dataset without the random steps that are known
    here, that of the held-out data, or that of `eval_dataset`. Images stay uint8 where the transform is one of
    torchvision that ends in scaling and Normalize; large records are mapped from a file that vanishes with them.

    Args:
        data: what is read. Of a DataModule, `prepare_data` and `setup` are called as a Trainer calls them.
        nonmembers: the held-out records, none of which the target was trained on: of a DataModule `validation`, `test`
            or both (by default those that it has), or, from Python, a dataset or loader, or several.
        eval_dataset: the training records again, in the same order, through a fixed transform; or those of the dataset
            inside the training `Subset`.
        name: of the data set, in reports; by default that of its class.
        ids: what names a record in reports and `scores.parquet`: an attribute of the datasets, or a key or place in an
            item; by default the path of its file, or its set and place there, such as `training/17`.
        class_names: one for each class; by default those of the datasets (`classes`), or numbers.
        mean, std: one number, or one for each entry of a record's first axis, after the dataset's own transform. They
            are public constants; do not fit them on private records.
        train_transform: `own` trains with the random steps of the training transform, and refuses those that cannot
            be had here; `ignore` trains without them.
        loading: `own` takes how the training loader makes batches, and refuses what is not known here; `ignore` leaves
            batches to `training`, and reads records without the loader's `collate_fn`.
        kinds: what the values of an item are: `numeric`, `image`, `tokens`, `waveform` or `category`, or a mapping of
            `kind` and others, such as `padding` (`make_population`); of items with several tensors by their names,
            where int64 are `tokens` unless it says otherwise.
        task: what the labels are; None for classes.

    Raises:
        InputError: no records, labels that are none of the task, items of different shapes, records that change at
            random, sets with records in common, or a loader whose batches are not known here.
    """
    if isinstance(data, type):
        raise InputError(f"The data is {shown(data)}; give an object of it, such as {data.__name__}(...).")
    task = Classification() if task is None else task
    reads = as_label if task.has_classes else as_numbers
    own_name = _name_of(data)
    found = _sets(data, nonmembers, loading)
    sets, doubt = found.sets, found.doubt
    leaves: list[Any] = []
    places = [places_of(each.dataset, leaves, each.index) for each in sets]
    check_disjoint(sets, places)
    stand_ins = _stand_ins(sets, places, eval_dataset)
    attribute = None if ids is None else names_from(sets, places, ids)
    key = ids if attribute is None else None
    with isolated(0, "views"):
        views = taken(
            sets, places, stand_ins=stand_ins, train_transform=train_transform, loading=loading, key=key, reads=reads
        )
    _check_constants(views, {"mean": mean, "std": std})
    as_bytes = views.have_bytes
    x_N, labels, in_items = filled(sets, places, views.views, as_bytes=as_bytes)
    is_training_N = torch.cat([torch.full((len(each),), each.is_training) for each in sets])
    if class_names is None and task.has_classes:
        class_names = classes_of(sets, places, data, labels)
    classes = as_labels(labels, class_names, own_name if name is None else name, task)
    first = views.views[0][int(places[0].leaf_M[0])]
    with isolated(0, "records"):
        fields = read(first.fields, int(places[0].index_M[0]), f"Item 0 of the {sets[0]}")
    if fields is not None and (mean is not None or std is not None):
        raise InputError("`dataset.mean` or `dataset.std` is given, but a record is named tensors; leave both null.")
    normalisation = _normalisation(views, as_bytes, mean, std, tuple(x_N.shape[1:]))
    parts = tuple(
        Part(name=each.title, source=each.source, num_records=len(each), is_training=each.is_training) for each in sets
    )
    is_split = is_datamodule(data) or len(sets) > 1
    x, kinds = of_items(x_N if fields is None else stored_form(fields).unpacked(x_N), kinds)
    dealt, remarks = _loading(sets, loading)
    return OwnRecords(
        name=own_name if name is None else name,
        x_N=x,
        kinds=kinds,
        label_N=classes.label_N,
        class_names=classes.names,
        label_map=classes.map,
        scale=normalisation.scale,
        mean=_column(normalisation.mean, x_N),
        std=_column(normalisation.std, x_N),
        is_training_N=is_training_N if is_split else None,
        record_names=tuple(_record_names(sets, places) if ids is None else attribute or in_items),
        origin=Origin(name=own_name, parts=parts, doubt=doubt) if is_split else None,
        loading=dealt,
        augment=views.augment,
        remarks=(
            *found.remarks,
            *_about_parts(sets, places, views.views),
            *views.remarks,
            *remarks,
            *classes.remarks,
            *(_about_left_out(each) for each in sets if each.left_out),
        ),
    )


def _record_names(sets: Sequence[OwnSet], places: Sequence[Places]) -> Sequence[str]:
    """By the paths of files, or else by set and place; none for a single set without files."""
    return paths_of(places) or (numbered_names(sets) if len(sets) > 1 else [])


def _sets(data: Any, nonmembers: Any, loading: Literal["own", "ignore"]) -> Sets:
    names = [nonmembers] if isinstance(nonmembers, str) else nonmembers
    is_named = isinstance(names, list | tuple) and bool(names) and all(isinstance(each, str) for each in names)
    if is_named:
        odd = next((each for each in names if each not in HELD_OUT), None)
        if odd is not None or not is_datamodule(data):
            raise InputError(
                f"`dataset.nonmembers` is {shown(nonmembers)}; it must be {' or '.join(HELD_OUT)}, or both, of a "
                "LightningDataModule, or from Python a dataset or loader."
            )
    if is_datamodule(data):
        held_out = names if is_named else () if nonmembers is not None else None
        found = sets_of(data, held_out, loading)
    else:
        if isinstance(data, list | tuple | Mapping):
            raise InputError(f"The data is {shown(data)}; give one dataset, such as torch.utils.data.ConcatDataset.")
        name = "data" if nonmembers is None else "training"
        found = Sets(sets_in(data, name, "", is_training=True, loading=loading))
    if nonmembers is not None and not is_named:
        others = sets_in(nonmembers, "held-out", "nonmembers", is_training=False, loading=loading)
        if not others:
            raise InputError(f"`dataset.nonmembers` is {shown(nonmembers)}, in which there is no dataset; give one.")
        found = replace(found, sets=[*found.sets, *others])
    return found


def _stand_ins(sets: Sequence[OwnSet], places: Sequence[Places], given: Any) -> dict[tuple[int, int], Any]:
    """What `eval_dataset` stands in for, by the numbers of a set and of a dataset inside it.

    It is the dataset inside the training set, in other sets too, or else the training set as a whole.
    """
    if given is None:
        return {}
    found = sets_in(given, "eval_dataset", "", is_training=False, loading="ignore")
    if len(found) != 1:
        raise InputError(f"`eval_dataset` is {shown(given)}; give one dataset.")
    dataset: Any = found[0].dataset
    training = [number for number, each in enumerate(sets) if each.is_training]
    inner = np.unique(np.concatenate([places[number].leaf_M for number in training])).tolist()
    leaves, length = places[0].leaves, len(dataset)
    if len(inner) == 1 and len(leaves[inner[0]]) == length:
        return {(number, inner[0]): dataset for number in range(len(sets))}
    if len(training) == 1 and len(sets[training[0]]) == length:
        place = places[training[0]]
        return {
            (training[0], leaf): _At(dataset, place.index_M[place.leaf_M == leaf], np.nonzero(place.leaf_M == leaf)[0])
            for leaf in inner
        }
    inside = f", or {len(leaves[inner[0]])} as the dataset inside it" if len(inner) == 1 else ""
    raise InputError(
        f"`eval_dataset` has {length} records; give as many as the training set has, "
        f"{sum(len(sets[number]) for number in training)}{inside}, in the same order."
    )


class _At:
    """A dataset whose records stand at other places."""

    def __init__(self, dataset: Any, index_M: Any, place_M: Any) -> None:
        self.dataset, self.place_at = dataset, dict(zip(index_M.tolist(), place_M.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.place_at[index]]


def _check_constants(found: Taken, constants: Mapping[str, object]) -> None:
    """Refuse constants after a training transform that is applied as it is, without them."""
    given = next((name for name, value in constants.items() if value is not None), None)
    if given is not None and not all(getattr(each, "takes_constants", True) for each in found.augment):
        raise InputError(
            f"`dataset.{given}` is given, but the training transform is applied as it is, and ends before it; put a "
            "Normalize into the transforms, or set `dataset.train_transform=ignore` (`train_transform` in Python)."
        )


def _normalisation(
    found: Taken, as_bytes: bool, mean: PerChannel | None, std: PerChannel | None, shape: tuple[int, ...]
) -> Normalisation:
    normalisation = Normalisation()
    if as_bytes:
        view = next(view for by_leaf in found.views for view in by_leaf.values())
        assert view.raw is not None
        normalisation = view.raw[1]
    if mean is None and std is None:
        return normalisation
    given = {"mean": 0.0 if mean is None else mean, "std": 1.0 if std is None else std}
    for what, value in given.items():
        if not isinstance(value, float) and (not shape or len(value) not in (1, shape[0])):
            raise InputError(
                f"`dataset.{what}` has {len(value)} numbers, but a record has the shape {list(shape)}; give one "
                "number, or one for each entry of the first axis."
            )
    return normalisation.then(*((v,) if isinstance(v, float) else tuple(v) for v in given.values()))


def _column(values: tuple[float, ...], x_N: Tensor) -> Tensor | None:
    """Numbers as a tensor that broadcasts against a record; None for none."""
    if not values:
        return None
    return torch.tensor(values, dtype=torch.float64).reshape(-1, *[1] * (x_N.ndim - 2))


def _about_parts(sets: Sequence[OwnSet], places: Sequence[Places], views: Sequence[Mapping[int, View]]) -> list[str]:
    """That of items of more than two parts the first two are read, by the first item of the first set."""
    leaf, index = int(places[0].leaf_M[0]), int(places[0].index_M[0])
    with isolated(0, "records"):
        view = views[0][leaf]
        item = view.dataset[index] if view.collate is None else view.collate([view.dataset[index]])
    if not isinstance(item, tuple | list) or len(item) < 3:
        return []
    return [
        f"Items of the {sets[0]} have {len(item)} parts: the first is read as the record, the second as its label, and "
        "the rest is left out; if that is wrong, let `__getitem__` give (x, y)."
    ]


def _loading(sets: Sequence[OwnSet], loading: Literal["own", "ignore"]) -> tuple[Loading | None, list[str]]:
    found = [each.loading for each in sets if each.is_training]
    if loading == "ignore":
        without = [name for each in sets if each.is_training for name in _not_followed(each)]
        return None, [_about_batches(without)] if without else []
    if len(set(found)) == 1:
        return found[0], []
    return None, [
        "The training loaders have different batch sizes or orders, so that batches are those of `training`, over all "
        "their records."
    ]


def _not_followed(each: OwnSet) -> list[str]:
    """What of a loader `loading=ignore` leaves out, where it may matter: an unknown order, a collation of its own."""
    return [each.dealer] * bool(each.dealer) + ([] if each.collate is None else [name_of(each.collate)])


def _about_batches(without: Sequence[str]) -> str:
    return (
        "`dataset.loading` is ignore: models that are trained here do without "
        f"{' and '.join(dict.fromkeys(without))} of the training loader, so that they may leak more, or otherwise, "
        "than a model that was trained with it."
    )


def _about_left_out(each: OwnSet) -> str:
    which = f"its last {each.left_out} records, by drop_last and without shuffle"
    if each.dealer:
        which = f"{each.left_out} of its records, by its {each.dealer}"
    return f"The loader of the {each} never gives {which}: they are left out, and are neither members nor non-members."


def _name_of(data: Any) -> str:
    if isinstance(data, DataLoader):
        data = data.dataset
    while type(data).__name__ == "Subset":
        data = data.dataset
    return type(data).__name__
