"""The number of threads is a part of the plan: measured, kept, followed, and measured again where steps become slow."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from training_jobs import job_of

from mia_lightning.datasets.population import Population
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.plan.execution import FILE, ExecutionPlan, Measured, Plans
from mia_lightning.training.plan.pace import SEVERAL, Pace
from mia_lightning.training.plan.planner import Planner
from mia_lightning.training.plan.threads import using_threads
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.recipe import Chunk, Recipe
from mia_lightning.training.step.rules import Gradients, Step
from mia_lightning.training.trainer import TrainerSettings

CPU = TrainerSettings(accelerator="cpu", precision="64")
ADAM = partial(torch.optim.Adam, lr=0.01)
Seconds = Callable[[int], float]  # of a step, by the number of threads


@dataclass
class Clock:
    """Seconds that pass only in a forward pass, as the test says for the present number of threads."""

    seconds: Seconds
    now: float = 0.0
    threads: list[int] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def step(self) -> None:
        self.threads.append(torch.get_num_threads())
        self.now += self.seconds(self.threads[-1])


class Timed(nn.Module):
    """A linear network that takes time."""

    clock = Clock(lambda threads: 0.0)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.clock.step()
        return self.layer(x)


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("mia_lightning.training.plan.threads.available_cores", lambda: 4)
    with using_threads(4):
        yield


def engine_with(monkeypatch: pytest.MonkeyPatch, seconds: Seconds, **fields: object) -> tuple[Engine, Clock]:
    clock = Clock(seconds)
    monkeypatch.setattr(Timed, "clock", clock)
    planner = Planner(clock=clock, budget=lambda device: 10**12)
    return Engine(**{"seed": 0, "settings": CPU, "planner": planner, **fields}), clock


def job_with(engine: Engine, blobs: Population, **recipe: object) -> TrainingJob:
    """Four models, 40 records and five steps an epoch; making the job takes no part in what its clock counts."""
    records_K = [torch.arange(k, k + 40) for k in range(4)]
    recipe = {"epochs": 1000, "batch_size": 8, "optimizer": ADAM, "execution": "stack", "chunk": None, **recipe}
    job = job_of(engine, Timed, blobs, records_K, Recipe(**recipe), role="shadow")
    Timed.clock.threads.clear()
    return job


def plan_of(engine: Engine, blobs: Population, **recipe: object) -> ExecutionPlan:
    return engine.plan(job_with(engine, blobs, **recipe))


def train(engine: Engine, blobs: Population, **recipe: object) -> dict[str, Tensor]:
    return engine.run(job_with(engine, blobs, **recipe)).stack.state_dict()


@pytest.mark.parametrize(
    ("fastest", "seconds"),
    [(4, lambda threads: 1 / threads), (2, lambda threads: 1 + abs(threads - 2)), (1, lambda threads: 1.0 * threads)],
)
def test_the_fastest_number_of_threads_is_taken(
    fastest: int, seconds: Seconds, blobs: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = engine_with(monkeypatch, seconds)
    plan = plan_of(engine, blobs)
    assert plan.threads == plan.measured[0].threads == fastest
    assert {row.threads: row.seconds_per_step for row in plan.measured} == {
        n: pytest.approx(seconds(n)) for n in (4, 2, 1)
    }
    assert plan.sentence.endswith(", 1 thread" if fastest == 1 else f", {fastest} threads")
    assert torch.get_num_threads() == 4


@dataclass(frozen=True, eq=False)
class ByExecution:
    """A rule of gradients under which a stack takes longer the more threads it has, and a loop takes less."""

    clock: Clock

    def for_models(self, models: Chunk) -> Gradients:
        def take(stack: Stack, step: Step) -> Tensor:
            threads = torch.get_num_threads()
            self.clock.now += 0.1 * threads if step.execution == "stack" else 0.04 / threads
            for parameter in stack.parameters():
                parameter.grad = torch.zeros_like(parameter)
            return torch.zeros(stack.num_models)

        return take


def test_other_ways_are_tried_with_the_best_number_of_threads_and_the_best_way_with_every_number(
    blobs: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, clock = engine_with(monkeypatch, lambda threads: 0.0)
    plan = plan_of(engine, blobs, execution="auto", epochs=10_000, gradient_rule=ByExecution(clock))
    assert (plan.execution, plan.threads) == ("loop", 4)
    tried = {(row.execution, row.threads) for row in plan.measured}
    assert tried == {("stack", 4), ("stack", 2), ("stack", 1), ("loop", 1), ("loop", 2), ("loop", 4)}


@pytest.mark.parametrize("threads", [1, 3, 6])
def test_a_number_that_is_set_is_obeyed(threads: int, blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, clock = engine_with(monkeypatch, lambda count: 1.0 * count)
    plan = plan_of(engine, blobs, threads=threads)
    assert plan.threads == threads
    assert set(clock.threads) == {threads}
    assert {row.threads for row in plan.measured} == {threads}
    train(engine, blobs, threads=threads, epochs=1)
    assert set(clock.threads) == {threads}


def test_what_is_too_short_for_a_probe_has_all_threads_that_quota_and_affinity_allow(
    blobs: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = engine_with(monkeypatch, lambda threads: 1e-5)
    assert plan_of(engine, blobs).threads == 4
    monkeypatch.setattr("mia_lightning.training.plan.threads.available_cores", lambda: 3)
    plan = plan_of(engine_with(monkeypatch, lambda threads: 1e-5)[0], blobs)
    assert (plan.threads, list(plan.measured)) == (3, [])


@pytest.mark.slow
def test_models_train_on_the_threads_of_the_plan_and_a_later_run_in_the_folder_follows_it(
    blobs: Population, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, clock = engine_with(monkeypatch, lambda threads: 0.1 * threads, plans=Plans(tmp_path))
    train(engine, blobs, epochs=100)
    assert set(clock.threads[-500:]) == {1}
    (kept,) = json.loads((tmp_path / FILE).read_text())["plans"]
    assert kept["threads"] == 1
    assert {row["threads"] for row in kept["measured"]} == {1, 2, 4}

    again, clock = engine_with(monkeypatch, lambda threads: 0.2 / threads, plans=Plans(tmp_path))
    train(again, blobs, epochs=100)
    assert len(clock.threads) == 500
    assert set(clock.threads) == {1}
    assert torch.get_num_threads() == 4


@dataclass
class Load:
    """How many times as long a step takes with each number of threads, from a step on."""

    begins: int
    times: dict[int, float]
    steps: int = 0

    def __call__(self, threads: int) -> float:
        self.steps += 1
        alone = {4: 1.0, 2: 1.5, 1: 2.0}[threads]
        return alone * (self.times[threads] if self.steps > self.begins else 1.0)


def test_steps_that_become_several_times_slower_are_measured_again(
    blobs: Population, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other processes come in the middle of a training: threads wait for each other, and one would be fastest."""
    said: list[str] = []
    monkeypatch.setattr(Stages, "note", lambda self, sentence: said.append(sentence))
    load = Load(begins=10**9, times={4: 9.0, 2: 5.0, 1: 1.5})
    engine, clock = engine_with(monkeypatch, load, plans=Plans(tmp_path))
    job = job_with(engine, blobs, epochs=30)
    engine.plan(job)
    said.clear()
    clock.threads.clear()
    load.begins = load.steps + 50
    slowed = engine.run(job).stack.state_dict()

    assert set(clock.threads[:55]) == {4}  # until an epoch was slow
    assert set(clock.threads[-50:]) == {1}
    assert len(clock.threads) == 30 * 5  # no step is repeated
    (plan,) = engine.plans
    assert plan.threads == 1
    assert [row.threads for row in plan.measured] == [1, 2, 4]
    assert "9.0 times as long as planned" in plan.reason
    (sentence,) = said
    assert sentence.startswith("shadow: its steps took 9.0 times as long as planned")
    assert "1 thread in place of 4" in sentence
    (kept,) = json.loads((tmp_path / FILE).read_text())["plans"]
    assert (kept["threads"], kept["reason"]) == (1, plan.reason)
    assert torch.get_num_threads() == 4

    calm, _ = engine_with(monkeypatch, Load(begins=10**9, times={}))
    for name, tensor in train(calm, blobs, epochs=30).items():
        torch.testing.assert_close(slowed[name], tensor, rtol=1e-9, atol=1e-9)

    later, clock = engine_with(monkeypatch, lambda threads: 1.0, plans=Plans(tmp_path))
    train(later, blobs, epochs=30)
    assert set(clock.threads) == {1}


