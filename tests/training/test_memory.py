"""Memory: what one model takes, what there is, and a chunk that is halved when it runs out."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from training_jobs import job_of, train_with

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.engine import Engine
from mia_lightning.training.plan import memory
from mia_lightning.training.plan.execution import FILE, Plans
from mia_lightning.training.plan.memory import Footprint, is_out_of_memory, memory_budget, peak_memory, saved_tensors
from mia_lightning.training.plan.planner import Planner
from mia_lightning.training.plan.probe import Probe
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

CPU = TrainerSettings(accelerator="cpu", precision="64")
UNPROBED = Planner(short=1e9)  # all models at once, on a busy machine too
HOST = torch.device("cpu")


class Cramped(torch.optim.SGD):
    """Runs out of memory above so many models at once, in its second step."""

    def __init__(self, parameters: object, *, most: int, error: Exception) -> None:
        super().__init__(parameters, lr=0.1, momentum=0.9)
        self.most, self.error, self.steps = most, error, 0

    def step(self, closure: object = None) -> None:
        self.steps += 1
        is_stack = self.param_groups[0]["params"][0].dim() == 3 and self.param_groups[0]["params"][0].shape[-1] == 6
        if is_stack and self.steps > 1 and self.param_groups[0]["params"][0].shape[0] > self.most:
            raise self.error
        super().step(closure)


ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "python": MemoryError(),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}

QUICK = [("cuda", "stack")]  # each kind is told from other errors below


def train(
    blobs: Population,
    engine: Engine,
    *,
    most: int = 100,
    error: Exception = ERRORS["cuda"],
    **recipe: object,
) -> TrainedStack:
    return train_with(
        engine,
        bind_shapes(partial(MLP, hidden=[8], dropout=0.3), blobs.input_shape, 3),
        blobs,
        [torch.arange(k, k + 20 + 8 * (k > 6)) for k in range(9)],  # two groups: seven models, and two
        Recipe(
            **{"epochs": 3, "batch_size": 5, "optimizer": partial(Cramped, most=most, error=error), **recipe},
        ),
        role="shadow",
    )


def assert_equal(one: TrainedStack, other: TrainedStack) -> None:
    for name, tensor in one.stack.state_dict().items():
        torch.testing.assert_close(other.stack.state_dict()[name], tensor, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.train_loss_EK, other.train_loss_EK)


@pytest.mark.parametrize(
    ("kind", "execution"),
    [
        pytest.param(kind, execution, marks=() if (kind, execution) in QUICK else pytest.mark.slow)
        for kind in ERRORS
        for execution in ("stack", "loop")
    ],
)
def test_memory_that_runs_out_halves_the_chunk_and_changes_no_model(
    kind: str, execution: str, blobs: Population, tmp_path: Path
) -> None:
    whole = train(blobs, Engine(seed=3, settings=CPU, planner=UNPROBED))
    stages = Stages()
    engine = Engine(seed=3, settings=CPU, stages=stages, plans=Plans(tmp_path), planner=UNPROBED)
    parts = train(blobs, engine, most=2, error=ERRORS[kind], execution=execution)
    assert_equal(whole, parts)
    assert [remark.split(";")[0] for remark in stages.remarks] == [
        "shadow: memory ran out with 7 models at once",
        "shadow: memory ran out with 3 models at once",
    ]
    (written,) = json.loads((tmp_path / FILE).read_text())["plans"]
    assert written["chunk"] == 2
    assert written["reason"] == "halved, since memory ran out with 3 models at once"
    again = Engine(
        seed=3, settings=CPU, stages=Stages(), plans=Plans(tmp_path), planner=UNPROBED
    )  # takes up what was found
    assert_equal(whole, train(blobs, again, most=2, execution=execution))
    assert again.stages.remarks == []


@pytest.mark.slow
def test_what_is_trained_when_memory_runs_out_is_not_trained_again(blobs: Population) -> None:
    """The first two chunks of three fit; the second group's chunk does not, and it alone is made anew."""
    starts: list[int] = []

    class Count(Cramped):
        def step(self, closure: object = None) -> None:
            if self.steps == 0 and self.param_groups[0]["params"][0].shape[-1] == 6:
                starts.append(self.param_groups[0]["params"][0].shape[0])
            self.most = 100 if len(starts) < 4 else 1
            super().step(closure)

    engine = Engine(seed=3, settings=CPU, planner=UNPROBED)
    count = partial(Count, most=0, error=ERRORS["cuda"])
    trained = train(blobs, engine, chunk=4, optimizer=count)
    starts = [each for each in starts if each > 0]
    assert starts == [1, 3, 4, 2, 1, 1]  # of one model, to see what it takes; both chunks; the third, and its halves
    assert_equal(train(blobs, Engine(seed=3, settings=CPU)), trained)


@pytest.mark.slow
def test_a_single_model_that_does_not_fit_ends_in_one_sentence(blobs: Population) -> None:
    engine = Engine(seed=3, settings=CPU, planner=UNPROBED)
    with pytest.raises(InputError, match=r"Memory runs out on cpu while a single model of shadow trains; lower"):
        train(blobs, engine, most=0)


