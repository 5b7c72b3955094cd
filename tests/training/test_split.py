"""Several processes for the models of a role: tried where cores are left over, taken where they are faster."""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from training_jobs import job_of

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.devices import split as split_module
from mia_lightning.training.devices.local_shard import HandedOver
from mia_lightning.training.devices.processes import seconds_side_by_side
from mia_lightning.training.devices.split import may_start_processes
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.plan.execution import ExecutionPlan, Measured, Plans
from mia_lightning.training.plan.planner import Planner, signature_of
from mia_lightning.training.plan.threads import using_threads
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

CPU = TrainerSettings(accelerator="cpu", precision="64")
ADAM = partial(torch.optim.Adam, lr=0.01)
PLENTY = 10**12


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("mia_lightning.training.plan.threads.available_cores", lambda: 4)
    with using_threads(4):
        yield


def job_with(blobs: Population, **recipe: object) -> TrainingJob:
    """Six models of 10 epochs of 5 steps."""
    recipe = {"epochs": 10, "batch_size": 8, "optimizer": ADAM, **recipe}
    make = bind_shapes(partial(MLP, hidden=[8]), blobs.input_shape, 3)
    records_K = [torch.arange(k, k + 40) for k in range(6)]
    return job_of(Engine(seed=0), make, blobs, records_K, Recipe(**recipe), role="shadow")


def plan_for(job: TrainingJob, threads: int = 1) -> ExecutionPlan:
    """As if it had been measured: a model in 100 seconds."""
    row = Measured(
        execution="stack", chunk=6, seconds_per_step=12.0, models_per_second=0.01, bytes=1000, threads=threads
    )
    return ExecutionPlan(
        role="shadow",
        num_models=6,
        epochs=10,
        signature=signature_of(job, torch.device("cpu"), CPU),
        execution="stack",
        chunk=6,
        measured=(row,),
        reason="the only way that was worth measuring",
        seconds=600.0,
        bytes=1000,
        threads=threads,
    )


def split(
    job: TrainingJob,
    plan: ExecutionPlan,
    monkeypatch: pytest.MonkeyPatch,
    *,
    settings: TrainerSettings = CPU,
    budget: int = PLENTY,
    seconds: float = 30.0,
    may: bool = True,
    found: tuple[float, float, float] | None = (10.0, 1.0, 2.0),
) -> tuple[ExecutionPlan, list[HandedOver]]:
    """The plan afterwards, and what was measured.

    Args:
        found: seconds until all processes are ready, before the first step, and of a step.
    """
    tried: list[HandedOver] = []

    def measure(given: HandedOver, allowance: float) -> tuple[float, list[tuple[float, float]]] | None:
        assert allowance > 0
        tried.append(given)
        return None if found is None else (found[0], [(found[1], found[2])] * len(given.shards))

    monkeypatch.setattr(split_module, "seconds_side_by_side", measure)
    monkeypatch.setattr(split_module, "may_start_processes", lambda: may)
    engine = Engine(seed=0, settings=settings)
    hand_over = partial(engine._handed_over, job)
    plan = split_module.split(job, plan, settings, hand_over=hand_over, budget=budget, seconds=seconds)
    return plan, tried


