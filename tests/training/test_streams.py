"""Models of a loop in several streams: each step waits where it must, and no model touches what another one makes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from quick import slow_but
from ragged_jobs import CONVOLUTIONS, CPU, equal, ragged_job
from recorded_graphs import Recorded
from recorded_graphs import recorded as recorded
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mia_lightning.datasets.population import Population
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.mixup import Mixup
from mia_lightning.models.mlp import MLP
from mia_lightning.training.engine import Engine
from mia_lightning.training.plan.execution import Candidate, plan_from_json
from mia_lightning.training.plan.memory import MODELS_IN_STREAMS, Footprint
from mia_lightning.training.plan.planner import Planner
from mia_lightning.training.stack.looped import LoopedGradients
from mia_lightning.training.step import streams
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.step.streams import OfCuda
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

RECIPE = Recipe(
    epochs=3,
    batches_per_epoch=2,
    optimizer=partial(torch.optim.Adam, lr=2**-7),
    execution="loop",
    streams=True,
    threads=1,
)
NUM_MODELS = 6


class Touched(TorchDispatchMode):
    """Refuses operations on memory that another model of the same step has written, or writes."""

    def __init__(self) -> None:
        super().__init__()
        self.model: int | None = None
        self._places: list[tuple[int, int, int | None, bool]] = []  # first and last byte, model, whether it was written
        self._held: list[Tensor] = []  # so that no memory comes twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_view = func.is_view
        if not is_view:
            written = [
                given
                for argument, given in zip(func._schema.arguments, args, strict=False)
                if argument.alias_info is not None and argument.alias_info.is_write
            ]
            self._note(written, is_written=True)
            self._note([args, kwargs], is_written=False)
        out = func(*args, **(kwargs or {}))
        if not is_view:
            self._note(out, is_written=True)
        return out

    def _note(self, given: Any, *, is_written: bool) -> None:
        for each in tree_flatten(given)[0]:
            if not isinstance(each, Tensor) or not each.numel():
                continue
            self._held.append(each)
            first = each.data_ptr()
            last = first + each.element_size() * sum(
                (size - 1) * step for size, step in zip(each.shape, each.stride(), strict=True)
            )
            for other_first, other_last, model, was_written in self._places:
                if first <= other_last and other_first <= last and model != self.model and (is_written or was_written):
                    raise AssertionError(f"model {self.model} touches what model {model} does")
            self._places.append((first, last, self.model, is_written))


@dataclass(eq=False)
class Watched:
    """The `Streams` of a CPU, which write down what is asked of them.

    Attributes:
        calls: in order.
        watches: whether operations are looked at, too.
    """

    calls: list[str] = field(default_factory=list)
    watches: bool = True
    _touched: Touched | None = None

    @contextmanager
    def forked(self) -> Iterator[None]:
        self.calls.append("fork")
        self._touched = Touched()
        with self._touched if self.watches else nullcontext():
            yield
        self.calls.append("join")

    @contextmanager
    def beside(self, k: int) -> Iterator[None]:
        assert self._touched is not None
        self.calls.append(f"model {k}")
        self._touched.model = k
        yield
        self._touched.model = None


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """The streams of all trainings on the CPU."""
    found = Watched()
    monkeypatch.setitem(streams.STREAMS, "cpu", lambda device: found)
    return found


class Counted(torch.optim.Adam):
    """Tells of its steps."""

    calls: list[str]

    def step(self, closure: Any = None) -> Any:
        self.calls.append("optimiser")
        return super().step(closure)


def trained(
    population: Population, make: Callable[..., nn.Module], recipe: Recipe, settings: TrainerSettings = CPU
) -> tuple[TrainedStack, Any]:
    engine = Engine(seed=0, settings=settings)
    found = engine.run(ragged_job(population, make, recipe, num_models=NUM_MODELS))
    (plan,) = engine.plans
    return found, plan


DENSE = partial(MLP, hidden=[5], dropout=0.3)
CASES = {
    "dense": (DENSE, RECIPE, "32"),
    "bf16": (DENSE, RECIPE, "bf16"),
    "accumulated": (DENSE, replace(RECIPE, accumulate_batches=2, gradient_clip_norm=0.1), "32"),
    "mixed": (DENSE, Mixup(alpha=0.5).adapt(RECIPE), "32"),
    "convolutions": (CONVOLUTIONS, RECIPE, "32"),
}


@pytest.mark.parametrize("name", slow_but(["dense"], list(CASES)))
def test_no_model_touches_what_another_makes_and_results_are_the_same_to_the_bit(
    name: str, blobs: Population, pictures: Population, watched: Watched
) -> None:
    make, recipe, precision = CASES[name]
    population = pictures if name == "convolutions" else blobs
    settings = replace(CPU, precision=precision)
    plain, _ = trained(population, make, replace(recipe, streams=False), settings)
    assert watched.calls == []
    found, plan = trained(population, make, recipe, settings)
    assert plan.streams
    assert "several streams" in plan.sentence
    equal(found, plain)


def test_a_step_forks_before_its_first_model_and_joins_before_the_optimiser(
    blobs: Population, watched: Watched
) -> None:
    Counted.calls = watched.calls
    trained(blobs, DENSE, replace(RECIPE, optimizer=partial(Counted, lr=2**-7)))
    step = ["fork", *(f"model {k}" for k in range(NUM_MODELS)), "join", "optimiser"]
    assert watched.calls[watched.calls.index("fork") :] == step * 6  # an optimiser is tried before


def test_a_model_that_reads_what_another_makes_is_seen(blobs: Population, watched: Watched) -> None:
    stack = ragged_job(blobs, partial(MLP, hidden=[5]), RECIPE).stack([0, 1])
    gradients = LoopedGradients(stack)
    gradients.streams = watched
    kept: list[Tensor] = []

    def loss_of(k: int, state: Any) -> tuple[Tensor, Tensor]:
        kept.append(stack.call_one(state, blobs.x_N[:4]).square().mean())
        return kept[-1], kept[0] + 1

    with pytest.raises(AssertionError, match="model 1 touches what model 0 does"):
        gradients(loss_of)


def test_graphs_record_the_streams_of_a_step(blobs: Population, watched: Watched, recorded: Recorded) -> None:
    watched.watches = False  # the recording looks at operations itself
    recipe = replace(RECIPE, epochs=8, cuda_graphs=True)
    plain, _ = trained(blobs, DENSE, replace(recipe, streams=False, cuda_graphs=False))
    found, plan = trained(blobs, DENSE, recipe)
    assert (plan.streams, plan.cuda_graphs) == (True, True)
    assert "again" in recorded.calls
    assert watched.calls.count("fork") == watched.calls.count("join") < 8 * 2
    equal(found, plain)


class Stream:
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def wait_stream(self, other: "Stream") -> None:
        self.calls.append(f"{self.name} waits for {other.name}")


@pytest.mark.parametrize("fails", [False, True])
def test_streams_of_cuda_wait_for_what_comes_before_and_are_waited_for(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    names = iter("abcd")

    def within(stream: Stream) -> AbstractContextManager[object]:
        calls.append(f"in {stream.name}")
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(next(names), calls))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("usual", calls))
    monkeypatch.setattr(torch.cuda, "stream", within)
    found = OfCuda(torch.device("cuda:0"))
    with pytest.raises(MemoryError) if fails else nullcontext(), found.forked():
        for k in range(5):
            with found.beside(k):
                pass
        if fails:
            raise MemoryError
    before = [f"{name} waits for usual" for name in "abcd"]
    after = [f"usual waits for {name}" for name in "abcd"]
    assert calls == [*before, *(f"in {name}" for name in "abcda"), *after]


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        (replace(RECIPE, streams=False), None),
        (DPSGD(noise_multiplier=1.0, clip_norm=1.0).adapt(RECIPE), "a defence makes the gradients"),
    ],
)
def test_steps_without_models_of_their_own_take_one_stream(
    recipe: Recipe, why: str | None, blobs: Population, watched: Watched
) -> None:
    _, plan = trained(blobs, partial(MLP, hidden=[5]), recipe)
    assert watched.calls == []
    assert not plan.streams
    assert ("without several streams" in plan.reason) is (why is not None)
    assert why is None or why in plan.reason


def test_a_cpu_has_one_stream(blobs: Population) -> None:
    _, plan = trained(blobs, DENSE, RECIPE)
    assert not plan.streams
    assert "without several streams, since the device is cpu" in plan.reason


def test_a_stack_has_one_stream() -> None:
    assert not Candidate(execution="stack", chunk=1, streams=True).streams


def test_models_that_are_stepped_at_the_same_time_hold_their_activations_at_the_same_time() -> None:
    footprint = Footprint(parameters=10, held=30, activations=100, made=15)
    for chunk in (1, 3, 9):
        plain, beside = (footprint.bytes("loop", chunk, 9, streams=each) for each in (False, True))
        assert beside == plain + (min(chunk, MODELS_IN_STREAMS) - 1) * 100
        assert footprint.bytes("stack", chunk, 9, streams=True) == footprint.bytes("stack", chunk, 9)


def test_streams_are_not_tried_where_their_memory_is_not_there(blobs: Population, watched: Watched) -> None:
    watched.watches = False
    found = {}
    for is_there in (False, True):
        planner = Planner(always=True, short=0.0, share=1e6, budget=lambda device, is_there=is_there: is_there * 2**40)
        engine = Engine(seed=0, settings=CPU, planner=planner)
        recipe = replace(RECIPE, streams="auto", chunk=4)
        plan = engine.plan(ragged_job(blobs, DENSE, recipe, num_models=NUM_MODELS))
        found[is_there] = {row.streams for row in plan.measured}
        assert plan_from_json(asdict(plan)) == plan
    assert found == {False: {False}, True: {False, True}}
