"""Batches whose records lie on the host; they are gathered during the step before."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

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
        self._beside = beside_steps(device)

    @property
    def sampler(self) -> Batches:
        """Lightning tells the epoch to the `sampler` of a loader, on resuming too."""
        return self._batches.sampler

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[GatheredBatch]:
        batches = iter(self._batches)
        self._beside.follow()
        with ThreadPoolExecutor(max_workers=1) as thread:
            following = thread.submit(self._next, batches)
            while (batch := following.result()) is not None:
                following = thread.submit(self._next, batches)
                yield self._arrived(batch)

    def _next(self, batches: Iterator[Batch]) -> GatheredBatch | None:
        with self._beside.working():
            batch = next(batches, None)
            if batch is None:
                return None
            index_KB, is_real_KB = batch
            x_N = self._population.x_N
            index_M = index_KB.flatten().to(x_N.device)
            x_M = self._beside.buffer((len(index_M), *x_N.shape[1:]), x_N)
            torch.index_select(x_N, 0, index_M, out=x_M)
            x = x_M.view(*index_KB.shape, *x_N.shape[1:]).to(self._device, non_blocking=True)
            self._beside.wait()  # this thread does, the step's does not
            return index_KB, is_real_KB, x

    def _arrived(self, batch: GatheredBatch) -> GatheredBatch:
        for tensor in batch:
            if tensor is not None and tensor.device.type == self._device.type:
                self._beside.hand_over(tensor)
        return batch


class BesideSteps(Protocol):
    """How a thread uses a device while steps are computed there."""

    def follow(self) -> None:
        """Begin after what the steps have queued so far."""

    def working(self) -> AbstractContextManager[object]:
        """Within the context, what this thread does on the device is queued beside the steps."""
        ...

    def buffer(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Memory where `like` is and of its type, from which copies go while others are computed."""
        ...

    def wait(self) -> None:
        """Until what was queued here is done; steps go on."""

    def hand_over(self, tensor: Tensor) -> None:
        """Tell the allocator that a tensor made here is used by steps."""


class OfCuda:
    """A stream of its own, and pinned memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def follow(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def working(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)

    def buffer(self, shape: Sequence[int], like: Tensor) -> Tensor:
        is_host = like.device.type == "cpu"
        return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, pin_memory=is_host)

    def wait(self) -> None:
        self._stream.synchronize()

    def hand_over(self, tensor: Tensor) -> None:
        tensor.record_stream(torch.cuda.current_stream(self._device))


class OfHost:
    """Everything is done when it is called."""

    def follow(self) -> None:
        pass

    def working(self) -> AbstractContextManager[object]:
        return nullcontext()

    def buffer(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return like.new_empty(tuple(shape))

    def wait(self) -> None:
        pass

    def hand_over(self, tensor: Tensor) -> None:
        pass


def beside_steps(device: torch.device) -> BesideSteps:
    """For a thread beside the steps on `device`."""
    return OfCuda(device) if device.type == "cuda" else OfHost()
