"""Recorded steps and packed records in a plan: measured beside the other ways, and taken where they are faster."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
from ragged_jobs import CPU, DENSE, HOST, ragged_job
from recorded_graphs import Recorded
from recorded_graphs import recorded as recorded
from timed_networks import Clock, Timed
from timed_networks import clock as clock

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.training.engine import Engine
from mia_lightning.training.plan.execution import Candidate, Measured, choose, plan_from_json, switches_of
from mia_lightning.training.plan.planner import Planner
from mia_lightning.training.plan.probe import NotRecordedError, Probe
from mia_lightning.training.step import packed
from mia_lightning.training.step.graphs import STEPS_BEFORE
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import quiet_lightning

RECIPE = Recipe(
    epochs=6, batches_per_epoch=3, optimizer=partial(torch.optim.Adam, lr=2**-7), cuda_graphs=True, threads=1
)


SPEEDS: list[tuple[str, dict[tuple[str, int, bool], float]]] = [
    # The narrow stack gains by a recording, the wide one does not.
    (
        "cuda_graphs",
        {("stack", 16, False): 4.0, ("stack", 16, True): 3.0, ("stack", 4, False): 5.0, ("stack", 4, True): 9.0},
    ),
    # So does the loop, which is slower without one.
    (
        "cuda_graphs",
        {("stack", 1, False): 4.0, ("stack", 1, True): 3.0, ("loop", 1, False): 2.0, ("loop", 1, True): 5.0},
    ),
    # A stack has neither several streams nor another layout.
    ("streams", {("stack", 1, False): 2.0, ("loop", 1, False): 3.0, ("loop", 1, True): 4.0}),
    ("channels_last", {("stack", 1, False): 2.0, ("loop", 1, False): 3.0, ("loop", 1, True): 4.0}),
    # The loop is the fastest way in its other layout alone.
    ("channels_last", {("stack", 1, False): 4.0, ("loop", 1, False): 3.0, ("loop", 1, True): 5.0}),
]
"""A switch, and models per second of the ways in which it is on or off, in the order in which they are tried."""


@pytest.mark.parametrize(("switch", "speed"), SPEEDS)
def test_a_switch_is_measured_both_ways_in_each_execution(
    switch: str, speed: dict[tuple[str, int, bool], float]
) -> None:
    tried: list[tuple[str, int, bool]] = []

    def measure(candidate: Candidate, allowance: float) -> Measured:
        tried.append((candidate.execution, candidate.chunk, getattr(candidate, switch)))
        return Measured(
            execution=candidate.execution,
            chunk=candidate.chunk,
            seconds_per_step=1.0,
            models_per_second=speed[tried[-1]],
            bytes=1,
            threads=candidate.threads,
            **switches_of(candidate),
        )

    off = dict.fromkeys((execution, chunk) for execution, chunk, _ in speed)
    rows = choose(
        [Candidate(execution=execution, chunk=chunk) for execution, chunk in off],
        measure,
        num_models=1000,
        first_allowance=1.0,
        share=0.05,
        short=3.0,
        clock=lambda: 0.0,
        switches=[switch],
    )
    assert tried == list(speed)
    assert (rows[0].execution, rows[0].chunk, getattr(rows[0], switch)) == max(speed, key=speed.__getitem__)


@pytest.fixture
def slowly(clock: Clock, recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The recorder, where each repetition takes 0.02 seconds."""
    record = recorded.record

    def timed(work: Callable[[], object]) -> Callable[[], object]:
        again = record(work)

        def repeated() -> None:
            clock.pass_by(0.02)
            again()

        return repeated

    monkeypatch.setattr(recorded, "record", timed)
    return recorded


@pytest.mark.parametrize("fails", [False, True])
def test_a_plan_has_graphs_where_the_probe_finds_them_faster(
    fails: bool, blobs: Population, clock: Clock, slowly: Recorded
) -> None:
    slowly.fails = fails
    recipe = replace(RECIPE, epochs=1000, batches_per_epoch=1, cuda_graphs="auto", execution="stack", chunk=None)
    plan = Engine(seed=0, settings=CPU, planner=Planner(clock=clock)).plan(ragged_job(blobs, Timed, recipe))
    assert plan.cuda_graphs is not fails
    assert {row.cuda_graphs for row in plan.measured} == ({False} if fails else {False, True})
    assert ("stream is capturing" in plan.reason) is fails
    assert ("CUDA graphs" in plan.sentence) is not fails


