"""The records of an audit, stored as one tensor."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.arrays import Array as Array
from mia_lightning.datasets.augmentation import Augmentation
from mia_lightning.datasets.fields import Kinds
from mia_lightning.datasets.form import Form, Records
from mia_lightning.datasets.groups import NO_GROUP
from mia_lightning.datasets.labels import LabelMap
from mia_lightning.datasets.loading import Loading
from mia_lightning.datasets.making import make_population as make_population
from mia_lightning.datasets.marks import Mark
from mia_lightning.datasets.origin import Origin
from mia_lightning.datasets.own.reading import read_own
from mia_lightning.datasets.population_checks import check_population
from mia_lightning.errors import InputError
from mia_lightning.tasks import Classification, Task, as_task
from mia_lightning.tasks.interface import Strata

_FINGERPRINT_RECORDS = 4096  # at once: bounds memory, not the result
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
        label_N: what `task` says: int64 in `[0, num_classes)` of classes, uint8 `[N, L]` of several labels, float32
            `[N]` or `[N, D]` of numbers.
        class_names: one for each class, label, or number, in their order.
        scale, mean, std: public constants of the normalisation, never fitted on private records; `mean` and
            `std` broadcast against one record.
        member_N: bool, the records that a given target was trained on, where the data set says so
            (`membership=given`).
        group_N: int64 in `[0, len(group_names))`, or -1 for a record of no group; leakage is also reported for each
            group. `[N, G]` where records are grouped in G ways, such as by sex and by region.
        group_names: one for each group, whichever way; () without groups.
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
        form: of records that are not one tensor of numbers or pixels: which tensors a network is given, and what they
            mean; None for others. `x_N` is then the one tensor, or the rows of bytes of several (`Form.packed`), and
            scale, mean and std change nothing.
        weight_N: float32, how much each record counts in the loss that models are trained with: a batch's loss is
            Σ w l / Σ w. Attacks read losses without weights. None for records that all count the same.
        label_map: how the labels of the data became class numbers; None where they were these.
        marks: what was done to some of the records while they were read, such as texts that were cut.
        task: what the label of a record is.

    Raises:
        InputError: lengths, dtypes or devices that do not match, no records, fewer than two classes, a label outside
            `[0, num_classes)`, a group without a name, weights that are below 0, not finite or all 0, a NaN or infinite
            value, `mean`, `std` or `image_shape` that do not fit a record, or a field that is not what `form` says.
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
    form: Form | None = None
    weight_N: Tensor | None = None
    label_map: LabelMap | None = None
    marks: tuple[Mark, ...] = ()
    task: Task = field(default_factory=Classification)

    def __post_init__(self) -> None:
        check_population(self)

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
        kinds: Kinds | None = None,
        task: Task | str | None = None,
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
            class_names: one for each class; by default those of the datasets (`classes`), or numbers, or the distinct
                labels, where these are no class numbers from 0 (`make_population`).
            mean, std: one number, or one for each entry of a record's first axis, after the dataset's own transform.
            train_transform: `own` trains with the random steps of the training transform, and refuses those that
                cannot be had here; `ignore` trains without them.
            loading: `own` takes how the training loader makes batches, and refuses what is not known here; `ignore`
                leaves batches to `training`, and reads records without the loader's `collate_fn`.
            kinds: what the values of an item are, as `make_population` takes it; of items with several tensors int64
                are `tokens` unless it says otherwise.
            task: what the labels are, an object or its name such as `regression`; None for classes.

        Raises:
            InputError: no records, labels that are none of the task, items of different shapes, records that change at
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
        task = as_task(task)
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
            kinds=kinds,
            task=task,
        )
        made = make_population(
            found.x_N,
            found.label_N,
            kinds=found.kinds,
            name=found.name,
            class_names=found.class_names,
            member=found.is_training_N,
            scale=found.scale if isinstance(found.x_N, Tensor) else None,
            mean=found.mean,
            std=found.std,
            task=task,
        )
        return replace(
            made,
            remarks=(*found.remarks, *made.remarks),
            label_map=found.label_map,
            record_names=found.record_names,
            origin=found.origin,
            loading=found.loading,
            augment=found.augment,
        )

    def __len__(self) -> int:
        return self.x_N.shape[0]

    @property
    def num_classes(self) -> int:
        """How many outputs a network has: one for each class, label, or number."""
        return len(self.class_names)

    @property
    def strata(self) -> Strata:
        """The parts of the records that have figures of their own: classes, labels, or ranges of the value."""
        return self.task.strata(self.label_N, self.class_names)

    def under(self, task: Task) -> "Population":
        """The records with their labels read by this task.

        Raises:
            InputError: they were read as something else, or do not fit the task.
        """
        if not task.takes(self.task):
            raise InputError(
                f"The labels of population {self.name!r} are those of task={self.task.name}, and `task` is "
                f"{task.name}; set task={self.task.name}, or use a data set whose labels suit {task.name}, such as "
                "arrays, dataset=npz, csv or table."
            )
        return replace(self, task=task)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record; of several tensors how many numbers they are together, as one row."""
        if self.form is not None and not self.form.is_one:
            return (self.form.num_entries,)
        return tuple(self.x_N.shape[1:])

    @property
    def entries_NF(self) -> Tensor:
        """The records as flat rows of numbers, before normalisation (`Form.entries`)."""
        return self.x_N.flatten(1) if self.form is None else self.form.entries(self.x_N)

    @property
    def is_code_F(self) -> Tensor:
        """Bool `[F]`: which numbers of a flat row are codes, of tokens or categories, and no quantities."""
        if self.form is None:
            return torch.zeros(self.x_N[0].numel(), dtype=torch.bool, device=self.device)
        return self.form.is_code_F.to(self.device)

    def stored(self, entries: Tensor) -> Tensor:
        """Flat rows of numbers `[..., F]`, as `entries_NF` gives them, as `x_N` stores records."""
        if self.form is None:
            return entries.reshape(*entries.shape[:-1], *self.x_N.shape[1:])
        return self.form.stored(entries)

    @property
    def device(self) -> torch.device:
        return self.x_N.device

    def records(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Records:
        """The records at `index` (int64 of any shape) as a network is given them: `[*index.shape, *features]`.

        One tensor, normalised, in `dtype`; or what their form says. They are on the device of `index`, wherever the
        population is.
        """
        # Whole rows at a time: several times as fast as x_N[index].
        rows = self.x_N.index_select(0, index.to(self.device).flatten()).to(index.device)
        return self.normalised(rows.view(*index.shape, *self.x_N.shape[1:]), dtype)

    def normalised(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Records:
        """Records `[..., *features]` as `x_N` stores them, as a network sees them."""
        return self.normaliser(x.device)(x, dtype)

    def normaliser(self, device: torch.device) -> Callable[[Tensor, torch.dtype], Records]:
        """`normalised` for records on `device`, to which nothing is copied any more where it is called."""
        mean, std = (None if each is None else each.to(device) for each in (self.mean, self.std))

        def normalised(x: Tensor, dtype: torch.dtype) -> Records:
            if self.form is not None:
                return self.form.seen(x, dtype)
            x = x.to(dtype)
            if self.scale != 1.0:
                x = x * self.scale
            if mean is not None:
                x = x - mean.to(x)
            if std is not None:
                x = x / std.to(x)
            return x

        return normalised

    def to(self, device: torch.device | str) -> "Population":
        """The same population on `device` (itself, if it is already there)."""
        if self.device == torch.device(device):
            return self
        moved = {
            name: value.to(device)
            for name in ("x_N", "label_N", "mean", "std", "member_N", "group_N", "weight_N")
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
        places = index if isinstance(index, slice) else index.cpu().numpy()
        return replace(
            self,
            x_N=self.x_N[index],
            label_N=self.label_N[index],
            member_N=None if self.member_N is None else self.member_N[index],
            group_N=None if self.group_N is None else self.group_N[index],
            weight_N=None if self.weight_N is None else self.weight_N[index],
            record_names=names,
            marks=tuple(each.taken(places) for each in self.marks),
        )

    def followed_by(self, x_M: Tensor, label_M: Tensor) -> "Population":
        """This population, followed by M synthetic records of the same form, of no group and of weight 1."""
        group_N, weight_N = self.group_N, self.weight_N
        if weight_N is not None:
            weight_N = torch.cat([weight_N, weight_N.new_ones(len(x_M))])
        if group_N is not None:
            group_N = torch.cat([group_N, group_N.new_full((len(x_M), *group_N.shape[1:]), NO_GROUP)])
        return replace(
            self,
            x_N=torch.cat([self.x_N, x_M.to(self.x_N)]),
            label_N=torch.cat([self.label_N, label_M.to(self.label_N)]),
            member_N=None,
            group_N=group_N,
            weight_N=weight_N,
            record_names=(*self.record_names, *[""] * len(x_M)) if self.record_names else (),
            marks=(),
        )

    def record_digests(self) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """A digest of each record before normalisation, without its label: `[N, 16]` uint8."""
        kind = f"{self.x_N.dtype}{tuple(self.x_N.shape[1:])}".encode()
        digests = bytearray()
        for block in self.x_N.split(_FINGERPRINT_RECORDS):
            rows = block.cpu().contiguous().view(len(block), -1).view(torch.uint8).numpy()
            for row in rows:
                digests += hashlib.blake2b(row.data, digest_size=16, key=kind[:64]).digest()
        return np.frombuffer(bytes(digests), dtype=np.uint8).reshape(len(self), 16)

    def fingerprint(self) -> str:
        """SHA-256 of records, labels and weights, in row order, and of what the form of the records says of them."""
        digest = hashlib.sha256()
        if self.form is not None:
            digest.update(json.dumps(self.form.described()).encode())
        for tensor in (self.x_N, self.label_N, *(() if self.weight_N is None else (self.weight_N,))):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            for block in tensor.split(_FINGERPRINT_RECORDS):
                digest.update(block.cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()
