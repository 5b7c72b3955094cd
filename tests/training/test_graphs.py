"""Steps that are recorded are the steps: on a recorder for the CPU, which repeats operations on the memory they had."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from quick import slow_but
from ragged_jobs import CONVOLUTIONS, CPU, DENSE, HOST, Case, equal, trained, usual_cases
from recorded_graphs import Recorded
from recorded_graphs import recorded as recorded
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from mia_lightning.datasets.population import Population
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.relaxloss import RelaxLoss
from mia_lightning.training.engine import Engine
from mia_lightning.training.step.graphs import STEPS_BEFORE, GraphedSteps, OfCuda, refusal
from mia_lightning.training.step.recipe import EarlyStopping, Recipe
from mia_lightning.training.trainer import TrainerSettings

# Rates that float32 holds exactly: a graph reads them from a tensor.
ADAM = partial(torch.optim.Adam, lr=2**-7)
SGD = partial(torch.optim.SGD, lr=2**-5, momentum=0.9)
RECIPE = Recipe(epochs=6, batches_per_epoch=3, optimizer=ADAM, cuda_graphs=True, threads=1)


CASES = {
    **usual_cases(RECIPE),
    "momentum": Case(recipe=replace(RECIPE, optimizer=SGD, gradient_clip_norm=0.1)),
    "weight decay": Case(recipe=replace(RECIPE, optimizer=partial(torch.optim.AdamW, lr=2**-7, weight_decay=0.1))),
    "convolutions": Case(make=CONVOLUTIONS, of_pictures=True, recipe=replace(RECIPE, optimizer=SGD)),
    "on a schedule": Case(
        recipe=replace(RECIPE, scheduler=partial(StepLR, step_size=2, gamma=0.5), scheduler_interval="step")
    ),
    "stopped early": Case(
        recipe=replace(RECIPE, epochs=12, early_stopping=EarlyStopping(patience=4, min_delta=0.05)),
        others={"validation_N": torch.arange(50, 60)},
    ),
}
EACH = [(name, execution) for name in CASES for execution in ("stack", "loop")]


@pytest.mark.costly
@pytest.mark.parametrize(("name", "execution"), slow_but([("dense", "stack"), ("on a schedule", "loop")], EACH))
def test_recorded_steps_train_the_same_models_to_the_bit(
    name: str, execution: str, blobs: Population, pictures: Population, recorded: Recorded
) -> None:
    case = CASES[name]
    population = pictures if case.of_pictures else blobs
    found = []
    for cuda_graphs in (False, True):
        engine = Engine(seed=0, settings=replace(CPU, precision=case.precision))
        recipe = replace(case.recipe, execution=execution, cuda_graphs=cuda_graphs)
        found.append(trained(population, case.make, recipe, engine, **case.others))
        (plan,) = engine.plans
        assert plan.cuda_graphs is cuda_graphs
        assert bool(recorded.calls) is cuda_graphs
    equal(*found)
    num_shapes = recorded.calls.count("record")
    assert num_shapes > 1
    assert recorded.calls.count("again") > num_shapes


def test_each_shape_is_warmed_up_then_recorded_once_and_repeated(blobs: Population, recorded: Recorded) -> None:
    trained(blobs, DENSE, replace(RECIPE, batches_per_epoch=1, epochs=STEPS_BEFORE + 6, execution="stack"))
    assert recorded.calls == [*["beside"] * STEPS_BEFORE, "record", *["again"] * 4]  # and two are looked at


class Counts(pl.Callback):
    """Takes the step that Lightning has counted to, which loggers and checkpoints go by."""

    def __init__(self) -> None:
        self.found: list[int] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *others: Any) -> None:
        self.found.append(trainer.global_step)


def test_lightning_counts_recorded_steps(
    blobs: Population, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts()
    made = TrainerSettings.make
    monkeypatch.setattr(TrainerSettings, "make", lambda self, **given: made(self, **{**given, "callbacks": [counts]}))
    trained(blobs, DENSE, RECIPE)
    assert counts.found == list(range(1, 19))
    assert "again" in recorded.calls


def test_rates_between_the_numbers_of_float32_change_nothing_beyond_rounding(
    blobs: Population, recorded: Recorded
) -> None:
    recipe = replace(
        RECIPE, optimizer=partial(torch.optim.Adam, lr=0.01), scheduler=partial(StepLR, step_size=1, gamma=0.9)
    )
    plain, again = (trained(blobs, DENSE, replace(recipe, cuda_graphs=each)) for each in (False, True))
    for name, tensor in plain.stack.state_dict().items():
        torch.testing.assert_close(again.stack.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    assert "again" in recorded.calls


def test_a_schedule_that_changes_more_than_the_rate_ends_the_recording(blobs: Population, recorded: Recorded) -> None:
    """OneCycleLR changes the momentum, too."""
    recipe = replace(
        RECIPE, optimizer=SGD, scheduler=partial(OneCycleLR, max_lr=2**-4, total_steps=40), scheduler_interval="step"
    )
    engine = Engine(seed=0, settings=CPU)
    again = trained(blobs, DENSE, recipe, engine)
    equal(again, trained(blobs, DENSE, replace(recipe, cuda_graphs=False)))
    (plan,) = engine.plans
    assert not plan.cuda_graphs
    assert "learning rate" in plan.reason
    assert "again" not in recorded.calls


def test_a_recording_that_fails_is_said_once_and_steps_are_taken_as_they_are(
    blobs: Population, recorded: Recorded
) -> None:
    recorded.fails = True
    engine, said = Engine(seed=0, settings=CPU), list[str]()
    engine.stages.note = said.append  # type: ignore[method-assign]
    again = trained(blobs, DENSE, replace(RECIPE, chunk=1), engine)
    assert recorded.calls.count("record") == 1  # later chunks do not try
    equal(again, trained(blobs, DENSE, replace(RECIPE, chunk=1, cuda_graphs=False)))
    (plan,) = engine.plans
    assert not plan.cuda_graphs
    assert "stream is capturing" in plan.reason
    assert sum("CUDA graphs" in sentence for sentence in said) == 1


class Reads(nn.Module):
    """A network that waits for its device in every step."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(input_shape[0], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x)
        return logits * (1.0 if float(logits.detach().sum()) < torch.inf else 0.0)