def test_what_recording_takes_counts_as_time_before_the_first_step(
    blobs: Population, clock: Clock, slowly: Recorded
) -> None:
    """Steps of the warm-up take 0.1 s each, the recording as long, and steps that are repeated 0.02 s."""
    recipe = replace(RECIPE, epochs=1000, batches_per_epoch=1)
    probe = Probe(job=ragged_job(blobs, Timed, recipe), settings=CPU, device=HOST, clock=clock)
    with quiet_lightning():
        before, seconds = probe.seconds(Candidate(execution="stack", chunk=3, cuda_graphs=True), 100.0)
    assert seconds == pytest.approx(0.02)
    assert before == pytest.approx((STEPS_BEFORE + 1) * 0.1 - STEPS_BEFORE * 0.02)


def test_a_job_of_few_steps_has_no_recorded_way(blobs: Population, recorded: Recorded) -> None:
    recipe = replace(RECIPE, epochs=2, batches_per_epoch=1)
    probe = Probe(job=ragged_job(blobs, DENSE, recipe), settings=CPU, device=HOST, clock=Clock())
    with quiet_lightning(), pytest.raises(NotRecordedError, match="few steps"):
        probe.seconds(Candidate(execution="stack", chunk=3, cuda_graphs=True), 100.0)


def test_a_plan_of_graphs_is_kept_and_followed(blobs: Population, recorded: Recorded) -> None:
    engine = Engine(seed=0, settings=CPU)
    engine.run(ragged_job(blobs, DENSE, RECIPE))
    (plan,) = engine.plans
    assert plan.cuda_graphs
    assert plan_from_json(asdict(plan)) == plan
    recorded.calls.clear()
    engine.run(ragged_job(blobs, DENSE, RECIPE))
    assert "again" in recorded.calls


def test_graphs_are_not_tried_where_their_memory_is_not_there(
    blobs: Population, clock: Clock, slowly: Recorded
) -> None:
    recipe = replace(RECIPE, epochs=1000, batches_per_epoch=1, cuda_graphs="auto", execution="stack", chunk="auto")
    training = ragged_job(blobs, Timed, recipe)
    found = {}
    with quiet_lightning():
        footprint = Probe(job=training, settings=CPU, device=HOST, clock=clock).one_model()[1]
    for is_graphed in (False, True):
        budget = footprint.bytes("stack", 3, 3, cuda_graphs=is_graphed)
        planner = Planner(clock=clock, budget=lambda device, budget=budget: budget)
        found[is_graphed] = Engine(seed=0, settings=CPU, planner=planner).plan(training)
    assert (found[False].chunk, found[False].cuda_graphs) == (3, False)
    assert (found[True].chunk, found[True].cuda_graphs) == (3, True)
    assert found[True].bytes == footprint.bytes("stack", 3, 3, cuda_graphs=True) > found[False].bytes
    always = replace(training, recipe=replace(recipe, cuda_graphs=True))
    budget = footprint.bytes("stack", 3, 3)
    planner = Planner(clock=clock, budget=lambda device: budget)
    assert Engine(seed=0, settings=CPU, planner=planner).plan(always).chunk < 3


@pytest.fixture
def bits(monkeypatch: pytest.MonkeyPatch) -> Population:
    """60 records of 13 zeros and ones, which the CPU packs, too."""
    monkeypatch.setattr(packed, "DEVICES", {"cpu"})
    x_N = (torch.arange(60)[:, None] * torch.tensor([1, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41]) % 7 < 3).float()
    return make_population(x_N, torch.arange(60) % 3, name="bits", class_names=["a", "b", "c"])


@pytest.mark.costly
@pytest.mark.parametrize("execution", ["stack", "loop"])
def test_packed_records_train_the_same_models_to_the_bit(execution: str, bits: Population) -> None:
    found: list[TrainedStack] = []
    for packed_bits in (False, True):
        engine = Engine(seed=0, settings=CPU)
        recipe = replace(RECIPE, execution=execution, cuda_graphs=False, packed_bits=packed_bits)
        found.append(engine.run(ragged_job(bits, DENSE, recipe)))
        (plan,) = engine.plans
        assert plan.packed_bits is packed_bits
    plain, again = (each.stack.state_dict() for each in found)
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert torch.equal(found[0].train_loss_EK, found[1].train_loss_EK)


def test_packed_and_recorded_steps_are_each_tried(bits: Population, clock: Clock, slowly: Recorded) -> None:
    recipe = replace(RECIPE, epochs=10_000, batches_per_epoch=1, cuda_graphs="auto", execution="stack", chunk=None)
    plan = Engine(seed=0, settings=CPU, planner=Planner(clock=clock)).plan(ragged_job(bits, Timed, recipe))
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
    engine.run(ragged_job(given, DENSE, replace(RECIPE, epochs=1, cuda_graphs="auto", packed_bits=setting)))
    (plan,) = engine.plans
    assert not plan.packed_bits
    assert ("packed bits" in plan.reason) is (why is not None)
    assert why is None or why in plan.reason


def test_the_cpu_packs_nothing(blobs: Population) -> None:
    assert "cpu" in str(packed.refusal(RECIPE, blobs, HOST))
