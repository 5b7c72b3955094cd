"""A step of a stack on an accelerator waits for nothing and mixes no devices, and computes what it does on the host."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from far_device import FAR, MEANT, MEANT_OF_ANSWERS, MEANT_OF_HOST, FarDevice, RefusedError, numbers_of
from quick import slow_but
from ragged_jobs import CONVOLUTIONS, HOST, Case, usual_cases
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from mia_lightning.datasets.augmentation import Crop, Cutout, Flip
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.mixup import _beta_quantiles
from mia_lightning.defenses.relaxloss import RelaxLoss
from mia_lightning.models.vit import VisionTransformer
from mia_lightning.terminal.display import Hidden, Row
from mia_lightning.terminal.progress import EpochBar
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.plan.room import Room
from mia_lightning.training.step import compiled, gathered
from mia_lightning.training.step.compiled import Compiler, Program, Work
from mia_lightning.training.step.graphs import RECORDERS
from mia_lightning.training.step.module import StackModule
from mia_lightning.training.step.recipe import EarlyStopping, Recipe
from mia_lightning.training.trained import TrainedStack

ADAM = partial(torch.optim.Adam, lr=0.01, fused=False, foreach=False)
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, fused=False, foreach=False)
RECIPE = Recipe(epochs=2, batches_per_epoch=3, optimizer=ADAM)
# Under Adam a bias before a normalisation, whose gradient is rounding alone, would go one way or the other.
NORMALISED = replace(RECIPE, optimizer=SGD)


def train(
    job: TrainingJob,
    execution: str,
    device: torch.device,
    mode: FarDevice | None = None,
    within: Callable[[], AbstractContextManager[object]] = nullcontext,
    **switched_on: Any,
) -> StackModule:
    """All epochs without a Trainer, which takes no such device; strictly from the first step to the last."""
    places = range(job.num_models)
    population = job.population.near(device)
    job = replace(job, population=population)
    stack = job.stack(places)
    gradients = job.gradients(places)
    module = job.module(places, stack, execution=execution, gradients=gradients, device=device, **switched_on)
    module.to(device)
    module.on_fit_start()
    made = module.configure_optimizers()
    (optimizer,), (scheduler,) = made if isinstance(made, tuple) else ([made], [None])
    _without_trainer(module, optimizer, scheduler)
    loader, held_out = module.train_dataloader(), module.val_dataloader()
    # Every epoch is looked at, as if a quarter of a second had gone by.
    bar = EpochBar(Row(name="shadow", begun=0.0), Hidden(), now=iter(range(10**6)).__next__).for_trainer()
    module.train()
    module.on_train_start()
    strictly = mode.strictly if mode is not None else torch.enable_grad
    with strictly():
        for epoch in range(job.recipe.epochs):
            module.trainer.current_epoch = epoch
            loader.sampler.set_epoch(epoch)
            module.on_train_epoch_start()
            for place, batch in enumerate(loader):
                bar.on_train_batch_start(module.trainer, module, batch, place)
                with within():
                    module.training_step(batch, place)
            if held_out:
                module.on_validation_epoch_start()
                with torch.no_grad():
                    for place, index_B in enumerate(held_out):
                        module.validation_step(index_B, place)
                module.on_validation_epoch_end()
            module.on_train_epoch_end()
            bar.on_train_epoch_end(module.trainer, module)
        module.on_train_end()
    return module


def _without_trainer(module: StackModule, optimizer: Any, scheduler: Any) -> None:
    module.trainer = SimpleNamespace(current_epoch=0, max_epochs=99, should_stop=False)  # type: ignore[assignment]
    instead = {
        "optimizers": lambda use_pl_optimizer=True: optimizer,
        "lr_schedulers": lambda: scheduler,
        "manual_backward": lambda loss: loss.backward(),
        "log": lambda *_: None,
    }
    for name, function in instead.items():
        object.__setattr__(module, name, function)


def numbers_in(module: StackModule) -> dict[str, Tensor]:
    return {path: numbers_of(tensor) for path, tensor in module.stack.state_dict().items()}


class Named(nn.Module):
    """A layer with a buffer that each model of the stack holds for itself, as attack networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("scale", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x * self.scale)
        return logits


