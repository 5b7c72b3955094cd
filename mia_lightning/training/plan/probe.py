"""A few real steps of throw-away networks: the time of a way of training, and the memory of one model."""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from mia_lightning.datasets.form import tensors_of
from mia_lightning.seeds import isolated
from mia_lightning.training.job import TrainingJob, fit
from mia_lightning.training.plan.execution import Candidate, switches_of
from mia_lightning.training.plan.memory import Footprint, saved_tensors
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.compiled import Compiler
from mia_lightning.training.step.graphs import STEPS_BEFORE
from mia_lightning.training.step.module import StackModule
from mia_lightning.training.step.rules import Step
from mia_lightning.training.trainer import TrainerSettings

WARM_UP, TIMED = 2, 2  # steps
# Seconds of timed steps. Fewer than the first number would leave too much to chance where others share the machine;
# after the second number no further steps are needed.
_FAIR, _ENOUGH = 0.15, 1.0
_LONG = 0.05  # seconds of a first step on a CPU, after which the next one needs no further warming up
_SLOW = 0.2  # seconds of a step that need not be repeated
_OF_SPEED = ("deterministic", "benchmark", "detect_anomaly", "use_distributed_sampler")

Clock = Callable[[], float]


class SwitchError(Exception):
    """Why a candidate could not be measured with one of `SWITCHES`, in a clause.

    Attributes:
        switch: its name.
    """

    switch: str


class NotRecordedError(SwitchError):
    """Of a candidate with CUDA graphs."""

    switch = "cuda_graphs"