def test_a_second_chunk_goes_on_with_what_was_found_in_the_first(
    blobs: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Load(begins=10**9, times={4: 9.0, 2: 5.0, 1: 1.5})
    engine, clock = engine_with(monkeypatch, load)
    job = job_with(engine, blobs, epochs=30, chunk=2)
    engine.plan(job)
    load.begins = load.steps
    clock.threads.clear()
    engine.run(job)
    assert len(clock.threads) == 2 * 30 * 5
    assert set(clock.threads[150:]) == {1}


PLAN = ExecutionPlan(
    role="shadow",
    num_models=8,
    epochs=100,
    signature={},
    execution="stack",
    chunk=8,
    measured=(Measured(execution="stack", chunk=8, seconds_per_step=1.0, models_per_second=1.0, bytes=1, threads=4),),
    reason="",
    seconds=8.0,
    bytes=1,
    threads=4,
)
STEPS = 5


def paced(
    seconds: Callable[[int, int], float],
    *,
    steps: int,
    plan: ExecutionPlan = PLAN,
    threads: tuple[int, ...] = (4, 2, 1),
) -> tuple[list[int], list[tuple[ExecutionPlan, str]]]:
    """The threads of each of so many steps, which take `seconds(step, threads)`, and the changes of the plan."""
    now, used = [0.0], []
    changes: list[tuple[ExecutionPlan, str]] = []
    pace = Pace(plan, threads=threads, clock=lambda: now[0], changed=lambda *change: changes.append(change))
    module = SimpleNamespace(batches=[None] * STEPS, stack=SimpleNamespace(num_models=8))
    with using_threads(plan.threads):
        pace.on_train_start(None, module)
        for step in range(steps):
            pace.on_train_batch_start(None, module, None, step % STEPS)
            used.append(torch.get_num_threads())
            now[0] += seconds(step, used[-1])
            pace.on_train_batch_end(None, module, None, None, step % STEPS)
    assert pace.plan is (changes[-1][0] if changes else plan)
    return used, changes


@pytest.mark.parametrize("times", [0.1, 1.0, SEVERAL - 0.01])
def test_what_is_less_than_several_times_slower_is_left_alone(times: float) -> None:
    used, changes = paced(lambda step, threads: times, steps=200)
    assert (set(used), changes) == ({4}, [])


def test_where_it_stays_as_slow_it_is_measured_once_and_again_when_it_becomes_slower_still() -> None:
    used, changes = paced(lambda step, threads: 5.0 * threads if step < 100 else 50.0 * threads, steps=200)
    assert [plan.threads for plan, _ in changes] == [1, 1]
    assert [used.count(threads) for threads in (4, 2)] == [1 + 3 + 3, 3 + 3]  # one that took 20 s, and two trials
    assert "stays with 1 thread" in changes[1][1]


@pytest.mark.parametrize(
    ("seconds_of_step", "expected"),
    [
        (0.016, 65),  # 13 epochs until their steps have taken a second
        (0.16, 10),
        (1.6, 5),
        (16.0, 1),  # an epoch of minutes is not waited for
    ],
)
def test_whole_epochs_of_a_second_or_more_are_compared_but_no_more_than_ten_seconds(
    seconds_of_step: float, expected: int
) -> None:
    row = replace(PLAN.measured[0], seconds_per_step=seconds_of_step / 4)
    used, _ = paced(lambda step, threads: seconds_of_step, steps=100, plan=replace(PLAN, measured=(row,)))
    assert used.index(2) == expected + 1 + max(2, -int(-0.5 // seconds_of_step))  # after the trial of all four


def test_a_single_number_of_threads_is_never_measured_again() -> None:
    used, changes = paced(lambda step, threads: 100.0, steps=100, threads=(4,))
    assert (set(used), changes) == ({4}, [])


def test_what_was_measured_with_fewer_models_promises_less_for_more() -> None:
    row = replace(PLAN.measured[0], chunk=4)
    used, changes = paced(lambda step, threads: 5.9, steps=200, plan=replace(PLAN, measured=(row,)))
    assert (set(used), changes) == ({4}, [])


def test_a_plan_that_nothing_was_measured_for_promises_that_the_role_is_short() -> None:
    unmeasured = replace(PLAN, measured=(), seconds=0.5)  # of 100 epochs of 5 steps
    assert paced(lambda step, threads: 0.017, steps=500, plan=unmeasured)[1] == []
    ((plan, _),) = paced(lambda step, threads: 0.019 * threads, steps=500, plan=unmeasured)[1]
    assert plan.threads == 1
    assert plan.seconds == pytest.approx(0.019 * 500)


@pytest.mark.parametrize("is_set", [True, False])
def test_where_torch_was_imported_first_a_sentence_says_what_to_set(
    is_set: bool, blobs: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    if not is_set:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    said: list[str] = []
    monkeypatch.setattr(Stages, "note", lambda self, sentence: said.append(sentence))
    engine, _ = engine_with(monkeypatch, lambda threads: 1e-5)
    plan_of(engine, blobs)
    plan_of(engine, blobs, epochs=7)  # it is said once
    assert ["OMP_WAIT_POLICY=PASSIVE" in sentence for sentence in said] == ([] if is_set else [True])
    _, ((_, sentence),) = paced(lambda step, threads: 20.0 / threads, steps=50)
    assert ("OMP_WAIT_POLICY=PASSIVE" in sentence) is not is_set
