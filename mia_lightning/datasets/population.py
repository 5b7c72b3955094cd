"""The records of an audit, as one tensor."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.arrays import Array as Array
from mia_lightning.datasets.arrays import as_constant, as_mask, as_tensor, check_here, check_tensor
from mia_lightning.datasets.augmentation import Augmentation
from mia_lightning.datasets.doubts import about_arrays, about_classes, check_classes
from mia_lightning.datasets.groups import NO_GROUP, check_groups, numbered
from mia_lightning.datasets.loading import Loading
from mia_lightning.datasets.origin import Origin
from mia_lightning.datasets.own.reading import read_own
from mia_lightning.datasets.scaling import scale_by_range
from mia_lightning.errors import InputError, is_storable
from mia_lightning.settings.checking import shown

_FINGERPRINT_RECORDS = 4096  # at once: bounds memory, not the result
_CHECKED_NUMBERS = 2**22  # likewise
# Records take at most this part of an accelerator's free memory: networks, gradients and batches need the rest.
_PARTS = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class Population:
    """Labelled records on one device; all other code refers to them by their index.

    They need not be on the device where networks train: `records` copies those of a batch to the device of the indices.

    Attributes:
        name: of the data set, in reports.
        x_N: `[N, *features]`, floating point, or integers (uint8 images stay uint8) that `records` turns to
            floating point on the device: `(x * scale - mean) / std`.
        label_N: int64 in `[0, num_classes)`.
        class_names: one for each class, in the order of the labels.
        scale, mean, std: public constants of the normalisation, never fitted on private records; `mean` and
            `std` broadcast against one record.
        member_N: bool, the records that a given target was trained on, where the data set says so
            (`membership=given`).
        group_N: int64 in `[0, len(group_names))`, or -1 for a record of no group; leakage is also reported for each
            group.
        group_names: one for each group; () without groups.
        remarks: sentences for the report about the records.
        record_names: one for each record, such as the path of a file, by which reports and a file of members name it;
            () for none.
        device_bytes: the largest size of records that are moved to a training device; None for a quarter of an
            accelerator's free memory. Larger records stay where they are.
        image_shape: (channels, height, width) of records that are flattened images, for networks that want images;
            None for others.
        origin: which of a user's own sets the records come from; None where they are one set.
        loading: how the user's training loader makes batches; None without one.
        augment: random changes of the records in the user's own training, in order.

    Raises:
        InputError: lengths, dtypes or devices that do not match, no records, fewer than two classes, a label outside
            `[0, num_classes)`, a group without a name, a NaN or infinite value, `mean`, `std` or `image_shape` that do
            not fit a record.
    """

    name: str
    x_N: Tensor
    label_N: Tensor
    class_names: tuple[str, ...]
    scale: float = 1.0
    mean: Tensor | None = None
    std: Tensor | None = None
    member_N: Tensor | None = None
    group_N: Tensor | None = None
    group_names: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    record_names: tuple[str, ...] = ()
    device_bytes: int | None = None
    image_shape: tuple[int, int, int] | None = None
    origin: Origin | None = None
    loading: Loading | None = None
    augment: tuple[Augmentation, ...] = ()

    def __post_init__(self) -> None:
        _check_population(self)

    @staticmethod
    def of(
        data: Any,
        *,
        nonmembers: Any = None,
        eval_dataset: Any = None,
        name: str | None = None,
        ids: str | None = None,
        class_names: Sequence[str] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        train_transform: Literal["own", "ignore"] = "own",
        loading: Literal["own", "ignore"] = "own",
    ) -> "Population":
        """The records of your own LightningDataModule, DataLoader or torch Dataset.

        Args:
            data: what is read. Of a DataModule, `prepare_data` and `setup` are called as a Trainer calls them; its
                training set are the members of a target that was trained elsewhere, its validation and test sets the
                non-members.
            nonmembers: of a DataModule `validation`, `test` or both; or a dataset or loader, or several.
            eval_dataset: the training records again, in the same order, through a fixed transform; or those of the
                dataset inside the training `Subset`.
            name: in reports; by default that of the class of `data`.
            ids: what names a record in reports and `scores.parquet`: an attribute of the datasets, or a key or place in
                an item; by default the path of its file, or its set and place there, such as `training/17`.
            class_names: one for each class; by default those of the datasets (`classes`), or numbers.
            mean, std: one number, or one for each entry of a record's first axis, after the dataset's own transform.
            train_transform: `own` trains with the random steps of the training transform, and refuses those that are
                not known here; `ignore` trains without them.
            loading: `own` takes how the training loader makes batches, and refuses what is not known here; `ignore`
                leaves batches to `training`, and reads records without the loader's `collate_fn`.

        Raises:
            InputError: no records, labels that are no class numbers, items of different shapes, records that change at
                random, or a loader whose batches are not known here.

        Example:
            >>> import mia_lightning as mia, torch
            >>> from torch.utils.data import TensorDataset
            >>> train = TensorDataset(torch.zeros(6, 4), torch.arange(6) % 2)
            >>> test = TensorDataset(torch.ones(2, 4), torch.arange(2))
            >>> population = mia.Population.of(train, nonmembers=test)
            >>> len(population), population.member_N.tolist()
            (8, [True, True, True, True, True, True, False, False])
            >>> population.record_names[-1]
            'held-out/1'
        """
        found = read_own(
            data,
            nonmembers=nonmembers,
            eval_dataset=eval_dataset,
            name=name,
            ids=ids,
            class_names=class_names,
            mean=mean,
            std=std,
            train_transform=train_transform,
            loading=loading,
        )
        made = make_population(
            found.x_N,
            found.label_N,
            name=found.name,
            class_names=found.class_names,
            member=found.is_training_N,
            scale=found.scale,
            mean=found.mean,
            std=found.std,
        )
        return replace(
            made,
            remarks=(*found.remarks, *made.remarks),
            record_names=found.record_names,
            origin=found.origin,
            loading=found.loading,
            augment=found.augment,
        )

    def __len__(self) -> int:
        return self.x_N.shape[0]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record."""
        return tuple(self.x_N.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.x_N.device

    def records(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The records at `index` (int64 of any shape), normalised: `[*index.shape, *features]` of `dtype`.

        They are on the device of `index`, wherever the population is.
        """
        # Whole rows at a time: several times as fast as x_N[index].
        rows = self.x_N.index_select(0, index.to(self.device).flatten()).to(index.device)
        return self.normalised(rows.view(*index.shape, *self.input_shape), dtype)

    def normalised(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Records `[..., *features]` in the form of `x_N` as a network sees them."""
        x = x.to(dtype)
        if self.scale != 1.0:
            x = x * self.scale
        if self.mean is not None:
            x = x - self.mean.to(x)
        if self.std is not None:
            x = x / self.std.to(x)
        return x

    def to(self, device: torch.device | str) -> "Population":
        """The same population on `device` (itself, if it is already there)."""
        if self.device == torch.device(device):
            return self
        moved = {
            name: value.to(device)
            for name in ("x_N", "label_N", "mean", "std", "member_N", "group_N")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)

    def near(self, device: torch.device | str) -> "Population":
        """The same population on `device` where its records fit there (`device_bytes`); else as it is."""
        device = torch.device(device)
        if self.is_near(device):
            return self
        limit = self.device_bytes
        if limit is None and device.type == "cuda":
            limit = torch.cuda.mem_get_info(device)[0] // _PARTS
        return self.to(device) if limit is None or self.x_N.nbytes <= limit else self

    def is_near(self, device: torch.device | str) -> bool:
        """Whether the records are on `device` and may stay there; otherwise each batch is gathered before its step."""
        is_allowed = self.device_bytes is None or self.x_N.nbytes <= self.device_bytes
        return is_allowed and self.device == torch.device(device)

    def part(self, columns: slice) -> "Population":
        """The records in the slice, on the same device, sharing memory."""
        return self._taken(columns)

    def chosen(self, chosen_N: Tensor) -> "Population":
        """The records where the bool mask is True."""
        return self._taken(chosen_N)

    def _taken(self, index: slice | Tensor) -> "Population":
        names = self.record_names
        names = names[index] if isinstance(index, slice) else tuple(compress(names, index.tolist()))
        return replace(
            self,
            x_N=self.x_N[index],
            label_N=self.label_N[index],
            member_N=None if self.member_N is None else self.member_N[index],
            group_N=None if self.group_N is None else self.group_N[index],
            record_names=names,
        )

    def followed_by(self, x_M: Tensor, label_M: Tensor) -> "Population":
        """This population, followed by M synthetic records of the same form, which belong to no group."""
        group_N = self.group_N
        if group_N is not None:
            group_N = torch.cat([group_N, group_N.new_full((len(x_M),), NO_GROUP)])
        return replace(
            self,
            x_N=torch.cat([self.x_N, x_M.to(self.x_N)]),
            label_N=torch.cat([self.label_N, label_M.to(self.label_N)]),
            member_N=None,
            group_N=group_N,
            record_names=(*self.record_names, *[""] * len(x_M)) if self.record_names else (),
        )

    def record_digests(self) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """A digest of each record before normalisation, without its label: `[N, 16]` uint8."""
        kind = f"{self.x_N.dtype}{self.input_shape}".encode()
        digests = bytearray()
        for block in self.x_N.split(_FINGERPRINT_RECORDS):
            rows = block.cpu().contiguous().view(len(block), -1).view(torch.uint8).numpy()
            for row in rows:
                digests += hashlib.blake2b(row.data, digest_size=16, key=kind[:64]).digest()
        return np.frombuffer(bytes(digests), dtype=np.uint8).reshape(len(self), 16)

    def fingerprint(self) -> str:
        """SHA-256 of the records and labels, in row order."""
        digest = hashlib.sha256()
        for tensor in (self.x_N, self.label_N):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            for block in tensor.split(_FINGERPRINT_RECORDS):
                digest.update(block.cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()


def make_population(
    x: Array,
    label: Array,
    *,
    name: str = "data",
    class_names: Sequence[str] | None = None,
    member: Array | None = None,
    group: Array | None = None,
    group_names: Sequence[str] | None = None,
    scale: float | None = None,
    mean: Array | float | None = None,
    std: Array | float | None = None,
    remarks: Sequence[str] | None = None,
) -> Population:
    """A `Population` from tensors, numpy arrays or lists; memory is shared with them where no dtype changes.

    Args:
        x: `[N, *features]`; float64 becomes float32, bool becomes uint8, uint16 to uint64 become int64, other
            floating and integer types stay.
        label: `[N]`, of any integer type.
        name: of the population, in reports and error messages.
        class_names: one for each class; by default the numbers from 0 to the largest label, which must then be
            below N.
        member: bool `[N]`, the records that a given target was trained on.
        group: `[N]`, text or whole numbers; leakage is also reported for each group. The sorted distinct values name
            the groups; with `group_names` the numbers are indices of names, and -1 for a record of no group.
        group_names: one for each group.
        scale: as in `Population`; by default 1/255 for uint8 records of two or more axes (images) with values above
            127, else 1.
        mean, std: as in `Population`; numbers, too.
        remarks: about the records; None for those that can be read off the arrays.

    Raises:
        InputError: values that are no numbers, labels that are not integers, or what `Population` refuses.
    """
    name = str(name)
    for what, texts in (("class_names", class_names), ("remarks", remarks)):
        if isinstance(texts, str | set | frozenset | Mapping) or not isinstance(texts, Iterable | None):
            one = "one name for each class" if what == "class_names" else "one sentence for each"
            raise InputError(f"{what} of population {name!r} is {shown(texts)}: give a list, {one}")
    x_N, label_N = (
        as_tensor(x, f"x of population {name!r}"),
        as_tensor(label, f"label of population {name!r}"),
    )
    if label_N.is_floating_point():
        dtype = getattr(label, "dtype", label_N.dtype)
        raise InputError(
            f"label of population {name!r} has dtype {dtype}: give class numbers of an integer type, "
            "for instance by label.astype('int64')"
        )
    is_counted = class_names is None
    if class_names is None:
        highest = int(label_N.max()) if label_N.numel() else 0
        if highest >= max(2, label_N.numel()):
            raise InputError(
                f"label {highest} of population {name!r} would make {highest + 1} classes of {label_N.numel()} "
                "records: number the classes from 0, or name them all in class_names"
            )
        class_names = [str(c) for c in range(highest + 1)]
    group_N: Tensor | None = None
    names: tuple[str, ...] = () if group_names is None else tuple(group_names)
    if group is not None:
        group_N, names = numbered(group, group_names, name)
    by_range, of_scale = scale_by_range(x_N, name) if scale is None else (scale, ())
    population = Population(
        name=name,
        x_N=x_N,
        label_N=label_N.to(torch.int64),
        class_names=tuple(str(each) for each in class_names),
        scale=by_range,
        mean=None if mean is None else as_constant(mean, f"mean of population {name!r}"),
        std=None if std is None else as_constant(std, f"std of population {name!r}"),
        member_N=None if member is None else as_mask(member, f"member of population {name!r}"),
        group_N=group_N,
        group_names=names,
    )
    own_N = population.label_N.cpu().numpy()
    if is_counted:
        check_classes(np.unique(own_N).tolist(), own_N, f"label of population {name!r}")
    if remarks is None:
        remarks = about_arrays(x, own_N, name)
    remarks = (*of_scale, *remarks, *about_classes(own_N, population.class_names, name))
    return replace(population, remarks=remarks)


def _check_population(population: Population) -> None:
    _check_kinds(population)
    _check_shapes(population)
    _check_labels(population)
    _check_finite(population)
    _check_normalisation(population)


def _check_kinds(population: Population) -> None:
    name = population.name
    if not isinstance(name, str) or not is_storable(name):
        raise InputError(f"name of population {shown(name)} is no text that a file can hold: give another one")
    for what in ("x_N", "label_N", "mean", "std", "member_N", "group_N"):
        value = getattr(population, what)
        if value is not None or what in ("x_N", "label_N"):
            check_tensor(value, f"{what.removesuffix('_N')} of population {name!r}")
    for what in ("class_names", "group_names", "remarks", "record_names"):
        texts = getattr(population, what)
        if not isinstance(texts, tuple) or not all(isinstance(each, str) for each in texts):
            raise InputError(f"{what} of population {name!r} is {shown(texts)}: give a tuple of texts")
        if not is_storable("".join(texts)):
            unreadable = next(each for each in texts if not is_storable(each))
            raise InputError(
                f"{what} of population {name!r} has {shown(unreadable)}, with a character that no file can hold: "
                "give another name"
            )
    scale: object = population.scale
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise InputError(f"scale of population {name!r} is {shown(scale)}: give a number")


def _check_shapes(population: Population) -> None:
    name, x_N, label_N, member_N = population.name, population.x_N, population.label_N, population.member_N
    if x_N.ndim < 2 or math.prod(x_N.shape[1:]) == 0:
        raise InputError(
            f"x of population {name!r} has shape {tuple(x_N.shape)}: give it the shape [records, *features] "
            "with at least one feature"
        )
    if label_N.shape != x_N.shape[:1]:
        raise InputError(
            f"population {name!r} has {len(x_N)} records in x but labels of shape {tuple(label_N.shape)}: "
            "give one label for each record"
        )
    if len(population.record_names) not in (0, len(x_N)):
        raise InputError(
            f"population {name!r} has {len(x_N)} records and {len(population.record_names)} record_names: give one for "
            "each record, or none"
        )
    if len(x_N) == 0:
        raise InputError(f"population {name!r} has no records: give it some of at least two classes")
    if member_N is not None and (member_N.shape != label_N.shape or member_N.dtype != torch.bool):
        raise InputError(
            f"member of population {name!r} has shape {tuple(member_N.shape)} and dtype {member_N.dtype}: "
            f"give one bool for each of the {len(x_N)} records"
        )
    check_groups(name, population.group_N, population.group_names, len(x_N))
    image_shape = population.image_shape
    if image_shape is not None and (x_N.ndim != 2 or math.prod(image_shape) != x_N.shape[1]):
        raise InputError(
            f"image_shape of population {name!r} is {list(image_shape)}, but a record has shape {list(x_N.shape[1:])}: "
            "give the shape of the images that were flattened, or leave it None"
        )
    others = (label_N, member_N, population.group_N, population.mean, population.std)
    devices = {str(each.device) for each in (x_N, *others) if each is not None}
    if len(devices) > 1:
        raise InputError(
            f"the tensors of population {name!r} lie on {' and '.join(sorted(devices))}: put them on one device"
        )
    check_here(x_N, f"x of population {name!r}")


def _check_labels(population: Population) -> None:
    name, label_N, num_classes = population.name, population.label_N, population.num_classes
    if label_N.dtype != torch.int64:
        raise InputError(f"label of population {name!r} has dtype {label_N.dtype}: give class numbers as int64")
    if num_classes < 2:
        raise InputError(
            f"population {name!r} has {num_classes} class: membership is audited on a classifier, "
            "so give records of at least two classes"
        )
    if len(set(population.class_names)) < num_classes:
        twice = next(each for each in population.class_names if population.class_names.count(each) > 1)
        raise InputError(f"class name {twice!r} of population {name!r} appears twice: give each class its own")
    outside = (label_N < 0) | (label_N >= num_classes)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise InputError(
            f"label {int(label_N[row])} of record {row} of population {name!r} is outside "
            f"0 to {num_classes - 1}: number the classes from 0, or name them all in class_names"
        )


def _check_finite(population: Population) -> None:
    x_N = population.x_N
    if x_N.is_complex():
        raise InputError(f"x of population {population.name!r} is complex: give real numbers")
    if not x_N.is_floating_point():
        return
    width = max(1, _CHECKED_NUMBERS // x_N[0].numel())
    ends = (torch.stack(block.aminmax()) for block in x_N.split(width))  # NaN where a block has one
    start = next((b * width for b, end in enumerate(ends) if not bool(end.isfinite().all())), None)
    if start is None:
        return
    row = start + int((~x_N[start : start + width].isfinite()).flatten(1).any(1).nonzero()[0])
    place = (~x_N[row].isfinite()).nonzero()[0].tolist()
    raise InputError(
        f"record {row} of population {population.name!r} has the value "
        f"{float(x_N[row][tuple(place)])} at feature {', '.join(map(str, place))}: "
        f"replace or leave out what is not finite in {str(x_N.dtype).removeprefix('torch.')}"
    )


def _check_normalisation(population: Population) -> None:
    name, shape = population.name, population.input_shape
    if not math.isfinite(population.scale) or population.scale == 0:
        raise InputError(f"scale {population.scale} of population {name!r} must be finite and not zero")
    for what, value in (("mean", population.mean), ("std", population.std)):
        if value is None:
            continue
        if not _broadcasts(value.shape, shape):
            raise InputError(
                f"{what} of population {name!r} has shape {tuple(value.shape)}, which does not broadcast "
                f"against a record of shape {shape}: give one number, or one for each channel as [C, 1, 1]"
            )
        if not bool(value.isfinite().all()) or (what == "std" and not bool((value > 0).all())):
            raise InputError(
                f"{what} {value.flatten().tolist()} of population {name!r} must be finite"
                + (" and above zero" if what == "std" else "")
            )


def _broadcasts(shape: tuple[int, ...], record: tuple[int, ...]) -> bool:
    if len(shape) > len(record):
        return False
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(record), strict=False))
