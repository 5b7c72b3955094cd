"""Batches whose records lie on the host; they are gathered during the step before."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.training.step.batches import Batch
from mia_lightning.training.step.rules import Batches

GatheredBatch = tuple[Tensor, Tensor | None, Tensor]


class GatheredBatches:
    """The batches of a stack, each with its records `[K, B, *features]` as they are in `population.x_N`.

    A thread works one batch ahead of the step: it gathers the records into pinned memory and sends them to the device
    on a stream of its own. This changes neither the batches nor their order.

    Args:
        batches: which records each model sees at each step.
        population: on the host.
        device: where the networks train.
    """

    def __init__(self, batches: Batches, population: Population, device: torch.device) -> None:
        self._batches = batches
        self._population = population
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def sampler(self) -> Batches:
        """Lightning tells the epoch to the `sampler` of a loader, on resuming too."""
        return self._batches.sampler

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[GatheredBatch]:
        batches = iter(self._batches)
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with ThreadPoolExecutor(max_workers=1) as thread:
            following = thread.submit(self._next, batches)
            while (batch := following.result()) is not None:
                following = thread.submit(self._next, batches)
                yield self._arrived(batch)

    def _next(self, batches: Iterator[Batch]) -> GatheredBatch | None:
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            batch = next(batches, None)
            if batch is None:
                return None
            index_KB, is_real_KB = batch
            x_N = self._population.x_N
            index_M = index_KB.flatten().to(x_N.device)
            pinned = self._stream is not None and x_N.device.type == "cpu"
            x_M = torch.empty((len(index_M), *x_N.shape[1:]), dtype=x_N.dtype, device=x_N.device, pin_memory=pinned)
            torch.index_select(x_N, 0, index_M, out=x_M)
            x = x_M.view(*index_KB.shape, *x_N.shape[1:]).to(self._device, non_blocking=True)
            if self._stream is not None:
                self._stream.synchronize()  # this thread waits, the step's does not
            return index_KB, is_real_KB, x

    def _arrived(self, batch: GatheredBatch) -> GatheredBatch:
        """Tell the allocator that tensors made on this object's stream are used on the step's stream."""
        if self._stream is not None:
            for tensor in batch:
                if tensor is not None and tensor.is_cuda:
                    tensor.record_stream(torch.cuda.current_stream(self._device))
        return batch
