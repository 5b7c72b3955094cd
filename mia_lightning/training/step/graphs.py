"""The steps of a stack as CUDA graphs: recorded once, and from then on each started by one call.

A GPU computes a step of small networks in less time than Python takes to queue its operations one by one. A graph
queues all of them at once. It reads and writes the memory that they had when it was recorded. So everything that
changes from step to step lies in tensors that stay where they are: the indices of the records, the number of the step,
the learning rates, the parameters and the state of the optimiser.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mia_lightning.errors import first_line
from mia_lightning.training.step.batches import Batch
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

STEPS_BEFORE = 3  # steps of each shape before it is recorded, in which libraries and optimisers make what they keep
_MOST = 8  # shapes; batches of further ones are never recorded
_SEES_GRADIENTS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")

Take = Callable[[Batch, int | Tensor], object]


class Recorder(Protocol):
    """How a device records work that it repeats."""

    def beside(self) -> AbstractContextManager[object]:
        """Within the context, work is queued where it would be recorded; before and after it comes what always does."""
        ...

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        """Record work, which is not done; returns what does it.

        Raises:
            RuntimeError: the work waits for the device, or does what cannot be recorded.
        """
        ...


class OfCuda:
    """CUDA graphs, which share their memory, since they run one after another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._memory = torch.cuda.graph_pool_handle()

    @contextmanager
    def beside(self) -> Iterator[None]:
        usual = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            yield
        usual.wait_stream(self._stream)

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as that of a progress bar, may do meanwhile what this one may not.
        with torch.cuda.graph(graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph.replay


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": OfCuda}
"""By the type of a device, what records its steps."""


def recorder_of(device: torch.device) -> Recorder | None:
    """For steps on `device`; None where steps cannot be recorded."""
    make = RECORDERS.get(device.type)
    return None if make is None else make(device)


def refusal(recipe: Recipe, settings: TrainerSettings, device: torch.device, *, is_near: bool) -> str | None:
    """Why steps are not recorded, in a clause; None where they can be.

    Args:
        is_near: whether the records are on the device.
    """
    if recipe.cuda_graphs is False:
        return "`training.cuda_graphs` is false"
    if device.type not in RECORDERS:
        return f"the device is {device.type}"
    groups = recipe.make_optimizer([nn.Parameter(torch.zeros(1))]).param_groups
    numbers = [{name: value for name, value in group.items() if name != "params"} for group in groups]
    reasons = {
        "a LightningModule trains itself": recipe.own is not None,
        "a defence makes the gradients": recipe.gradient_rule is not None,
        "the loss of a batch depends on the epoch": recipe.batch_objective is not None,
        "gradients are accumulated": recipe.accumulate_batches > 1,
        "the records stay on the host": not is_near,
        "learning rates would be rounded to float32": settings.precision.startswith("64"),
        "a setting of the optimiser is a tensor": any(
            isinstance(value, Tensor) for each in numbers for value in each.values()
        ),
        "the optimiser counts its steps on the host": not all(
            each.get("fused") or each.get("capturable") for each in numbers
        ),
        "a callback sees the gradients": any(map(sees_gradients, settings.callbacks)),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def sees_gradients(callback: pl.Callback) -> bool:
    """Whether it has a hook between the backward pass and the step of the optimiser."""
    return any(getattr(type(callback), name) is not getattr(pl.Callback, name) for name in _SEES_GRADIENTS)


def count_step(trainer: pl.Trainer) -> None:
    """Tell Lightning of a step of which its own optimiser knows nothing."""
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    progress.increment_ready()
    progress.increment_completed()


class GraphedSteps:
    """Takes the steps of a stack: the first of each shape as they are, those that follow as graphs.

    Args:
        take: takes a step of a batch and a number. Whatever it reads and writes beside these and the optimiser's
            learning rates stays in the same memory.
        optimizer: that moves the parameters in `take`.
        recorder: of the device.

    Attributes:
        failure: why steps are no longer recorded, in a clause; None where they are.
        num_recorded: how many shapes were recorded.
    """

    def __init__(self, take: Take, optimizer: Optimizer, recorder: Recorder) -> None:
        self.failure: str | None = None
        self.num_recorded = 0
        self._take, self._optimizer, self._recorder = take, optimizer, recorder
        self._rates = _Rates(optimizer)
        self._shapes: dict[tuple[tuple[int, ...], bool], _Shape] = {}

    def __call__(self, batch: Batch, number: int) -> None:
        """The step of a batch."""
        if self.failure is None and not self._rates.follow():
            self.failure = "the schedule changes more than the learning rate"
        shape = self._shape_of(batch) if self.failure is None else None
        if shape is None:
            self._take(batch, number)
        elif shape.taken < STEPS_BEFORE:
            shape.taken += 1
            with self._recorder.beside():
                self._take(batch, number)
        else:
            shape.set(batch, number)
            if shape.again is None:
                shape.again = self._recorded(shape)
            if shape.again is None:
                self._take(batch, number)
            else:
                shape.again()

    def clear(self) -> None:
        """Free the graphs and their memory."""
        self._shapes.clear()

    def _shape_of(self, batch: Batch) -> "_Shape | None":
        index_KB, is_real_KB = batch
        key = tuple(index_KB.shape), is_real_KB is not None
        if key not in self._shapes and len(self._shapes) < _MOST:
            self._shapes[key] = _Shape.like(batch)
        return self._shapes.get(key)

    def _recorded(self, shape: "_Shape") -> Callable[[], object] | None:
        try:
            with self._rates.as_tensors(), every_cast():
                again = self._recorder.record(lambda: self._take(shape.batch, shape.number))
        except RuntimeError as error:  # of CUDA, or out of memory: as they are, steps need less
            self.failure = first_line(error)
            self._optimizer.zero_grad(set_to_none=True)  # what is left of the recording
            return None
        self.num_recorded += 1
        return again


@dataclass(eq=False)
class _Shape:
    """Batches of one shape: where a graph reads them, how many were taken as they are, and the graph."""

    batch: Batch
    number: Tensor
    taken: int = 0
    again: Callable[[], object] | None = None

    @classmethod
    def like(cls, batch: Batch) -> "_Shape":
        index_KB, is_real_KB = batch
        copies = torch.empty_like(index_KB), None if is_real_KB is None else torch.empty_like(is_real_KB)
        return cls(batch=copies, number=torch.zeros((), dtype=torch.int64, device=index_KB.device))

    def set(self, batch: Batch, number: int) -> None:
        for own, given in zip(self.batch, batch, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self.number.fill_(number)


class _Rates:
    """The learning rates of an optimiser, as tensors that stay where they are."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._groups: list[dict[str, Any]] = optimizer.param_groups
        self._others = self._other_settings()
        self._value_G = [float(group["lr"]) for group in self._groups]
        self._rate_G = [
            torch.full((), value, dtype=torch.float32, device=group["params"][0].device)
            for value, group in zip(self._value_G, self._groups, strict=True)
        ]

    def follow(self) -> bool:
        """Set the tensors to the rates of now; returns whether all other settings are as they were."""
        for g, (group, rate) in enumerate(zip(self._groups, self._rate_G, strict=True)):
            if group["lr"] != self._value_G[g]:
                self._value_G[g] = float(group["lr"])
                rate.fill_(self._value_G[g])
        return self._other_settings() == self._others

    @contextmanager
    def as_tensors(self) -> Iterator[None]:
        """Within the context, the optimiser takes its rates from the tensors, and can be recorded."""
        before = [dict(group) for group in self._groups]
        try:
            for group, rate in zip(self._groups, self._rate_G, strict=True):
                group.update({"lr": rate, **({"capturable": True} if "capturable" in group else {})})
            yield
        finally:
            for group, own in zip(self._groups, before, strict=True):
                group.update(own)

    def _other_settings(self) -> list[dict[str, Any]]:
        return [{name: group[name] for name in group if name not in ("params", "lr")} for group in self._groups]


@contextmanager
def every_cast() -> Iterator[None]:
    """Within the context, autocast casts weights wherever they are used, and keeps no copy beyond."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
