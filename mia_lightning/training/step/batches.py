"""Which records each model of a stack sees at each optimiser step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mia_lightning.datasets.loading import Loading
from mia_lightning.errors import InputError
from mia_lightning.seeds import counter_hash

Batch = tuple[Tensor, Tensor | None]

_LONG = 2**15  # numbers in a row, from which on torch uses a radix sort


class RecordsOfModels:
    """The training records of each model of a stack, from which batches are drawn epoch by epoch.

    Args:
        records_K: for each model the indices of its training records, int64 `[n_k]`.
        key_K: int64, the key of each model's draws.
        batches_per_epoch: the same for all models of the stack.
        device: where the batches are made.

    Attributes:
        count_K: n_k, int64.
        record_KM: int64; the places from `count_K` on mean nothing.

    Raises:
        InputError: a model has no records.
    """

    def __init__(
        self, records_K: Sequence[Tensor], key_K: Tensor, *, batches_per_epoch: int, device: torch.device | str
    ) -> None:
        count_K = torch.tensor([len(records) for records in records_K])
        if int(count_K.min()) == 0:
            raise InputError(
                f"Model {int(count_K.argmin())} of the stack has no training records; give each model at least one."
            )
        self.epoch = 0
        self.batches_per_epoch = batches_per_epoch
        self.key_K = key_K.to(device)
        self.count_K = count_K.to(device)
        self.record_KM = torch.nn.utils.rnn.pad_sequence(list(records_K), batch_first=True).to(device)

    @property
    def sampler(self) -> Self:
        """Lightning tells the epoch to the `sampler` of a loader, on resuming too."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches_per_epoch


