"""Make the execution plan of a job: what memory allows, and what a probe finds to be fastest."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mia_lightning.errors import InputError
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.plan.execution import (
    SHORT,
    SWITCHES,
    Candidate,
    ExecutionPlan,
    Measured,
    choose,
    fastest_of,
    gains_by_width,
    in_order,
    switches_of,
    widths,
)
from mia_lightning.training.plan.memory import Footprint, is_out_of_memory, memory_budget, release
from mia_lightning.training.plan.probe import Probe, SwitchError
from mia_lightning.training.plan.threads import numbers_of_threads, using_threads
from mia_lightning.training.step import channels_last, compiled, graphs, packed, streams
from mia_lightning.training.trainer import TrainerSettings

# Seconds of one model's forward and backward, from which on a stack on a CPU has little to gain: what it saves is the
# overhead of operations, some 100 of them in a step, each some microseconds.
_LONG = 5e-3
_LESS = 0.4  # part of a probe's share of the time that is spent where little can be gained
_COMPILING = 20.0  # seconds that a compilation may take
_CACHE = 24 * 2**20  # bytes of models, gradients and states that a core reaches fast
_NEAR = 1.25  # times as fast as a single model's loop is a stack that a wider loop may overtake: it begins less often
_FEW = 4  # steps of that single model, where a wider loop would be trained

Refusal = Callable[[TrainingJob, TrainerSettings, torch.device], str | None]
REFUSALS: dict[str, Refusal] = {
    "cuda_graphs": lambda job, settings, device: graphs.refusal(
        job.recipe, settings, device, is_near=job.population.is_near(device)
    ),
    "packed_bits": lambda job, settings, device: packed.refusal(job.recipe, job.population, device),
    "compile": lambda job, settings, device: compiled.refusal(job.recipe, settings, device),
    "streams": lambda job, settings, device: streams.refusal(job.recipe, device),
    "channels_last": lambda job, settings, device: channels_last.refusal(job.recipe, job.architecture, device),
}
"""By the names of `SWITCHES`, why a job near a device is not trained so, in a clause; None where it can be."""


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Decides how the models of a role are trained.

    Attributes:
        clock: in seconds.
        budget: bytes that training may take on a device.
        share: of the estimated time of a role, which its probe may take; less where a stack has little to gain.
        short: seconds of a role that is not worth a probe.
        always: whether at least one candidate is measured in any case, for an estimate.
        remaining: share of the models of a role that are to be trained; the others are in the store.
    """

    clock: Callable[[], float] = time.perf_counter
    budget: Callable[[torch.device], int] = memory_budget
    share: float = 0.05
    short: float = SHORT
    always: bool = False
    remaining: float = 1.0

    def beside(self, count: int) -> "Planner":
        """The planner of one of so many processes that train at the same time; on the CPU they share the memory."""
        if count == 1:
            return self
        budget = self.budget
        return replace(self, budget=lambda device: budget(device) // (count if device.type == "cpu" else 1))

    def plan(
        self, job: TrainingJob, executions: Sequence[str], settings: TrainerSettings, device: torch.device
    ) -> ExecutionPlan:
        """The execution plan of the fastest measured candidate, or of all models at once where none was measured.

        Args:
            executions: those that are possible, the preferred one first.

        Raises:
            InputError: not even one model fits the memory.
        """
        job = replace(job, population=job.population.near(device))
        probe = Probe(job=job, settings=settings, device=device, clock=self.clock)
        most, *fewer = numbers_of_threads(job.recipe, device)
        with using_threads(most):
            return self._plan(probe, executions, fewer)

    def _plan(self, probe: Probe, executions: Sequence[str], fewer: Sequence[int]) -> ExecutionPlan:
        """The plan, made with the most threads that the role may have; `fewer` are further numbers of them."""
        job, device = probe.job, probe.device
        alone, footprint = self._one_model(probe)
        num_models = max(len(group) for group in job.groups())
        budget, switches = self.budget(device), _Switches.of(probe)
        chunks = _chunks(job, executions, footprint, num_models, budget, switches.always)
        may_choose = len(executions) > 1 and job.recipe.chunk == "auto"
        gains_little = device.type == "cpu" and alone >= _LONG and may_choose
        narrow_first = gains_little or (device.type == "cpu" and job.architecture.has_convolutions)
        candidates = in_order(executions, chunks, narrow_first=narrow_first)
        candidates = [replace(each, **switches.always) for each in candidates]
        several = smallest_of_several(chunks, footprint) if narrow_first else None

        def measure(candidate: Candidate, allowance: float) -> Measured | None:
            if not switches.allow(candidate, allowance, footprint, budget, job.num_models):
                return None
            if several is not None and candidate.execution == "loop" and candidate.chunk == 1:
                allowance = min(allowance, _FEW * alone)
            try:
                return self._measured(probe, candidate, allowance, alone, footprint)
            except SwitchError as error:
                switches.fail(error.switch, str(error))
                if error.switch in switches.tried:
                    return None
                off: dict[str, Any] = {error.switch: False}
                return measure(replace(candidate, **off), allowance)

        whole = alone * job.num_steps * self.remaining  # one by one, and less than that under vmap
        rows: list[Measured] = []
        if self.always or whole >= self.short:
            rows = choose(
                candidates,
                measure,
                num_models=max(1, round(job.num_models * self.remaining)),
                first_allowance=self.share * whole,
                share=self.share * (_LESS if gains_little else 1.0),
                short=self.short,
                clock=self.clock,
                threads=fewer,
                switches=switches.tried,
                may_gain=gains_by_width if narrow_first else None,
            )
        if several is not None and leads_narrowly(rows):
            loop = Candidate(execution="loop", chunk=several, threads=rows[0].threads, **switches.always)
            rows = sorted(
                filter(None, [*rows, measure(loop, self.share * whole)]), key=lambda row: -row.models_per_second
            )
        preferred = Candidate(execution=executions[0], chunk=chunks[executions[0]][0], **switches.always)
        chosen = rows[0] if rows else preferred
        chunk = widened(rows, chunks, footprint) if rows and narrow_first else chosen.chunk
        bytes_ = _bytes(footprint, chosen, chunk, job.num_models)
        return ExecutionPlan(
            role=job.role,
            num_models=job.num_models,
            epochs=job.recipe.epochs,
            signature=signature_of(job, device, probe.settings),
            execution=chosen.execution,
            chunk=chunk,
            measured=tuple(rows),
            reason=_reason(rows, job.recipe.chunk == "auto" and chunks[chosen.execution][0] < num_models, whole)
            + switches.reason(chosen),
            seconds=job.num_models / rows[0].models_per_second if rows else whole,
            bytes=bytes_,
            threads=chosen.threads,
            **switches_of(chosen),
        )

    def _one_model(self, probe: Probe) -> tuple[float, Footprint]:
        try:
            return probe.one_model()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise does_not_fit(probe.job.role, probe.device) from error

    def _measured(
        self, probe: Probe, candidate: Candidate, allowance: float, alone: float, footprint: Footprint
    ) -> Measured | None:
        """None where two steps would take longer than allowed, or memory runs out."""
        two_steps = 2 * candidate.chunk * alone  # under vmap this is a guess, which is mostly too high
        if two_steps > (max(allowance, self.short) if candidate.execution == "stack" else allowance):
            return None
        job = probe.job
        try:
            with using_threads(candidate.threads):
                before, seconds = probe.seconds(candidate, allowance)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None
        finally:
            if probe.device.type == "cuda":
                release(probe.device)
        return Measured(
            execution=candidate.execution,
            chunk=candidate.chunk,
            seconds_per_step=seconds,
            models_per_second=candidate.chunk / (before + seconds * job.num_steps / job.num_models),
            bytes=_bytes(footprint, candidate, candidate.chunk, job.num_models),
            threads=candidate.threads,
            **switches_of(candidate),
        )


@dataclass(frozen=True, kw_only=True)
class _Switches:
    """What of `SWITCHES` a job is trained with.

    Attributes:
        always: that are on in every way.
        tried: that are measured both ways.
        why_not: by name, why one cannot be on that somebody asked for, or that was to be tried.
    """

    always: dict[str, Any]
    tried: list[str]
    why_not: dict[str, str]

    @classmethod
    def of(cls, probe: Probe) -> "_Switches":
        """As the recipe wants them and the device allows."""
        job, device = probe.job, probe.device
        refused = {name: refusal(job, probe.settings, device) for name, refusal in REFUSALS.items()}
        wanted = {name: getattr(job.recipe, name) for name in SWITCHES}
        return cls(
            always={name: True for name in SWITCHES if wanted[name] is True and refused[name] is None},
            tried=[name for name in SWITCHES if wanted[name] == "auto" and refused[name] is None],
            why_not={name: reason for name, reason in refused.items() if wanted[name] is True and reason is not None},
        )

    def allow(self, candidate: Candidate, allowance: float, footprint: Footprint, budget: int, num_models: int) -> bool:
        """Whether a candidate is worth trying: its memory is there, and the time to compile its steps."""
        if any(getattr(candidate, name) for name in ("cuda_graphs", "streams") if name in self.tried):
            needed, least = (_bytes(footprint, candidate, chunk, num_models) for chunk in (candidate.chunk, 1))
            if needed > max(budget, least):
                return False
        if candidate.compile and "compile" in self.tried:
            return allowance >= _COMPILING and "compile" not in self.why_not
        return True

    def fail(self, name: str, why: str) -> None:
        """It turned out that one cannot be on."""
        self.always.pop(name, None)
        self.why_not.setdefault(name, why)

    def reason(self, chosen: Candidate | Measured) -> str:
        """Why not, as the end of the reason of a plan."""
        return "".join(
            f"; without {SWITCHES[name]}, since {why}"
            for name, why in self.why_not.items()
            if not getattr(chosen, name)
        )


def signature_of(job: TrainingJob, device: torch.device, settings: TrainerSettings) -> dict[str, Any]:
    """What an execution plan depends on, in values that JSON keeps; batch sizes are rounded up to powers of two."""
    recipe = job.recipe
    sizes = [len(records) for records in job.records_K]
    batch = max(-(-size // recipe.steps_per_epoch(size)) for size in sizes)
    return {
        "architecture": job.architecture.name,
        "num_parameters": job.architecture.num_parameters,
        "num_models": job.num_models,
        "epochs": recipe.epochs,
        "steps_per_epoch": sorted({recipe.steps_per_epoch(size) for size in sizes}),
        "batch": 2 ** math.ceil(math.log2(batch)),
        "input_shape": list(job.population.input_shape),
        "rule": None if recipe.gradient_rule is None else type(recipe.gradient_rule).__name__,
        "device": device.type,
        "precision": settings.precision,
        "execution": recipe.execution,
        "chunk": recipe.chunk,
        **({} if recipe.threads == "auto" else {"threads": recipe.threads}),
        **{name: getattr(recipe, name) for name in SWITCHES if getattr(recipe, name) != "auto"},
        **({} if recipe.own is None else {"own": recipe.own.name, "draws": job.architecture.draws}),
    }


def does_not_fit(role: str, device: torch.device) -> InputError:
    """The error of a single model that is too large."""
    return InputError(
        f"Memory runs out on {device} while a single model of {role} trains; lower `training.batch_size`, choose a "
        "smaller model, or a device with more memory."
    )


def _chunks(
    job: TrainingJob,
    executions: Sequence[str],
    footprint: Footprint,
    num_models: int,
    budget: int,
    switched_on: Mapping[str, bool],
) -> dict[str, list[int]]:
    """Chunk sizes to be tried: the recipe's, or those that fit the memory."""
    chosen = job.recipe.chunk
    if chosen != "auto":
        width = num_models if chosen is None else min(int(chosen), num_models)
        return {execution: [width] for execution in executions}
    ways = [Candidate(execution=execution, chunk=1, **switched_on) for execution in executions]
    return {way.execution: widths(num_models, _most(footprint, way, budget, job.num_models)) for way in ways}


def _most(footprint: Footprint, way: Candidate, budget: int, num_models: int) -> int:
    """The most models at once within the budget, at least one."""
    first, second = (_bytes(footprint, way, chunk, num_models) for chunk in (1, 2))
    return max(1, 1 + (budget - first) // max(1, second - first))


def _bytes(footprint: Footprint, way: Candidate | Measured, chunk: int, num_models: int) -> int:
    """As `Footprint.bytes`, trained in a way, so many at once."""
    return footprint.bytes(way.execution, chunk, num_models, cuda_graphs=way.cuda_graphs, streams=way.streams)


def widened(rows: Sequence[Measured], chunks: Mapping[str, Sequence[int]], footprint: Footprint) -> int:
    """The models at once: of a loop, as many as the cache holds, where no wider one was measured.

    Each step of a loop computes the same, however many models it has, and a wider one begins less often.
    """
    chosen = rows[0]
    loops = [row.chunk for row in rows if row.execution == "loop"]
    if chosen.execution != "loop" or max(loops) > chosen.chunk:
        return chosen.chunk
    return max([chosen.chunk, *(width for width in chunks["loop"] if width * footprint.held <= _CACHE)])


def smallest_of_several(chunks: Mapping[str, Sequence[int]], footprint: Footprint) -> int | None:
    """The fewest models of a loop of several that the cache holds; None for none."""
    return min(
        (width for width in chunks.get("loop", ()) if width > 1 and width * footprint.held <= _CACHE), default=None
    )


def leads_narrowly(rows: Sequence[Measured]) -> bool:
    """Whether a stack is the fastest, a loop of one model is not much slower, and no wider loop was measured."""
    loops = {row.chunk: row.models_per_second for row in rows if row.execution == "loop"}
    if loops.keys() != {1} or rows[0].execution != "stack":
        return False
    return rows[0].models_per_second < _NEAR * loops[1]


def _reason(rows: Sequence[Measured], is_limited: bool, whole: float) -> str:
    if not rows:
        reason = "too short for a probe to pay" if whole < 60 else "too few steps for a probe to pay"
    else:
        reason = fastest_of(len(rows))
    return reason + ("; more at once would not fit the memory" if is_limited else "")