USUAL = usual_cases(RECIPE)
CASES: dict[str, Case] = {
    **{name: USUAL[name] for name in ("dense", "dropout", "mixed", "weighted")},
    "convolutions": Case(make=CONVOLUTIONS, of_pictures=True, recipe=NORMALISED),
    "vision transformer": Case(
        make=partial(VisionTransformer, patch_size=3, width=8, depth=1, heads=2),
        of_pictures=True,
        recipe=replace(RECIPE, epochs=1),
    ),
    "buffers of their own": Case(
        make=Named, recipe=RECIPE, others={"buffers": {"scale": torch.linspace(0.5, 2.0, 18).view(3, 6)}}
    ),
    "augmented": Case(
        make=CONVOLUTIONS,
        of_pictures=True,
        recipe=replace(
            NORMALISED, augment=[Crop(padding=1, fill=[0.5, -1.0]), Crop(padding=1, fill=0.25), Flip(), Cutout(size=2)]
        ),
    ),
    "relaxed": Case(recipe=RelaxLoss(alpha=0.5).adapt(RECIPE)),
    "private": Case(recipe=DPSGD(noise_multiplier=1.0, clip_norm=1.0).adapt(RECIPE)),
    "clipped and accumulated": Case(
        recipe=replace(RECIPE, optimizer=SGD, gradient_clip_norm=0.1, accumulate_batches=2)
    ),
    "on a schedule": Case(
        recipe=replace(
            RECIPE, scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=2), scheduler_interval="step"
        )
    ),
    "stopped early": Case(
        recipe=replace(RECIPE, epochs=4, early_stopping=EarlyStopping(patience=1, min_delta=0.05)),
        others={"validation_N": torch.arange(50, 60)},
    ),
}


EACH = [(name, execution) for name in CASES for execution in ("stack", "loop")]


@pytest.mark.costly
@pytest.mark.parametrize(("name", "execution"), slow_but([("dense", "stack"), ("buffers of their own", "loop")], EACH))
def test_the_steps_wait_for_nothing_and_compute_what_they_do_on_the_host(
    name: str, execution: str, blobs: Population, pictures: Population
) -> None:
    case = CASES[name]
    here = train(case.job(blobs, pictures), execution, HOST)
    with FarDevice() as far:
        there = train(case.job(blobs, pictures), execution, FAR, far)
        assert there.stack.device == FAR
        found = numbers_in(there)
        losses = [numbers_of(loss_K) for loss_K in there.train_loss_EK]
    assert far.refused == []
    torch.testing.assert_close(found, dict(here.stack.state_dict()), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses, here.train_loss_EK, rtol=1e-4, atol=1e-5, equal_nan=True)


class Repeats:
    """A recorder that takes each step anew."""

    def __init__(self, device: torch.device) -> None:
        self.beside = nullcontext

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        return work


@pytest.mark.parametrize("name", slow_but(["on a schedule"], ["on a schedule", "dropout", "augmented", "mixed"]))
def test_what_recorded_steps_are_given_waits_for_nothing(
    name: str, blobs: Population, pictures: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECORDERS, FAR.type, Repeats)
    monkeypatch.setattr("mia_lightning.training.step.module.count_step", lambda trainer: None)
    job = CASES[name].job(blobs, pictures)
    job = replace(job, recipe=replace(job.recipe, epochs=5))
    here = train(job, "stack", HOST)
    with FarDevice() as far:
        there = train(job, "stack", FAR, far, cuda_graphs=True)
        found = numbers_in(there)
    assert far.refused == []
    assert there.graphed is not None
    assert there.graphed.num_recorded
    torch.testing.assert_close(found, dict(here.stack.state_dict()), rtol=1e-4, atol=1e-5)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """Of the far device. What it compiles is written down on tensors of `meta` without numbers and run as it is."""
    made = compiled._compiled

    def on_shapes(work: Work, given: Sequence[Tensor]) -> Program:
        with _disable_current_modes():
            return made(work, [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=FAR) for t in given])

    monkeypatch.setattr(compiled, "_compiled", on_shapes)
    monkeypatch.setattr(compiled, "BACKEND", lambda graph, given: graph)
    # Of autocast torch knows nothing there, and refuses to be asked.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.float32)
    monkeypatch.setattr(torch, "autocast", lambda device, **given: nullcontext())
    return Compiler()


