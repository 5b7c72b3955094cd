"""Steps that are compiled are the steps: written down as they are taken alone, and run by what compiles them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from ragged_jobs import CONVOLUTIONS, CPU, DENSE, HOST, Case, close, equal, ragged, ragged_job, trained, usual_cases
from recorded_graphs import Recorded
from recorded_graphs import recorded as recorded
from timed_networks import Clock, Timed
from timed_networks import clock as clock
from torch import Tensor, nn
from training_jobs import job_of

from mia_lightning.datasets.population import Population
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.relaxloss import RelaxLoss
from mia_lightning.training.engine import Engine
from mia_lightning.training.plan.execution import Candidate, plan_from_json
from mia_lightning.training.plan.planner import Planner
from mia_lightning.training.plan.probe import NotCompiledError, Probe
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step import compiled
from mia_lightning.training.step.compiled import Compiler, Program, Work, refusal
from mia_lightning.training.step.recipe import EarlyStopping, Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings, quiet_lightning

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
RECIPE = Recipe(epochs=2, batches_per_epoch=3, optimizer=SGD, compile=True, execution="stack", threads=1)


@dataclass
class Compiled:
    """What compiles in these tests: it takes the work as it is, and writes down how often.

    Attributes:
        seconds: is told how long each thing takes.
        fails: with which error nothing can be compiled.
        made: programs.
        runs: of all programs.
    """

    seconds: Callable[[float], None]
    fails: Exception | None = None
    made: int = 0
    runs: int = 0

    def __call__(self, work: Work, given: Sequence[Tensor]) -> Program:
        self.made += 1
        self.seconds(3.0)
        if self.fails is not None:
            raise self.fails
        is_there = [each is not None for each in self.outputs(work, given)]

        def run(*tensors: Tensor) -> list[Tensor]:
            self.runs += 1
            self.seconds(0.02)
            return [each for each in self.outputs(work, tensors) if each is not None]

        return Program(run=run, is_there=is_there, device_type="cpu")

    @staticmethod
    def outputs(work: Work, given: Sequence[Tensor]) -> list[Tensor | None]:
        with torch.enable_grad():
            return work(list(given))


@pytest.fixture
def fake(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Compiled:
    """What compiles: 3 s by the clock, and a program takes 0.02 s beside the call of the network that is in it."""
    compiler = Compiled(seconds=clock.pass_by)
    monkeypatch.setattr(compiled, "_compiled", compiler)
    return compiler


class Odd(nn.Module):
    """A network that stops gradients, has a backward pass of its own, and leaves a parameter unused."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(input_shape[0], 6)
        self.unused = nn.Linear(2, 2)
        self.second = nn.Linear(6, num_classes)
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x) * self.frozen
        logits: Tensor = self.second(torch.tanh(hidden) + hidden.detach())
        return logits


CASES = {
    **usual_cases(RECIPE),
    "float64": Case(precision="64", recipe=RECIPE),
    "odd": Case(make=Odd, recipe=RECIPE),
    "clipped and accumulated": Case(recipe=replace(RECIPE, gradient_clip_norm=0.1, accumulate_batches=2)),
    "convolutions": Case(make=CONVOLUTIONS, of_pictures=True, recipe=RECIPE),
    "stopped early": Case(
        recipe=replace(RECIPE, epochs=6, early_stopping=EarlyStopping(patience=2, min_delta=0.05)),
        others={"validation_N": torch.arange(50, 60)},
    ),
}


