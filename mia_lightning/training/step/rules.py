"""Two protocols by which a defence can replace the batches and the gradients of a step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mia_lightning.datasets.form import Records
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.batches import Batch


class Batches(Protocol):
    """The batches of a stack, epoch by epoch: indices `[K, B]` and, where there is padding, which of them are real.

    The batches of a model are a function of (its key, its records, the epoch) alone.

    Attributes:
        key_K: int64, the key of each model's draws.
        smallest_batch: the fewest real records that a model may see in a step.
        has_padding_S: for each step of an epoch, whether rows may be padded.
    """

    key_K: Tensor
    smallest_batch: int

    @property
    def has_padding_S(self) -> Sequence[bool]: ...

    @property
    def sampler(self) -> "Batches":
        """Itself: Lightning tells the epoch to the `sampler` of a loader, on resuming too."""
        ...

    def set_epoch(self, epoch: int) -> None: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


class Sampler(Protocol):
    """Makes the batches of models that train together; `StackBatches` is one."""

    def __call__(
        self,
        records_K: Sequence[Tensor],
        key_K: Tensor,
        *,
        batches_per_epoch: int,
        device: torch.device | str = "cpu",
    ) -> Batches:
        """Batches of `records_K`, int64 indices `[n_k]` of each model, made on `device`."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Step:
    """What the models of a stack see in one optimiser step.

    Attributes:
        number: of the step, from 0.
        x: `[K, B, *features]`, one tensor or named ones.
        label_KB, index_KB: int64; the index is that of the record in the population.
        is_real_KB: bool; None where no row is padded.
        execution: `stack` or `loop`.
    """

    number: int
    x: Records
    label_KB: Tensor
    index_KB: Tensor
    is_real_KB: Tensor | None
    execution: str


class Gradients(Protocol):
    """Makes the gradients of each step."""

    def __call__(self, stack: Stack, step: Step) -> Tensor:
        """Leave the gradient `[K, ...]` of each trainable parameter in its `grad`; returns the mean losses, `[K]`."""
        ...