class Large(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 3:
            raise self.error
        return self.layer(x)


def test_one_that_does_not_fit_is_found_before_it_trains(blobs: Population) -> None:
    engine = Engine(seed=0, settings=CPU)
    recipe = Recipe(epochs=1, batch_size=10, optimizer=partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(InputError, match="a single model of target"):
        train_with(engine, lambda: Large(ERRORS["cuda"]), blobs, [torch.arange(20)], recipe, role="target")
    with pytest.raises(RuntimeError, match="not of memory"):  # any other failure stays what it is
        train_with(
            engine, lambda: Large(RuntimeError("not of memory")), blobs, [torch.arange(20)], recipe, role="target"
        )
    assert list(engine.plans) == []


def test_a_failure_in_training_that_is_not_of_memory_stays_what_it_is(blobs: Population) -> None:
    with pytest.raises(RuntimeError, match="something else"):
        train(blobs, Engine(seed=0, settings=CPU), most=2, error=RuntimeError("something else"))


def test_candidates_that_do_not_fit_are_dropped_by_the_probe(blobs: Population) -> None:
    engine = Engine(seed=3, settings=CPU, planner=Planner(always=True, short=0.0, share=1e9))
    train(blobs, engine, most=4)
    (plan,) = engine.plans
    assert {each.chunk for each in plan.measured} == {4, 1}
    assert plan.chunk in (4, 1)


def test_a_probe_that_fails_otherwise_fails(blobs: Population) -> None:
    engine = Engine(seed=3, settings=CPU, planner=Planner(always=True, short=0.0, share=1e9))
    with pytest.raises(RuntimeError, match="something else"):
        train(blobs, engine, most=4, error=RuntimeError("something else"))


def test_the_footprint_of_a_network_is_what_its_layers_take(pictures: Population) -> None:
    """Two linear layers and a tanh on batches of 10 in float32, counted by hand."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.Tanh(), nn.Linear(16, 3))

    def found(optimizer: object, precision: str = "32") -> Footprint:
        settings = replace(CPU, precision=precision)
        engine = Engine(seed=0, settings=settings)
        job = job_of(
            engine,
            make,
            pictures,
            [torch.arange(20), torch.arange(9)],
            Recipe(epochs=1, batches_per_epoch=2, optimizer=optimizer),
            role="shadow",
            models=None,
            validation_N=None,
            architecture=None,
            response_KN=None,
        )
        return Probe(job=job, settings=settings, device=HOST, clock=lambda: 0.0).one_model()[1]

    weights, batch = 72 * 16 + 16 + 16 * 3 + 3, 10 * 72
    hidden, logits = 10 * 16, 10 * 3
    plain = found(partial(torch.optim.SGD, lr=0.1))
    assert plain.parameters == 4 * weights
    assert plain.held == 4 * (2 * weights + batch)
    assert plain.made == 4 * (weights + batch)
    # Backward needs the input of each layer and the log probabilities; labels and weights of the loss are small.
    assert 4 * (hidden + logits) <= plain.activations <= 4 * (2 * hidden + 3 * logits) + 8 * 10 + 64
    adam = found(partial(torch.optim.Adam, lr=0.1))
    assert 0 <= adam.held - plain.held - 4 * 2 * weights <= 4 * 4 * 4  # and a counter of steps for each tensor
    double = found(partial(torch.optim.SGD, lr=0.1), precision="64")
    assert double.held == 2 * plain.held


def test_a_loop_holds_the_activations_of_one_model() -> None:
    footprint = Footprint(parameters=10, held=30, activations=100)
    assert footprint.bytes("stack", 4, 4) == 4 * 130
    assert footprint.bytes("stack", 3, 4) == 3 * 130 + 10
    assert footprint.bytes("loop", 4, 4) == 4 * 30 + 100
    assert footprint.bytes("loop", 1, 4) == footprint.bytes("stack", 1, 4) == 130 + 30


def test_recorded_steps_hold_what_a_step_makes_once_more() -> None:
    footprint = Footprint(parameters=10, held=30, activations=100, made=15)
    plain, graphed = (footprint.bytes("stack", 3, 4, cuda_graphs=each) for each in (False, True))
    assert graphed == plain + 3 * 15 + 3 * 100
    plain, graphed = (footprint.bytes("loop", 3, 4, cuda_graphs=each) for each in (False, True))
    assert graphed == plain + 3 * 15 + 100


@pytest.mark.usefixtures("global_generators")
def test_what_autograd_saves_is_counted_once_for_each_storage() -> None:
    x = torch.randn(10, requires_grad=True)
    with saved_tensors() as saved:
        y = x.exp()  # saves its result
        (y * y).sum()  # saves it again
    assert sum(saved.values()) == 40


def test_the_budget_is_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < memory_budget(HOST) < 2**46
    monkeypatch.setattr(memory, "free_on_host", lambda: 10_000)
    assert memory_budget(HOST) == 8000


def test_without_meminfo_half_of_what_there_is_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(self: Path, *_: object, **__: object) -> str:
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__)
    assert memory_budget(HOST) == int(0.8 * 4096 * 500)


@pytest.mark.slow
def test_the_peak_grows_with_what_is_held() -> None:
    before = peak_memory(HOST)["process"]
    held = torch.ones(before // 4 + 2**24)  # as many bytes again, and more
    assert peak_memory(HOST)["process"] > before + 2**24
    assert float(held[-1]) == 1.0


@pytest.mark.parametrize("kind", ERRORS)
def test_every_way_of_running_out_of_memory_is_known(kind: str) -> None:
    assert is_out_of_memory(ERRORS[kind])


def test_other_errors_are_not_taken_for_it() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


@pytest.mark.slow
def test_the_bar_of_a_role_ends_complete_when_chunks_become_more(blobs: Population) -> None:
    import io

    from rich.console import Console

    text = io.StringIO()
    with Stages(Console(file=text, width=120)) as stages:
        train(blobs, Engine(seed=3, settings=CPU, stages=stages), most=2)
    assert "15/15" in text.getvalue()  # five chunks of three epochs