def compare(case: Case, execution: str, blobs: Population, pictures: Population) -> None:
    population = pictures if case.of_pictures else blobs
    found = []
    for is_on in (False, True):
        engine = Engine(seed=0, settings=replace(CPU, precision=case.precision))
        recipe = replace(case.recipe, execution=execution, compile=is_on)
        found.append(trained(population, case.make, recipe, engine, **case.others))
        (plan,) = engine.plans
        assert plan.compile is is_on, plan.reason
    close(*found)


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["stack", "loop"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_written_down_trains_the_same_models(
    name: str, execution: str, blobs: Population, pictures: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run as it was written down, so that no compiler is needed."""
    monkeypatch.setattr(compiled, "BACKEND", lambda graph, given: graph)
    compare(CASES[name], execution, blobs, pictures)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "execution"), [("dropout", "stack"), ("odd", "loop"), ("convolutions", "loop")])
def test_what_a_compiler_makes_of_it_trains_the_same_models(
    name: str, execution: str, blobs: Population, pictures: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch's `aot_eager`, which does what comes before the code of a device is made."""
    import torch._dynamo

    monkeypatch.setattr(compiled, "BACKEND", torch._dynamo.lookup_backend("aot_eager"))
    compare(CASES[name], execution, blobs, pictures)


@pytest.mark.costly
@pytest.mark.parametrize("execution", ["stack", "loop"])
def test_a_model_of_a_compiled_stack_is_the_one_that_is_trained_alone(
    execution: str, blobs: Population, fake: Compiled
) -> None:
    together = trained(blobs, DENSE, replace(RECIPE, execution=execution))
    assert fake.runs > 0
    engine = Engine(seed=0, settings=CPU)
    job = ragged_job(blobs, DENSE, replace(RECIPE, execution="loop", compile=False))
    alone = [engine.run(job.part([k])) for k in range(3)]
    close(together, TrainedStack.joined(alone, torch.arange(3)))


def test_one_program_for_each_form_of_a_batch_serves_all_chunks_of_a_job(blobs: Population, fake: Compiled) -> None:
    records = [torch.arange(k, 25 + k) for k in range(4)]  # 3 batches: of 8, 8 and 9
    engine = Engine(seed=0, settings=CPU)
    network = bind_shapes(DENSE, blobs.input_shape, 3)
    engine.run(job_of(engine, network, blobs, records, replace(RECIPE, chunk=2), role="shadow"))
    assert fake.made == 2
    assert fake.runs == 2 + 2 * 2 * 3  # each is tried once; two chunks, two epochs, three batches


def test_many_forms_are_not_all_compiled(fake: Compiled) -> None:
    compiler = Compiler()
    work: Work = lambda given: [given[0] * 2]  # noqa: E731
    made = [compiler.program("twice", work, [torch.ones(width)], []) for width in range(1, 21)]
    assert fake.made == compiler.num_programs == 8
    assert [each is not None for each in made] == [True] * 8 + [False] * 12
    assert compiler.program("twice", work, [torch.ones(3)], []) is made[2]
    assert compiler.failure is None


def test_what_a_new_program_writes_when_it_is_tried_is_put_back(fake: Compiled) -> None:
    total = torch.zeros(3)

    def work(given: list[Tensor]) -> list[Tensor | None]:
        given[0].add_(given[1])
        return [given[0].sum(), None]

    program = Compiler().program("sum", work, [total, torch.ones(3)], [total])
    assert program is not None
    assert torch.equal(total, torch.zeros(3))
    assert program([total, torch.ones(3)])[1] is None
    assert torch.equal(total, torch.ones(3))


def test_a_compilation_that_fails_is_said_once_and_steps_are_taken_as_they_are(
    blobs: Population, fake: Compiled
) -> None:
    fake.fails = RuntimeError("no C++ compiler was found\nand many more lines")
    engine, said = Engine(seed=0, settings=CPU), list[str]()
    engine.stages.note = said.append  # type: ignore[method-assign]
    found = trained(blobs, DENSE, replace(RECIPE, chunk=1), engine)
    assert fake.made == 1  # later batches and chunks do not try
    equal(found, trained(blobs, DENSE, replace(RECIPE, chunk=1, compile=False)))
    (plan,) = engine.plans
    assert not plan.compile
    assert "no C++ compiler was found" in plan.reason
    assert "many more lines" not in plan.reason
    assert sum("compiled" in sentence for sentence in said) == 1


def test_memory_that_runs_out_while_a_program_is_tried_is_no_failure_of_a_compiler(fake: Compiled) -> None:
    fake.fails = torch.OutOfMemoryError("CUDA out of memory")
    compiler = Compiler()
    with pytest.raises(torch.OutOfMemoryError):
        compiler.program("twice", lambda given: [given[0] * 2], [torch.ones(2)], [])
    assert compiler.failure is None


@pytest.mark.slow
def test_a_network_that_reads_its_numbers_is_not_compiled(blobs: Population) -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.layer(x)
            return logits * (1.0 if float(logits.detach().sum()) < torch.inf else 0.0)

    engine = Engine(seed=0, settings=CPU)
    recipe = replace(RECIPE, execution="loop")
    engine.run(job_of(engine, Reads, blobs, ragged(), recipe, role="shadow"))
    (plan,) = engine.plans
    assert not plan.compile
    assert "without compiled steps, since" in plan.reason


class SeesGradients(pl.Callback):
    def on_after_backward(self, *given: Any) -> None:
        pass


REFUSED: dict[str, tuple[Recipe, TrainerSettings]] = {
    "false": (replace(RECIPE, compile=False), CPU),
    "private": (DPSGD(noise_multiplier=1.0, clip_norm=1.0).adapt(RECIPE), CPU),
    "relaxed": (RelaxLoss(alpha=0.5).adapt(RECIPE), CPU),
    "callback": (RECIPE, replace(CPU, callbacks=[SeesGradients()])),
}


@pytest.mark.parametrize("name", REFUSED)
def test_steps_that_a_program_would_not_take_are_never_compiled(name: str, blobs: Population, fake: Compiled) -> None:
    recipe, settings = REFUSED[name]
    engine = Engine(seed=0, settings=settings)
    trained(blobs, DENSE, recipe, engine)
    assert fake.made == 0
    (plan,) = engine.plans
    assert not plan.compile
    assert ("without compiled steps" in plan.reason) is (name != "false")


def test_the_cpu_compiles_nothing_unless_it_is_asked_to(blobs: Population, fake: Compiled) -> None:
    engine = Engine(seed=0, settings=CPU, planner=Planner(always=True))
    trained(blobs, DENSE, replace(RECIPE, compile="auto"), engine)
    assert fake.made == 0
    assert "cpu" in str(refusal(replace(RECIPE, compile="auto"), CPU, HOST))
    assert refusal(RECIPE, CPU, HOST) is None


def test_a_plan_with_compiled_steps_is_kept_said_and_followed(blobs: Population, fake: Compiled) -> None:
    engine = Engine(seed=0, settings=CPU)
    trained(blobs, DENSE, RECIPE, engine)
    (plan,) = engine.plans
    assert plan_from_json(asdict(plan)) == plan
    assert "with compiled steps" in plan.sentence
    before = fake.runs
    trained(blobs, DENSE, RECIPE, engine)
    assert fake.runs > before


def test_recorded_steps_may_be_compiled_too(blobs: Population, fake: Compiled, recorded: Recorded) -> None:
    recipe = replace(RECIPE, epochs=6, cuda_graphs=True, optimizer=partial(torch.optim.Adam, lr=2**-7))
    engine = Engine(seed=0, settings=CPU)
    found = trained(blobs, DENSE, recipe, engine)
    (plan,) = engine.plans
    assert plan.cuda_graphs
    assert plan.compile
    assert "again" in recorded.calls
    close(found, trained(blobs, DENSE, replace(recipe, cuda_graphs=False, compile=False)))


@pytest.mark.usefixtures("fake")
def test_what_compiling_takes_counts_as_time_before_the_first_step(blobs: Population, clock: Clock) -> None:
    recipe = replace(RECIPE, epochs=1000, batches_per_epoch=1)
    job = ragged_job(blobs, Timed, recipe)
    probe = Probe(job=job, settings=CPU, device=HOST, clock=clock)
    with quiet_lightning():
        before, seconds = probe.seconds(Candidate(execution="stack", chunk=3, compile=True), 100.0)
    assert seconds == pytest.approx(0.12)
    # It compiles, looks at the outputs, is tried, and takes the step.
    assert before == pytest.approx(3.0 + 0.1 + 2 * 0.12)


@pytest.mark.usefixtures("fake")
def test_forms_that_the_probe_has_not_met_are_compiled_before_the_first_step_too(
    blobs: Population, clock: Clock
) -> None:
    """Of six batches, as the probe ends after one, the last but one has another form than those before it."""
    records = [torch.arange(61)] * 2
    recipe = replace(RECIPE, epochs=10, batches_per_epoch=6)  # of ten records, the last of eleven
    network = bind_shapes(Timed, blobs.input_shape, 3)
    job = job_of(Engine(seed=0, settings=CPU), network, blobs, records, recipe, role="shadow")
    probe = Probe(job=job, settings=CPU, device=HOST, clock=clock)
    with quiet_lightning():
        before, seconds = probe.seconds(Candidate(execution="stack", chunk=2, compile=True), 0.2)
    assert seconds == pytest.approx(0.12)
    assert before == pytest.approx(2 * (3.0 + 0.1 + 2 * 0.12))


@pytest.mark.parametrize("fails", [False, True])
def test_a_plan_compiles_where_the_probe_finds_that_faster(
    fails: bool, blobs: Population, clock: Clock, fake: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program would take longer than the call in it, so each call in one gives its time back."""
    monkeypatch.setattr(compiled, "DEVICES", {"cpu"})
    fake.fails = RuntimeError("no compiler") if fails else None
    fake.seconds = lambda seconds: clock.pass_by(seconds if seconds > 1 else seconds - 0.1)
    recipe = replace(RECIPE, epochs=20_000, batches_per_epoch=1, compile="auto", chunk=None)
    job = ragged_job(blobs, Timed, recipe)
    plan = Engine(seed=0, settings=CPU, planner=Planner(clock=clock)).plan(job)
    assert plan.compile is not fails
    assert {row.compile for row in plan.measured} == ({False} if fails else {False, True})
    assert ("no compiler" in plan.reason) is fails
    assert fake.made == 1  # after a failure it is not tried again


def test_a_role_that_is_too_short_for_a_compilation_does_not_try_one(
    blobs: Population, clock: Clock, fake: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its 30 s allow 1.5 s of trying."""
    monkeypatch.setattr(compiled, "DEVICES", {"cpu"})
    recipe = replace(RECIPE, epochs=100, batches_per_epoch=1, compile="auto", chunk=None)
    job = ragged_job(blobs, Timed, recipe)
    plan = Engine(seed=0, settings=CPU, planner=Planner(clock=clock)).plan(job)
    assert {row.compile for row in plan.measured} == {False}
    assert fake.made == 0


@pytest.mark.usefixtures("fake")
def test_a_job_of_one_step_has_no_compiled_way(blobs: Population, clock: Clock) -> None:
    recipe = replace(RECIPE, epochs=1, batches_per_epoch=1)
    job = ragged_job(blobs, Timed, recipe)
    probe = Probe(job=job, settings=CPU, device=HOST, clock=clock)
    with quiet_lightning(), pytest.raises(NotCompiledError, match="few steps"):
        probe.seconds(Candidate(execution="stack", chunk=3, compile=True), 100.0)