@pytest.mark.parametrize(
    ("name", "execution"),
    [("dropout", "stack"), *((name, "loop") for name in ("convolutions", "clipped and accumulated", "stopped early"))],
)
@pytest.mark.slow
def test_compiled_steps_wait_for_nothing_and_compute_what_they_do_on_the_host(
    name: str, execution: str, blobs: Population, pictures: Population, compiler: Compiler
) -> None:
    case = CASES[name]
    here = train(case.job(blobs, pictures), execution, HOST)
    with FarDevice() as far:
        there = train(case.job(blobs, pictures), execution, FAR, far, compiler=compiler)
        found = numbers_in(there)
    assert (far.refused, compiler.failure) == ([], None)
    assert compiler.num_programs > 1
    torch.testing.assert_close(found, dict(here.stack.state_dict()), rtol=1e-4, atol=1e-5)


class _InMode(ThreadPoolExecutor):
    """What a thread does is in the mode of the far device, too."""

    mode: FarDevice

    def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        def within() -> Any:
            with self.mode.twin():
                return call(*args, **kwargs)

        return super().submit(within)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convolutions", "augmented", "stopped early"])
def test_records_that_stay_on_the_host_come_one_batch_ahead(
    name: str, blobs: Population, pictures: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    here = train(case.job(blobs, pictures), "stack", HOST)
    with FarDevice({**MEANT, **MEANT_OF_HOST}) as far:
        monkeypatch.setattr(_InMode, "mode", far, raising=False)
        monkeypatch.setattr(gathered, "ThreadPoolExecutor", _InMode)
        job = case.job(replace(blobs, device_bytes=0), replace(pictures, device_bytes=0))
        there = train(job, "stack", FAR, far)
        found = numbers_in(there)
        assert there.population.device == HOST
    assert far.refused == []
    torch.testing.assert_close(found, dict(here.stack.state_dict()), rtol=1e-4, atol=1e-5)


class OnHost(Room):
    """As where an accelerator has no room for the answers."""

    def empty(self, shape: Any, *, dtype: torch.dtype = torch.float32, device: Any = "cpu") -> Tensor:
        return super().empty(shape, dtype=dtype, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("are_near", [True, False], ids=["records there", "records on the host"])
@pytest.mark.parametrize("room", [Room(), OnHost()], ids=["answers there", "answers on the host"])
@pytest.mark.parametrize("execution", ["stack", "loop"])
@pytest.mark.parametrize("wanted", ["all", "alike", "each"])
def test_observing_reads_nothing_back_but_answers_that_the_host_is_to_hold(
    wanted: str, execution: str, room: Room, are_near: bool, blobs: Population, pictures: Population
) -> None:
    job = CASES["dense"].job(blobs, pictures)
    masks = {"all": None, "alike": torch.arange(120) % 3 > 0, "each": torch.arange(120) % 5 > torch.arange(3)[:, None]}

    def observed(device: torch.device, population: Population, room: Room) -> Tensor:
        trained = TrainedStack(
            stack=job.stack(range(3)).to(device),
            architecture=job.architecture,
            execution=execution,
            failed_epoch_K=torch.full((3,), -1),
            stopped_epoch_K=torch.full((3,), -1),
            train_loss_EK=torch.zeros(1, 3),
            validation_loss_EK=None,
        )
        population = population.near(device)
        with far.strictly():
            return trained.observe(population, room=room, wanted=masks[wanted]).log_probability_KANC

    meant = {**MEANT_OF_ANSWERS, **({} if are_near else MEANT_OF_HOST)}
    with FarDevice(meant) as far:
        expected = observed(HOST, blobs, Room())
        found = observed(FAR, blobs if are_near else replace(blobs, device_bytes=0), room)
        assert found.device == (HOST if isinstance(room, OnHost) else FAR)
        found = numbers_of(found)
    assert far.refused == []
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


READS = {
    "a number": lambda x_N: float(x_N.sum()),
    "a decision": lambda x_N: bool((x_N > 0).any()),
    "places": lambda x_N: (x_N > 0).nonzero(),
    "a mask": lambda x_N: x_N[x_N > 0],
    "a copy to the host": lambda x_N: x_N.cpu(),
    "a list": lambda x_N: x_N.tolist(),
    "a copy from the host": lambda x_N: torch.ones(3).to(FAR),
    "numbers of Python": lambda x_N: torch.tensor([1.0, 2.0], device=x_N.device),
    "equality": lambda x_N: torch.equal(x_N, x_N),
}
MIXES = {
    "a product": lambda x_N: x_N @ torch.ones(3),
    "a sum": lambda x_N: x_N + torch.ones(3),
    "places on the host": lambda x_N: x_N[torch.tensor([0, 2])],
    "a loss": lambda x_N: nn.functional.cross_entropy(x_N[None], torch.tensor([1])),
    "a convolution": lambda x_N: nn.functional.conv1d(x_N[None, None], torch.ones(1, 1, 1)),
    "in place": lambda x_N: x_N.mul_(torch.ones(3)),
}


@pytest.mark.parametrize("name", [*READS, *MIXES])
def test_the_device_of_these_tests_refuses_what_an_accelerator_would_wait_for_or_could_not_do(name: str) -> None:
    with FarDevice() as far:
        x_N = torch.tensor([-1.0, 2.0, 3.0]).to(FAR)
        if name in READS:
            READS[name](x_N)  # before a training and after it
        with far.strictly(), pytest.raises(RefusedError):
            {**READS, **MIXES}[name](x_N)
        with far.strictly():
            assert (x_N * torch.tensor(2.0)).device == FAR  # a single number goes with the call
    assert len(far.refused) == 1


@pytest.mark.slow
def test_what_is_meant_to_be_read_is_named_and_is_read(blobs: Population, pictures: Population) -> None:
    """A name that nothing bears any more would exempt the next function of that name."""
    seen: set[str] = set()
    _beta_quantiles.cache_clear()
    for name in ("stopped early", "private", "mixed"):
        with FarDevice() as far:
            train(CASES[name].job(blobs, pictures), "stack", FAR, far)
        seen |= set(far.seen)
    assert seen == set(MEANT)


_aten = torch.ops.aten
PRODUCTS = (_aten.mm, _aten.bmm, _aten.addmm, _aten.baddbmm, _aten.convolution)


class Types(TorchDispatchMode):
    """Writes down the types of what products take."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in PRODUCTS:
            self.seen |= {each.dtype for each in args if isinstance(each, Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "execution"),
    slow_but(
        [("dense", "stack")],
        # Not the stack of convolutions: on a CPU autocast knows none of those that vmap makes.
        [("dense", "stack"), ("dense", "loop"), ("convolutions", "loop"), ("private", "stack"), ("private", "loop")],
    ),
)
def test_under_autocast_products_are_in_bf16_and_what_is_kept_is_not(
    name: str, execution: str, blobs: Population, pictures: Population
) -> None:
    """On the host: the far device knows no autocast."""
    types: dict[bool, set[torch.dtype]] = {}
    for enabled in (True, False):
        seen = Types()

        @contextmanager
        def within(enabled: bool = enabled, seen: Types = seen) -> Iterator[None]:
            with seen, torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                yield

        module = train(CASES[name].job(blobs, pictures), execution, HOST, within=within)
        types[enabled] = seen.seen
    assert types == {True: {torch.bfloat16}, False: {torch.float32}}
    assert {p.dtype for p in module.stack.parameters()} == {torch.float32}
    assert {loss_K.dtype for loss_K in module.train_loss_EK} == {torch.float64}