def test_the_recorder_of_these_tests_records_nothing_that_a_device_could_not(
    blobs: Population, recorded: Recorded
) -> None:
    engine = Engine(seed=0, settings=CPU)
    trained(blobs, Reads, replace(RECIPE, execution="loop"), engine)
    (plan,) = engine.plans
    assert not plan.cuda_graphs
    assert "again" not in recorded.calls


def test_the_recorder_of_these_tests_keeps_numbers_and_memory_and_does_nothing_while_it_records() -> None:
    total, rate = torch.zeros(3), torch.tensor(1.0)
    step = 5

    def work() -> None:
        total.add_((torch.ones(3) * step) * rate)

    again = Recorded().record(work)
    assert torch.equal(total, torch.zeros(3))
    step = 7  # of Python, which a graph knows nothing of
    rate.fill_(2.0)
    again()
    again()
    assert torch.equal(total, torch.full((3,), 20.0))


class SeesGradients(pl.Callback):
    def on_before_optimizer_step(self, *given: Any) -> None:
        pass


REFUSED: dict[str, tuple[Recipe, TrainerSettings]] = {
    "false": (replace(RECIPE, cuda_graphs=False), CPU),
    "private": (DPSGD(noise_multiplier=1.0, clip_norm=1.0).adapt(RECIPE), CPU),
    "relaxed": (RelaxLoss(alpha=0.5).adapt(RECIPE), CPU),
    "accumulated": (replace(RECIPE, accumulate_batches=2), CPU),
    "precision": (RECIPE, replace(CPU, precision="64")),
    "rate": (replace(RECIPE, optimizer=partial(torch.optim.Adam, lr=torch.tensor(0.01))), CPU),
    "not fused": (replace(RECIPE, optimizer=partial(torch.optim.Adam, lr=0.01, foreach=True)), CPU),
    "callback": (RECIPE, replace(CPU, callbacks=[SeesGradients()])),
}