class NotCompiledError(SwitchError):
    """Of a candidate whose steps are compiled."""

    switch = "compile"


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe:
    """Measures networks like a job's, which nobody keeps; the job's models and global randomness stay as they are.

    Attributes:
        job: whose networks are copied.
        settings: of the trainer; its callbacks and loggers take no part.
        device: on which the networks train.
        clock: in seconds.
    """

    job: TrainingJob
    settings: TrainerSettings
    device: torch.device
    clock: Clock

    def one_model(self) -> tuple[float, Footprint]:
        """Seconds of forward and backward of one model on one batch, and the memory that it takes."""
        job = self.job
        place = max(range(job.num_models), key=lambda k: self._batch_size(k))
        size = max(2, self._batch_size(place))  # of one record batch normalisation is undefined
        index_KB = job.records_K[place].repeat(2)[:size].to(self.device)[None]
        with isolated(job.seed, job.role, "probe"):
            stack = self._copies(1, place)
            gradients = job.gradients([place])
            parameters = [p for p in stack.parameters() if p.requires_grad]
            first = job.first_of(stack)

            def step(keep: bool = False) -> dict[int, int]:
                x = job.population.records(index_KB, stack.dtype)
                truth = (
                    job.population.task.truth(job.population.label_N[index_KB.to(job.population.device)])
                    if job.response_KN is None
                    else job.response_KN[place][index_KB.to(job.response_KN.device)]
                ).to(self.device)
                saved: dict[int, int] = {}
                if keep or gradients is None:
                    with first() as loss_of:
                        with self._precision(), saved_tensors() as saved:
                            loss = loss_of(x, truth)
                        loss.backward()
                else:
                    given = Step(number=0, x=x, label_KB=truth, index_KB=index_KB, is_real_KB=None, execution="loop")
                    gradients(stack, given)
                self._synchronise()
                known = {p.untyped_storage().data_ptr() for p in [*stack.state().values(), *tensors_of(x)]}
                return {place: size for place, size in saved.items() if place not in known}

            saved = step(keep=True)
            optimizer = job.optimizer(stack)
            optimizer.step()
            seconds = self._repeated(step)
            state = [v for each in optimizer.state.values() for v in each.values() if isinstance(v, Tensor)]
            own = sum(_bytes(tensor) for tensor in stack.state().values())
            moved = sum(_bytes(p) for p in parameters)
            batch = sum(map(_bytes, tensors_of(job.population.records(index_KB, stack.dtype))))
            # Backward holds the gradient of the largest activation beside all that forward kept, and a rule of
            # gradients the sums that it makes.
            transient = max(saved.values(), default=0) + (0 if gradients is None else 2 * moved)
        return seconds, Footprint(
            parameters=own,
            held=own + moved + sum(map(_bytes, state)) + batch,
            activations=sum(saved.values()) + transient,
            made=moved + batch,
        )

    def seconds(self, candidate: Candidate, allowance: float) -> tuple[float, float]:
        """Seconds before the first step of a chunk under `pl.Trainer`, and of one step.

        A step includes its part of the time that an epoch takes beside its steps. What it takes to record or to
        compile steps counts as time before the first.

        Args:
            allowance: seconds after which no further step begins, once there were two.

        Raises:
            NotRecordedError: the candidate has CUDA graphs, and no step was recorded.
            NotCompiledError: its steps are to be compiled, and cannot be.
        """
        job, start = self.job, self.clock()
        recipe = replace(job.recipe, early_stopping=None)
        compiler = Compiler() if candidate.compile else None
        group = max(job.groups(), key=len)
        places = group[: candidate.chunk]
        steps = recipe.steps_per_epoch(len(job.records_K[places[0]]))
        with isolated(job.seed, job.role, "probe"):
            module = replace(job, recipe=recipe).module(
                places,
                self._copies(len(places), places[0]),
                execution=candidate.execution,
                gradients=job.gradients(places),
                device=self.device,
                compiler=compiler,
                **{name: is_on for name, is_on in switches_of(candidate).items() if name != "compile"},
            )
            warm_up = WARM_UP + (STEPS_BEFORE if candidate.cuda_graphs else 0)
            needs_all = self.device.type != "cpu" or candidate.cuda_graphs
            long = math.inf if needs_all else _LONG
            watch = _StepTimes(self.clock, self._synchronise, allowance, warm_up, long)
            fit(self._settings().make(epochs=recipe.epochs, callbacks=[watch]), module)
        if compiler is not None and compiler.failure is not None:
            raise NotCompiledError(compiler.failure)
        if not watch.has_timed:
            raise NotCompiledError("there are too few steps to measure one that was compiled")
        seconds = watch.seconds_per_step(steps)
        before = watch.start - start
        if compiler is not None and compiler.num_programs:
            shapes = {(index_KB.shape[1], is_real_KB is None) for index_KB, is_real_KB in module.batches}
            before += watch.compiling / compiler.num_programs * max(0, len(shapes) - compiler.num_programs)
        if candidate.cuda_graphs:
            before += self._recording(module, watch, seconds)
        return before, seconds

    def _recording(self, module: StackModule, watch: "_StepTimes", seconds_per_step: float) -> float:
        """Seconds that the steps until one was recorded took beyond those of later steps."""
        if module.graphed is None or not module.graphed.num_recorded:
            failure = None if module.graphed is None else module.graphed.failure
            raise NotRecordedError(failure or "too few steps were taken to record one")
        return max(0.0, watch.seconds_of_warm_up - watch.warm_up * seconds_per_step)

    def _batch_size(self, place: int) -> int:
        records = len(self.job.records_K[place])
        return -(-records // self.job.recipe.steps_per_epoch(records))

    def _copies(self, count: int, place: int) -> Stack:
        """`count` copies of the network at a place; its weights do not matter for its speed."""
        stack = self.job.stack([place])
        if self.settings.precision.startswith("64"):
            stack = stack.double()
        return Stack.concatenate([stack.to(self.device)], torch.zeros(count, dtype=torch.int64)).train()

    def _precision(self) -> torch.autocast:
        is_bf16 = self.settings.precision.startswith("bf16")
        return torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16)

    def _settings(self) -> TrainerSettings:
        options: Mapping[str, object] = self.settings.options or {}
        kept = {name: value for name, value in options.items() if name in _OF_SPEED}
        return replace(self.settings, callbacks=(), options=kept)

    def _repeated(self, step: Callable[[], object]) -> float:
        """The least of a few: of steps of milliseconds others that share the machine may take half."""
        seconds: list[float] = []
        while len(seconds) < 3 and (not seconds or seconds[-1] < _SLOW):
            start = self.clock()
            step()
            seconds.append(self.clock() - start)
        return min(seconds)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _StepTimes(pl.Callback):
    """Takes the time at the end of each step, until there are enough steps."""

    def __init__(
        self, clock: Clock, synchronise: Callable[[], None], allowance: float, warm_up: int, long: float
    ) -> None:
        self._clock, self._synchronise, self._allowance, self.warm_up = clock, synchronise, allowance, warm_up
        self._warm_within = min(allowance, long)
        self._within: list[float] = []  # seconds of steps that follow one of the same epoch
        self._between: list[float] = []  # of those that begin an epoch
        self._count = 0
        self._num_programs = 0
        self.start = self._last = self.seconds_of_warm_up = self.compiling = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._synchronise()
        self.start = self._last = self._clock()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self._synchronise()
        now = self._clock()
        failures = [each.failure for each in (pl_module.graphed, pl_module.compiler) if each is not None]
        if any(failure is not None for failure in failures):
            trainer.should_stop = True
        if self._is_compiled(pl_module.compiler):  # no step like others: as if training had begun later
            self.compiling += now - self._last
            self.start += now - self._last
            self._last = now
            return
        self._count += 1
        (self._within if batch_idx else self._between).append(now - self._last)
        if self._count == 1 or (self._count <= self.warm_up and now - self.start < self._warm_within):
            self._first = self._within.copy(), self._between.copy()
            self.seconds_of_warm_up = now - self.start
            self._within.clear()
            self._between.clear()
        self._last = now
        timed = [*self._within, *self._between]
        is_enough = bool(timed) and sum(timed) >= (_FAIR if len(timed) >= TIMED else _ENOUGH)
        if is_enough or (self._count > 1 and now - self.start >= self._allowance):
            trainer.should_stop = True

    def _is_compiled(self, compiler: Compiler | None) -> bool:
        """Whether something was compiled in the step that has ended."""
        before, self._num_programs = self._num_programs, 0 if compiler is None else compiler.num_programs
        return self._num_programs > before

    @property
    def has_timed(self) -> bool:
        """Whether there was a step that tells how long steps take."""
        return self._count > 0

    def seconds_per_step(self, steps_per_epoch: int) -> float:
        """The mean, the first step of an epoch counting as often as it occurs."""
        within, between = (self._within, self._between) if self._within or self._between else self._first
        inner = statistics.fmean(within or between)
        outer = statistics.fmean(between or within)
        return ((steps_per_epoch - 1) * inner + outer) / steps_per_epoch


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