class StackBatches(RecordsOfModels):
    """Batches of record indices `[K, B]`, in an order of its own for each model and epoch.

    Every model takes `batches_per_epoch` steps and divides its records among them evenly: batch sizes differ by at most
    one, and no record is dropped or repeated. Where models have different numbers of records, shorter rows are padded
    with a record of the model, which is marked as not real. The order of model k in epoch e is a function of (its key,
    e) alone.

    Args:
        records_K, key_K, batches_per_epoch, device: as for `RecordsOfModels`; the keys are of the orders.

    Yields:
        `(index_KB, is_real_KB)`; `is_real_KB` is None where a batch has no padding.
    """

    def __init__(
        self,
        records_K: Sequence[Tensor],
        key_K: Tensor,
        *,
        batches_per_epoch: int,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(records_K, key_K, batches_per_epoch=batches_per_epoch, device=device)
        count_K = torch.tensor([len(records) for records in records_K])
        start_SK = self._starts(count_K)
        size_SK = start_SK.diff(dim=0)
        self.start_SK = start_SK.to(device)
        self.width_S = size_SK.max(dim=1).values.tolist()
        self.has_padding_S = (size_SK.min(dim=1).values < size_SK.max(dim=1).values).tolist()
        self.smallest_batch = int(size_SK.min())
        # Elsewhere a call takes longer than what it does, so that one makes the batches of an epoch.
        self._all_at_once = None if self.key_K.device.type == "cpu" else self._places(start_SK, count_K)

    def _starts(self, count_K: Tensor) -> Tensor:
        """The place of the first record of each batch, and the place after the last one, `[S + 1, K]`."""
        return torch.arange(self.batches_per_epoch + 1)[:, None] * count_K // self.batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        order_KM = self._order()
        if self._all_at_once is not None:
            yield from self._all_at_once.of(order_KM)
            return
        last_K = self.count_K - 1
        for s, (width, has_padding) in enumerate(zip(self.width_S, self.has_padding_S, strict=True)):
            place_KB = self.start_SK[s][:, None] + torch.arange(width, device=order_KM.device)
            is_real_KB = place_KB < self.start_SK[s + 1][:, None] if has_padding else None
            yield order_KM.gather(1, place_KB.clamp(max=last_K[:, None])), is_real_KB

    def _places(self, start_SK: Tensor, count_K: Tensor) -> "_Places":
        """The places of an epoch's batches, from its starts and the numbers of records on the host."""
        row_K1 = torch.arange(len(count_K))[:, None] * self.record_KM.shape[1]
        place_S, is_real_S = [], []
        for s, (width, has_padding) in enumerate(zip(self.width_S, self.has_padding_S, strict=True)):
            place_KB = start_SK[s][:, None] + torch.arange(width)
            place_S.append(row_K1 + place_KB.clamp(max=count_K[:, None] - 1))
            is_real_S.append(place_KB < start_SK[s + 1][:, None] if has_padding else None)
        device = self.key_K.device
        return _Places(
            place_P=torch.cat([place_KB.flatten() for place_KB in place_S]).to(device),
            width_S=self.width_S,
            is_real_S=[None if is_real_KB is None else is_real_KB.to(device) for is_real_KB in is_real_S],
        )

    def _order(self) -> Tensor:
        """Every model's records in this epoch's order, `[K, M]`; the places from `count_K` on mean nothing."""
        place_M = torch.arange(self.record_KM.shape[1], device=self.record_KM.device)
        rank_KM = counter_hash(self.key_K[:, None], self.epoch, place_M)
        rank_KM = rank_KM.masked_fill(place_M >= self.count_K[:, None], torch.iinfo(torch.int64).max)
        return self.record_KM.gather(1, stable_order(rank_KM))


@dataclass(frozen=True, eq=False, kw_only=True)
class _Places:
    """Where the batches of every epoch stand in its order; all are taken by one call.

    Attributes:
        place_P: int64, in the flattened order `[K, M]`, of the batches `[K, B]` one after another.
        width_S: of each batch, its B.
        is_real_S: of each batch, `[K, B]`; None without padding.
    """

    place_P: Tensor
    width_S: Sequence[int]
    is_real_S: Sequence[Tensor | None]

    def of(self, order_KM: Tensor) -> Iterator[Batch]:
        """The batches of an epoch with this order."""
        K = len(order_KM)
        index_P = order_KM.flatten().index_select(0, self.place_P)
        parts = index_P.split([K * width for width in self.width_S])
        for index, width, is_real_KB in zip(parts, self.width_S, self.is_real_S, strict=True):
            yield index.view(K, width), is_real_KB


class LoadedBatches(StackBatches):
    """The batches of a loader: all of one size but the last, which may be smaller or left out.

    Args:
        loading: of the loader; without `shuffle` every epoch has the order of `records_K`.
    """

    def __init__(
        self,
        records_K: Sequence[Tensor],
        key_K: Tensor,
        *,
        batches_per_epoch: int,
        loading: Loading,
        device: torch.device | str = "cpu",
    ) -> None:
        if batches_per_epoch == 0:
            raise InputError(
                f"The training loader drops a last batch of fewer than {loading.batch_size} records, and a model has "
                f"{min(map(len, records_K))} in all; let it keep the last batch, or give smaller batches."
            )
        self.loading = loading
        super().__init__(records_K, key_K, batches_per_epoch=batches_per_epoch, device=device)

    def _starts(self, count_K: Tensor) -> Tensor:
        start_S = torch.arange(self.batches_per_epoch + 1) * self.loading.batch_size
        return torch.minimum(start_S[:, None], count_K)

    def _order(self) -> Tensor:
        return super()._order() if self.loading.shuffle else self.record_KM


def stable_order(rank_KM: Tensor) -> Tensor:
    """`rank_KM.argsort(dim=1, stable=True)` of int64, long rows on the CPU several times as fast."""
    if rank_KM.device.type != "cpu" or rank_KM.shape[1] < _LONG:
        return rank_KM.argsort(dim=1, stable=True)
    # torch sorts a single long row of integers by radix sort, but several rows together by comparisons.
    return torch.stack([rank_M.argsort(stable=True) for rank_M in rank_KM])


@dataclass(frozen=True, eq=False)
class RecordBatches:
    """The same records for every model, in order: int64 indices `[B]` at a time."""

    index_N: Tensor
    batch_size: int = 1024

    def __len__(self) -> int:
        return -(-len(self.index_N) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.index_N.split(self.batch_size))