@pytest.mark.costly
@pytest.mark.parametrize("name", REFUSED)
def test_steps_that_a_graph_would_not_repeat_are_never_recorded(
    name: str, blobs: Population, recorded: Recorded
) -> None:
    recipe, settings = REFUSED[name]
    engine = Engine(seed=0, settings=settings)
    trained(blobs, DENSE, recipe, engine)
    assert recorded.calls == []
    (plan,) = engine.plans
    assert not plan.cuda_graphs
    assert ("without CUDA graphs" in plan.reason) is (name != "false")


def in_groups(parameters: Any, *, second: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Adam of two groups."""
    others = {"params": [nn.Parameter(torch.zeros(1))], **second}
    return torch.optim.Adam([{"params": list(parameters), "fused": True}, others], lr=0.01)


@pytest.mark.parametrize(
    ("second", "why"),
    [({"fused": True}, None), ({"lr": torch.tensor(0.1)}, "tensor"), ({"fused": False, "foreach": True}, "counts")],
)
def test_an_optimiser_of_several_groups_is_recorded_where_each_of_them_can_be(
    second: Mapping[str, Any], why: str | None, recorded: Recorded
) -> None:
    recipe = replace(RECIPE, optimizer=partial(in_groups, second=second))
    found = refusal(recipe, CPU, HOST, is_near=True)
    assert found is None if why is None else why in str(found)


def test_records_on_the_host_are_not_recorded(blobs: Population, recorded: Recorded) -> None:
    trained(replace(blobs, device_bytes=0), DENSE, RECIPE)
    assert recorded.calls == []


def test_the_cpu_has_no_graphs(blobs: Population) -> None:
    engine = Engine(seed=0, settings=CPU)
    trained(blobs, DENSE, replace(RECIPE, epochs=1), engine)
    (plan,) = engine.plans
    assert not plan.cuda_graphs
    assert "cpu" in plan.reason
    assert refusal(replace(RECIPE, cuda_graphs="auto"), CPU, HOST, is_near=True) is not None


def test_many_shapes_are_not_all_recorded(recorded: Recorded) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    taken: list[int] = []
    steps = GraphedSteps(lambda batch, number: taken.append(batch[0].shape[1]), ADAM([parameter]), recorded)
    for width in range(1, 21):
        for number in range(STEPS_BEFORE + 2):
            steps((torch.zeros(2, width, dtype=torch.int64), None), number)
    assert steps.num_recorded == recorded.calls.count("record") == 8
    assert taken.count(20) == STEPS_BEFORE + 2  # as they are
    assert taken.count(1) == STEPS_BEFORE + 1


def test_cuda_is_asked_in_this_order(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Stream:
        def __init__(self, name: str = "own") -> None:
            self.name = name

        def wait_stream(self, other: "Stream") -> None:
            calls.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def context(name: str) -> Iterator[None]:
        calls.append(f"begin {name}")
        yield
        calls.append(f"end {name}")

    memory = object()
    graph = SimpleNamespace(replay=lambda: calls.append("replay"))

    def recording(of: object, *, pool: object, stream: Stream, capture_error_mode: str) -> Any:
        assert (of, pool, capture_error_mode) == (graph, memory, "thread_local")
        return context(f"graph on {stream.name}")

    fakes: dict[str, Any] = {
        "Stream": lambda device: Stream(),
        "current_stream": lambda device: Stream("usual"),
        "stream": lambda stream: context(f"stream {stream.name}"),
        "graph_pool_handle": lambda: memory,
        "CUDAGraph": lambda: graph,
        "graph": recording,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    recorder = OfCuda(torch.device("cuda:0"))
    with recorder.beside():
        calls.append("step")
    assert calls == ["own waits for usual", "begin stream own", "step", "end stream own", "usual waits for own"]
    calls.clear()
    again = recorder.record(lambda: calls.append("step"))
    again()
    assert calls == ["begin graph on own", "step", "end graph on own", "replay"]


def test_a_module_that_is_not_asked_to_records_nothing(recorded: Recorded, blobs: Population) -> None:
    trained(blobs, DENSE, replace(RECIPE, cuda_graphs="auto"))  # too short for a probe
    assert recorded.calls == []
