"""Recorded steps and packed records in a plan: measured beside the other ways, and taken where they are faster."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from recorded_graphs import Recorded
from recorded_graphs import recorded as recorded
from torch import Tensor, nn
from training_jobs import job_of

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.models.mlp import MLP
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.plan.execution import Candidate, Measured, choose, plan_from_json
from mia_lightning.training.plan.planner import Planner
from mia_lightning.training.plan.probe import NotRecordedError, Probe
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step import packed
from mia_lightning.training.step.graphs import STEPS_BEFORE
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings, quiet_lightning

CPU = TrainerSettings(accelerator="cpu")
HOST = torch.device("cpu")
RECIPE = Recipe(
    epochs=6, batches_per_epoch=3, optimizer=partial(torch.optim.Adam, lr=2**-7), cuda_graphs=True, threads=1
)
RAGGED = [torch.arange(k, 22 + 4 * k) for k in range(3)]
DENSE = partial(MLP, hidden=[5])


def job(population: Population, make: Callable[..., nn.Module], recipe: Recipe) -> TrainingJob:
    network = bind_shapes(make, population.input_shape, population.num_classes)
    return job_of(Engine(seed=0, settings=CPU), network, population, RAGGED, recipe, role="shadow")


def test_a_recorded_way_is_measured_beside_the_first_and_the_fastest_one() -> None:
    """By what a way takes; the narrow stack gains by a recording, the wide one does not."""
    speed = {("stack", 16, False): 4.0, ("stack", 16, True): 3.0, ("stack", 4, False): 5.0, ("stack", 4, True): 9.0}
    tried: list[tuple[str, int, bool]] = []

    def measure(candidate: Candidate, allowance: float) -> Measured:
        way = candidate.execution, candidate.chunk, candidate.cuda_graphs
        tried.append(way)
        return Measured(
            execution=way[0],
            chunk=way[1],
            seconds_per_step=1.0,
            models_per_second=speed[way],
            bytes=1,
            threads=candidate.threads,
            cuda_graphs=way[2],
        )

    candidates = [Candidate(execution="stack", chunk=chunk) for chunk in (16, 4)]
    rows = choose(
        candidates,
        measure,
        num_models=1000,
        first_allowance=1.0,
        share=0.05,
        short=3.0,
        clock=lambda: 0.0,
        switches=["cuda_graphs"],
    )
    assert tried == [("stack", 16, False), ("stack", 16, True), ("stack", 4, False), ("stack", 4, True)]
    assert (rows[0].chunk, rows[0].cuda_graphs) == (4, True)


@dataclass
class Clock:
    """Seconds that pass where Python calls a network; a recording passes none."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(nn.Module):
    clock = Clock()

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(input_shape[0], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += 0.1
        logits: Tensor = self.layer(x)
        return logits


@pytest.mark.parametrize("fails", [False, True])
def test_a_plan_has_graphs_where_the_probe_finds_them_faster(
    fails: bool, blobs: Population, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.fails = fails
    monkeypatch.setattr(Timed, "clock", Clock())
    monkeypatch.setattr(recorded, "record", slowly(recorded.record))
    recipe = replace(RECIPE, epochs=1000, batches_per_epoch=1, cuda_graphs="auto", execution="stack", chunk=None)
    plan = Engine(seed=0, settings=CPU, planner=Planner(clock=Timed.clock)).plan(job(blobs, Timed, recipe))
    assert plan.cuda_graphs is not fails
    assert {row.cuda_graphs for row in plan.measured} == ({False} if fails else {False, True})
    assert ("stream is capturing" in plan.reason) is fails
    assert ("CUDA graphs" in plan.sentence) is not fails


def test_what_recording_takes_counts_as_time_before_the_first_step(
    blobs: Population, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of the warm-up take 0.1 s each, the recording as long, and steps that are repeated 0.02 s."""
    monkeypatch.setattr(Timed, "clock", Clock())
    recipe = replace(RECIPE, epochs=1000, batches_per_epoch=1)
    probe = Probe(job=job(blobs, Timed, recipe), settings=CPU, device=HOST, clock=Timed.clock)
    monkeypatch.setattr(recorded, "record", slowly(recorded.record))
    with quiet_lightning():
        before, seconds = probe.seconds(Candidate(execution="stack", chunk=3, cuda_graphs=True), 100.0)
    assert seconds == pytest.approx(0.02)
    assert before == pytest.approx((STEPS_BEFORE + 1) * 0.1 - STEPS_BEFORE * 0.02)


def slowly(record: Callable[..., Any]) -> Callable[..., Any]:
    """Each repetition takes 0.02 seconds."""

    def timed(work: Callable[[], object]) -> Callable[[], object]:
        again = record(work)

        def repeated() -> None:
            Timed.clock.now += 0.02
            again()

        return repeated

    return timed


def test_a_job_of_few_steps_has_no_recorded_way(blobs: Population, recorded: Recorded) -> None:
    recipe = replace(RECIPE, epochs=2, batches_per_epoch=1)
    probe = Probe(job=job(blobs, DENSE, recipe), settings=CPU, device=HOST, clock=Clock())
    with quiet_lightning(), pytest.raises(NotRecordedError, match="few steps"):
        probe.seconds(Candidate(execution="stack", chunk=3, cuda_graphs=True), 100.0)


def test_a_plan_of_graphs_is_kept_and_followed(blobs: Population, recorded: Recorded) -> None:
    engine = Engine(seed=0, settings=CPU)
    engine.run(job(blobs, DENSE, RECIPE))
    (plan,) = engine.plans
    assert plan.cuda_graphs
    assert plan_from_json(asdict(plan)) == plan
    recorded.calls.clear()
    engine.run(job(blobs, DENSE, RECIPE))
    assert "again" in recorded.calls


def test_graphs_are_not_tried_where_their_memory_is_not_there(
    blobs: Population, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Timed, "clock", Clock())
    monkeypatch.setattr(recorded, "record", slowly(recorded.record))
    recipe = replace(RECIPE, epochs=1000, batches_per_epoch=1, cuda_graphs="auto", execution="stack", chunk="auto")
    training = job(blobs, Timed, recipe)
    found = {}
    with quiet_lightning():
        footprint = Probe(job=training, settings=CPU, device=HOST, clock=Timed.clock).one_model()[1]
    for is_graphed in (False, True):
        budget = footprint.bytes("stack", 3, 3, cuda_graphs=is_graphed)
        planner = Planner(clock=Timed.clock, budget=lambda device, budget=budget: budget)
        found[is_graphed] = Engine(seed=0, settings=CPU, planner=planner).plan(training)
    assert (found[False].chunk, found[False].cuda_graphs) == (3, False)
    assert (found[True].chunk, found[True].cuda_graphs) == (3, True)
    assert found[True].bytes == footprint.bytes("stack", 3, 3, cuda_graphs=True) > found[False].bytes
    always = replace(training, recipe=replace(recipe, cuda_graphs=True))
    budget = footprint.bytes("stack", 3, 3)
    planner = Planner(clock=Timed.clock, budget=lambda device: budget)
    assert Engine(seed=0, settings=CPU, planner=planner).plan(always).chunk < 3


@pytest.fixture
def bits(monkeypatch: pytest.MonkeyPatch) -> Population:
    """60 records of 13 zeros and ones, which the CPU packs, too."""
    monkeypatch.setattr(packed, "DEVICES", {"cpu"})
    x_N = (torch.arange(60)[:, None] * torch.tensor([1, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41]) % 7 < 3).float()
    return make_population(x_N, torch.arange(60) % 3, name="bits", class_names=["a", "b", "c"])


@pytest.mark.parametrize("execution", ["stack", "loop"])
def test_packed_records_train_the_same_models_to_the_bit(execution: str, bits: Population) -> None:
    found: list[TrainedStack] = []
    for packed_bits in (False, True):
        engine = Engine(seed=0, settings=CPU)
        recipe = replace(RECIPE, execution=execution, cuda_graphs=False, packed_bits=packed_bits)
        found.append(engine.run(job(bits, DENSE, recipe)))
        (plan,) = engine.plans
        assert plan.packed_bits is packed_bits
    plain, again = (each.stack.state_dict() for each in found)
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert torch.equal(found[0].train_loss_EK, found[1].train_loss_EK)


def test_packed_and_recorded_steps_are_each_tried(
    bits: Population, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Timed, "clock", Clock())
    monkeypatch.setattr(recorded, "record", slowly(recorded.record))
    recipe = replace(RECIPE, epochs=10_000, batches_per_epoch=1, cuda_graphs="auto", execution="stack", chunk=None)
    plan = Engine(seed=0, settings=CPU, planner=Planner(clock=Timed.clock)).plan(job(bits, Timed, recipe))
    tried = {(row.cuda_graphs, row.packed_bits) for row in plan.measured}
    assert {(False, False), (True, False), (False, True)} <= tried
    assert plan.cuda_graphs


@pytest.mark.parametrize(
    ("setting", "population", "why"),
    [(True, "blobs", "zeros and ones"), (False, "bits", None), (True, "bits on the host", "host")],
)
def test_records_that_cannot_be_packed_are_not(
    setting: bool, population: str, why: str | None, bits: Population, blobs: Population
) -> None:
    given = {"blobs": blobs, "bits": bits, "bits on the host": replace(bits, device_bytes=0)}[population]
    engine = Engine(seed=0, settings=CPU)
    engine.run(job(given, DENSE, replace(RECIPE, epochs=1, cuda_graphs="auto", packed_bits=setting)))
    (plan,) = engine.plans
    assert not plan.packed_bits
    assert ("packed bits" in plan.reason) is (why is not None)
    assert why is None or why in plan.reason


def test_the_cpu_packs_nothing(blobs: Population) -> None:
    assert "cpu" in str(packed.refusal(RECIPE, blobs, HOST))