def test_processes_that_are_faster_are_taken(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_with(blobs)
    plan, (given,) = split(job, plan_for(job), monkeypatch)
    assert [len(shard.places) for shard in given.shards] == [2, 2, 1, 1]
    assert [shard.num_threads for shard in given.shards] == [1] * 4
    assert (plan.processes, plan.chunk, plan.threads) == (4, 1, 1)
    # 10 s until they are ready, then two models of 50 steps one after the other, in the slowest.
    assert plan.seconds == pytest.approx(10 + 2 * (1 + 50 * 2))
    assert [(row.processes, row.models_per_second) for row in plan.measured] == [
        (4, pytest.approx(6 / plan.seconds)),
        (1, 0.01),
    ]
    assert plan.reason == "the fastest of 2 that were measured"
    assert plan.sentence.endswith(", 1 thread in each of 4 processes")


def test_processes_that_are_not_are_written_down(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_with(blobs)
    before = plan_for(job)
    plan, _ = split(job, before, monkeypatch, found=(10.0, 1.0, 20.0))
    assert (plan.processes, plan.chunk, plan.seconds) == (1, 6, before.seconds)
    assert [row.processes for row in plan.measured] == [1, 4]


def test_threads_that_help_leave_fewer_cores_to_processes(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_with(blobs)
    plan, _ = split(job, plan_for(job, threads=2), monkeypatch)
    assert (plan.processes, plan.threads, plan.chunk) == (2, 2, 3)


def test_one_thread_in_each_process_is_tried_where_threads_gain_little(
    blobs: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for convolutions that are looped: all threads are the fastest in one process, though hardly."""
    job = job_with(blobs)
    fastest = plan_for(job, threads=4)
    (row,) = fastest.measured
    alone = replace(row, threads=1, execution="loop", models_per_second=0.009, bytes=500)
    plan, (given,) = split(job, replace(fastest, measured=(row, alone)), monkeypatch)
    assert [shard.num_threads for shard in given.shards] == [1] * 4
    assert (plan.processes, plan.threads, plan.execution, plan.chunk, plan.bytes) == (4, 1, "loop", 1, 500)
    assert [each.processes for each in plan.measured] == [4, 1, 1]
    slow = replace(alone, models_per_second=0.0024)  # four of them, undisturbed, are no faster than what there is
    unchanged = replace(fastest, measured=(row, slow))
    assert split(job, unchanged, monkeypatch) == (unchanged, [])


NOT_TRIED: dict[str, dict[str, Any]] = {
    "all threads are fastest": {"threads": 4},
    "most threads are fastest": {"threads": 3},
    "nothing was measured": {"measured": ()},
    "too short": {"seconds": 7.9},
    "no memory for two": {"budget": 2 * 2**30},
    "callbacks are not shared": {"settings": replace(CPU, callbacks=[pl.Callback()])},
    "nor are loggers": {"settings": replace(CPU, options={"logger": True})},
    "devices are set": {"settings": replace(CPU, devices=3)},
    "threads are set": {"recipe": {"threads": 1}},
    "the program would run again": {"may": False},
}


@pytest.mark.parametrize("case", NOT_TRIED)
def test_where_they_are_not_tried(case: str, blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    given = dict(NOT_TRIED[case])
    job = job_with(blobs, **given.pop("recipe", {}))
    plan = replace(plan_for(job, given.pop("threads", 1)), **{k: given.pop(k) for k in ("measured",) if k in given})
    assert split(job, plan, monkeypatch, **given) == (plan, [])


def test_where_processes_fail_the_plan_stays(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_with(blobs)
    before = plan_for(job)
    plan, tried = split(job, before, monkeypatch, found=None)
    assert (plan, len(tried)) == (before, 1)


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        (SimpleNamespace(__spec__=None, __file__="/usr/bin/mia-lightning"), True),
        (SimpleNamespace(__spec__=SimpleNamespace(name="mia_lightning.__main__"), __file__="x/__main__.py"), True),
        (SimpleNamespace(__spec__=None, __file__="my_audit.py"), False),
        (SimpleNamespace(__spec__=SimpleNamespace(name="my_audit"), __file__="my_audit.py"), False),
        (SimpleNamespace(__spec__=None), False),
    ],
)
def test_a_program_that_is_not_the_command_is_not_run_again(
    main: object, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert may_start_processes() is expected


def followed(
    job: TrainingJob, plan: ExecutionPlan, folder: Path | None = None
) -> tuple[dict[str, Tensor], ExecutionPlan, list[str]]:
    said: list[str] = []
    stages = Stages()
    stages.note = said.append  # type: ignore[method-assign]
    engine = Engine(seed=0, settings=CPU, plans=Plans(folder), stages=stages)
    engine.plans.keep(plan)
    trained = engine.run(job)
    (plan,) = engine.plans
    return trained.stack.state_dict(), plan, said


@pytest.mark.slow
@pytest.mark.devices
@pytest.mark.xdist_group("devices")
def test_two_processes_train_the_same_models_as_one(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_with(blobs)
    alone, _, _ = followed(job, plan_for(job))
    plan = replace(plan_for(job), processes=2, chunk=3)
    with monkeypatch.context() as patch:
        patch.setattr(split_module, "may_start_processes", lambda: True)
        together, kept, said = followed(job, plan)
    assert kept == plan
    assert said == ["shadow: 6 models in 2 processes, at most 3 in each."]
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-9, atol=1e-9)


def test_where_processes_fail_one_trains_all(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise InputError("There is no space.")

    job = job_with(blobs)
    alone, _, _ = followed(job, plan_for(job))
    monkeypatch.setattr(split_module, "may_start_processes", lambda: True)
    monkeypatch.setattr("mia_lightning.training.engine.train_on_devices", fails)
    found, kept, said = followed(job, replace(plan_for(job), processes=2))
    assert kept.processes == 1
    assert "There is no space" in said[0]
    for name, tensor in alone.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-9)


def test_records_that_are_large_are_not_handed_over_unasked(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    job, settings = job_with(blobs), CPU
    monkeypatch.setattr(split_module, "may_start_processes", lambda: True)
    assert split_module.may_split(job, settings)
    monkeypatch.setattr(split_module, "_MOST_RECORDS", 100)
    assert not split_module.may_split(job, settings)


def test_a_program_follows_a_plan_of_processes_by_itself(blobs: Population) -> None:
    job = job_with(blobs)
    _, plan, said = followed(job, replace(plan_for(job), processes=2, chunk=3))
    assert (plan.processes, said) == (1, [])


@pytest.mark.slow
@pytest.mark.devices
@pytest.mark.xdist_group("devices")
def test_processes_are_measured_side_by_side(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mia_lightning.training.devices.processes._LONGEST_START", 300.0)
    job = job_with(blobs)
    engine = Engine(seed=0, settings=CPU)
    started = time.perf_counter()
    found = seconds_side_by_side(engine._handed_over(job, replace(plan_for(job), processes=2, chunk=3)), 1.0)
    assert found is not None
    taken = time.perf_counter() - started
    ready, seconds_D = found
    assert 0 < ready < taken
    assert len(seconds_D) == 2
    assert all(0 < step < taken and 0 < before < taken for before, step in seconds_D)


class Local(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_what_cannot_be_handed_over_is_not_measured(blobs: Population) -> None:
    job = replace(job_with(blobs), make_network=lambda: Local())
    engine = Engine(seed=0, settings=CPU)
    assert seconds_side_by_side(engine._handed_over(job, replace(plan_for(job), processes=2)), 1.0) is None


def test_the_engine_tries_them_for_a_share_of_a_long_role(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def tried(job: TrainingJob, plan: ExecutionPlan, settings: object, **given: Any) -> ExecutionPlan:
        asked.append(given["seconds"] / plan.seconds)
        return replace(plan, processes=2)

    monkeypatch.setattr("mia_lightning.training.engine.split", tried)
    engine = Engine(seed=0, settings=CPU, planner=Planner(always=True))
    assert engine.plan(job_with(blobs)).processes == 2
    assert asked == [pytest.approx(0.05)]
