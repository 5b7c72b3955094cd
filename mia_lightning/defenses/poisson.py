"""Poisson batches: each record of a model is in each of its batches by a coin of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mia_lightning.seeds import counter_hash
from mia_lightning.training.step.batches import Batch, RecordsOfModels

_BITS = 53  # of a coin


@dataclass(frozen=True, kw_only=True)
class PoissonSampler:
    """Batches at rate q = B / n, at most 1, or, where B is None, one over the number of batches of an epoch.

    Attributes:
        batch_size: B, the expected number of records of a batch.
        num_records: n; None for each model's own number of training records.
    """

    batch_size: int | None
    num_records: int | None = None

    def rate(self, num_records: int, batches_per_epoch: int) -> float:
        """q of a model with so many training records."""
        if self.batch_size is None:
            return 1 / batches_per_epoch
        return min(1.0, self.batch_size / (self.num_records or num_records))

    def expected_size(self, num_records: int, batches_per_epoch: int) -> float:
        """q n."""
        return self.rate(num_records, batches_per_epoch) * (self.num_records or num_records)

    def __call__(
        self,
        records_K: Sequence[Tensor],
        key_K: Tensor,
        *,
        batches_per_epoch: int,
        device: torch.device | str = "cpu",
    ) -> "PoissonBatches":
        rates = [self.rate(len(records), batches_per_epoch) for records in records_K]
        return PoissonBatches(records_K, key_K, rates, batches_per_epoch=batches_per_epoch, device=device)


class PoissonBatches(RecordsOfModels):
    """Batches of record indices `[K, B]`, in each of which a record is by an independent coin.

    No batch is cut off or topped up: a step is as wide as the largest batch that any model of the stack drew for it,
    and shorter rows are padded with a record of the model's own, marked as not real. A batch may be empty; at least
    one column is always there. The coin of a record is a function of (key of the model, step, place of the record
    among the model's) alone.

    Args:
        records_K, key_K, batches_per_epoch, device: as for `RecordsOfModels`.
        rate_K: q of each model, in (0, 1].

    Yields:
        `(index_KB, is_real_KB)`.
    """

    def __init__(
        self,
        records_K: Sequence[Tensor],
        key_K: Tensor,
        rate_K: Sequence[float],
        *,
        batches_per_epoch: int,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(records_K, key_K, batches_per_epoch=batches_per_epoch, device=device)
        self.place_M = torch.arange(self.record_KM.shape[1], device=device)
        self.exists_KM = self.place_M < self.count_K[:, None]
        self.threshold_K = torch.tensor([round(rate * 2**_BITS) for rate in rate_K], device=device)
        self.smallest_batch = 0
        self.has_padding_S = [True] * batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        first = self.epoch * self.batches_per_epoch
        steps = range(first, first + self.batches_per_epoch)
        for step, width in zip(steps, self._widths(steps), strict=True):
            is_in_KM = self._is_in(step)
            yield self._batch(is_in_KM, int(is_in_KM.sum(1).max()) if width is None else width)

    def _widths(self, steps: Sequence[int]) -> Sequence[int | None]:
        """The size of the largest batch of each step; None on the CPU, where it is read once the coins are drawn.

        Each reading makes another device wait for all that it was given, so there an epoch's are read at once, and the
        coins are drawn twice.
        """
        if self.key_K.device.type == "cpu":
            return [None] * len(steps)
        most_S: list[int] = torch.stack([self._is_in(step).sum(1).max() for step in steps]).tolist()
        return most_S

    def _is_in(self, step: int) -> Tensor:
        """Which of its records are in each model's batch, bool `[K, M]`."""
        coin_KM = (counter_hash(self.key_K[:, None], step, self.place_M) >> (64 - _BITS)) & (2**_BITS - 1)
        is_in_KM: Tensor = self.exists_KM & (coin_KM < self.threshold_K[:, None])
        return is_in_KM

    def _batch(self, is_in_KM: Tensor, most: int) -> Batch:
        width = max(1, most)
        # Those that are in come first, in their own order.
        place_KB = (~is_in_KM).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        is_real_KB = is_in_KM.gather(1, place_KB)
        place_KB = torch.where(is_real_KB, place_KB, 0)
        return self.record_KM.gather(1, place_KB), is_real_KB
