"""Processes on the cores of a machine: where more threads do not help, several processes may share a role's models."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mia_lightning.training.devices.local_shard import HandedOver
from mia_lightning.training.devices.processes import seconds_side_by_side
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.plan.execution import ExecutionPlan, Measured, fastest_of
from mia_lightning.training.plan.threads import allowed_threads
from mia_lightning.training.trainer import TrainerSettings

_COMMANDS = ("mia-lightning",)
_START = 8.0  # seconds in which a process is thought to start, most of them for imports
_OWN = 2**30  # bytes of a process beside its models, most of them libraries
_MOST_RECORDS = 2**28  # bytes of records that are handed over by a file without being asked for

HandOver = Callable[[ExecutionPlan], HandedOver]


def may_start_processes() -> bool:
    """Whether a new process would not run the user's program again, which need not be written for that."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return (spec is not None and spec.name == "mia_lightning.__main__") or Path(file or "").name in _COMMANDS


def may_split(job: TrainingJob, settings: TrainerSettings) -> bool:
    """Whether processes that nobody asked for can train the job as one would."""
    is_free = settings.num_devices == 1 and not settings.callbacks and not (settings.options or {}).get("logger")
    is_small = job.population.x_N.nbytes <= _MOST_RECORDS
    return is_free and is_small and job.recipe.threads == "auto" and may_start_processes()


def split(
    job: TrainingJob,
    plan: ExecutionPlan,
    settings: TrainerSettings,
    *,
    hand_over: HandOver,
    budget: int,
    seconds: float,
) -> ExecutionPlan:
    """The plan, or one of several processes where these are measured to be faster.

    They take as many threads each as the measured way that would gain most if none of them slowed another down: that is
    tried where several such processes have cores, and would be faster than what was measured.

    Args:
        hand_over: what the processes of a plan are given.
        budget: bytes that training may take.
        seconds: that trying may take.
    """
    if not plan.measured or seconds < _START or not may_split(job, settings):
        return plan
    hopes = [(_processes_of(row, job, budget) * row.models_per_second, row) for row in plan.measured]
    hope, row = max(hopes, key=lambda each: each[0])
    count = _processes_of(row, job, budget)
    if count < 2 or hope <= plan.measured[0].models_per_second:
        return plan
    tried = replace(
        plan,
        execution=row.execution,
        chunk=max(1, row.chunk // count),
        threads=row.threads,
        bytes=row.bytes,
        processes=count,
    )
    given = hand_over(tried)
    found = seconds_side_by_side(given, max(1.0, seconds - _START))
    if found is None:
        return plan
    measured = _row(job, tried, [shard.places for shard in given.shards], *found)
    rows = sorted([measured, *plan.measured], key=lambda each: -each.models_per_second)
    chosen = tried if rows[0] is measured else plan
    return replace(
        chosen,
        measured=tuple(rows),
        seconds=job.num_models / rows[0].models_per_second,
        reason=plan.reason.replace(fastest_of(len(plan.measured)), fastest_of(len(rows))),
    )


def _processes_of(row: Measured, job: TrainingJob, budget: int) -> int:
    """How many processes may train as this one did: by cores, models and memory."""
    return min(allowed_threads() // row.threads, job.num_models, budget // (row.bytes + _OWN))


def _row(
    job: TrainingJob,
    plan: ExecutionPlan,
    places_D: Sequence[Sequence[int]],
    ready: float,
    seconds_D: Sequence[tuple[float, float]],
) -> Measured:
    """What was found of the processes; their models are trained when the slowest has trained its own."""
    steps = job.num_steps / job.num_models
    slowest = max(
        len(places) / min(plan.chunk, len(places)) * (before + seconds * steps)
        for places, (before, seconds) in zip(places_D, seconds_D, strict=True)
    )
    return Measured(
        execution=plan.execution,
        chunk=plan.chunk,
        seconds_per_step=max(seconds for _, seconds in seconds_D),
        models_per_second=job.num_models / (ready + slowest),
        bytes=plan.bytes,
        threads=plan.threads,
        processes=plan.processes,
    )
