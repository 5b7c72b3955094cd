"""The pace of a training: where its steps take several times as long as planned, the threads are measured again."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch

from mia_lightning.training.plan.cores import waiting_is_set
from mia_lightning.training.plan.execution import ExecutionPlan, Measured, threads_in_words

Clock = Callable[[], float]

SEVERAL = 3.0  # times as long as planned
# Seconds of steps that are compared with the plan: at least the first at the end of an epoch, or the second within one.
_LEAST, _MOST = 1.0, 10.0
_FAIR = 0.5  # seconds of timed steps for each number of threads, but at least two steps

HOW_TO_WAIT = (
    "threads that wait for each other keep cores busy that other processes need; set OMP_WAIT_POLICY=PASSIVE "
    "and GOMP_SPINCOUNT=20000 in the environment before the program starts"
)


class Pace(pl.Callback):
    """Follows an execution plan, and changes its number of threads where the machine has become slower.

    Other processes may take cores after the plan was measured. Where the steps of an epoch take several times as long
    as planned, the next steps are taken with each number of threads in turn, and training goes on with the fastest: no
    step is repeated, and none is wasted. The number of threads changes the order of some floating-point sums alone.

    Args:
        plan: that is followed.
        threads: the numbers that are tried; a single one is never measured again.
        clock: in seconds.
        changed: is called with the new plan and a sentence.
    """

    def __init__(
        self,
        plan: ExecutionPlan,
        *,
        threads: Sequence[int],
        clock: Clock,
        changed: Callable[[ExecutionPlan, str], object],
    ) -> None:
        self.plan = plan
        self._threads, self._clock, self._changed = threads, clock, changed
        self._trial: _Trial | None = None
        self._taken, self._steps = 0.0, 0  # seconds of steps since the last comparison, and their number

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._trial, self._taken, self._steps = None, 0.0, 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._trial is not None:
            torch.set_num_threads(self._trial.threads)
        self._begun = self._clock()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: object, batch: Any, batch_idx: int
    ) -> None:
        if len(self._threads) == 1:
            return
        seconds, steps = self._clock() - self._begun, len(pl_module.batches)
        if self._trial is not None:
            self._trial.add(seconds)
            if self._trial.is_complete:
                self._end(self._trial, steps, pl_module.stack.num_models)
            return
        self._taken += seconds
        self._steps += 1
        if self._taken < (_LEAST if batch_idx + 1 == steps else _MOST):
            return
        ratio = self._taken / (self._steps * self.plan.seconds_of_step(steps))
        self._taken, self._steps = 0.0, 0
        if ratio > SEVERAL:
            self._trial = _Trial(ratio, list(self._threads))

    def _end(self, trial: "_Trial", steps: int, num_models: int) -> None:
        """Go on with the fastest number of threads."""
        before, plan = self.plan.threads, self.plan
        rows = [
            Measured(
                execution=plan.execution,
                chunk=num_models,
                seconds_per_step=seconds,
                models_per_second=plan.processes * num_models / (seconds * steps * plan.epochs),
                bytes=plan.bytes,
                threads=threads,
                processes=plan.processes,
            )
            for threads, seconds in trial.found.items()
        ]
        rows.sort(key=lambda row: row.seconds_per_step)
        slow = f"its steps took {trial.ratio:.1f} times as long as planned"
        self.plan, self._trial = plan.remeasured(rows, f"measured again, since {slow}"), None
        torch.set_num_threads(self.plan.threads)
        after = threads_in_words(self.plan.threads)
        way = f"stays with {after}" if self.plan.threads == before else f"goes on with {after} in place of {before}"
        hint = "" if waiting_is_set() or self.plan.threads == 1 else f"; {HOW_TO_WAIT}"
        self._changed(self.plan, f"{plan.role}: {slow}, so the threads were measured again; it {way}{hint}.")


@dataclass(eq=False)
class _Trial:
    """Steps with each number of threads in turn; the first step of each number is not counted."""

    ratio: float
    waiting: list[int]
    found: dict[int, float] = field(default_factory=dict)  # seconds of a step
    _seconds: list[float] = field(default_factory=list)

    @property
    def threads(self) -> int:
        return self.waiting[0]

    @property
    def is_complete(self) -> bool:
        return not self.waiting

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)
        _, *timed = self._seconds
        if len(timed) >= 2 and sum(timed) >= _FAIR:
            self.found[self.waiting.pop(0)] = statistics.fmean(timed)
            self._seconds.clear()
