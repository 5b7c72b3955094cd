"""A fixed first layer is computed once for a record; the models are those of a layer computed at every step."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from training_jobs import job_of

from mia_lightning.datasets.population import Population
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import fit
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step import computed_once
from mia_lightning.training.step.computed_once import ComputedOnce
from mia_lightning.training.step.module import StackModule
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings, quiet_lightning

ADAM = partial(torch.optim.Adam, lr=0.01)
DOUBLE = TrainerSettings(accelerator="cpu", precision="64")


class Squares(nn.Module):
    """No number is what it was."""

    given: ClassVar[list[tuple[int, ...]]] = []

    def __init__(self, shift: float = 0.25) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(shift))

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(tuple(x.shape))
        return (x + self.shift).square()


class Network(nn.Sequential):
    computed_once = "0"

    def __init__(self, first: Callable[[], nn.Module] = Squares) -> None:
        super().__init__(first(), nn.Linear(6, 3))


class Mirrored(nn.Module):
    """`[B, F]` to `[B, F, 2]`, whose last axis is not the one that lies together in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x, -x], 1).transpose(1, 2)


class Repeated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1).expand(-1, -1, 3)


@pytest.fixture
def given() -> Iterator[list[tuple[int, ...]]]:
    """The shapes that `Squares` was given."""
    Squares.given.clear()
    yield Squares.given
    Squares.given.clear()


def of(make: Callable[[], nn.Module], population: Population) -> ComputedOnce | None:
    return ComputedOnce.of(Stack.build(make, range(3), seed=0, role="shadow").double(), population)


@pytest.mark.parametrize("first", [Squares, Mirrored, Repeated])
def test_it_is_what_the_layer_gives_in_the_same_layout(first: type[nn.Module], blobs: Population) -> None:
    once = of(partial(Network, first), blobs)
    assert once is not None
    layer, index_KB = first().double(), torch.tensor([[3, 5], [5, 119], [0, 3]])
    for _ in range(2):
        found = once(index_KB)
        for k, index_B in enumerate(index_KB):
            expected = layer(blobs.records(index_B, torch.float64))
            assert torch.equal(found[k], expected)
            if first is not Repeated:
                assert found[k].stride() == expected.stride()
        index_KB = index_KB.flip(0)


def fitted(recipe: Recipe, population: Population, records_K: list[Tensor], **others: object) -> StackModule:
    """A module that has trained networks on these records, in double precision."""
    engine = Engine(seed=0, settings=DOUBLE)
    job = job_of(engine, Network, population, records_K, recipe, role="shadow", **others)
    places = range(len(records_K))
    module = job.module(
        places,
        job.stack(places).double(),
        execution=recipe.execution,
        gradients=job.gradients(places),
        device=torch.device("cpu"),
    )
    Squares.given.clear()
    with quiet_lightning():
        fit(DOUBLE.make(epochs=recipe.epochs), module)
    return module


@pytest.mark.costly
@pytest.mark.parametrize("execution", ["stack", "loop"])
def test_training_computes_it_once_and_changes_no_model(
    execution: str, blobs: Population, given: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(epochs=3, batch_size=8, optimizer=ADAM, execution=execution, early_stopping={"patience": 5})
    records_K = [torch.arange(k, k + 30) for k in range(3)]
    train = partial(fitted, recipe, blobs, records_K, validation_N=torch.arange(100, 110))
    kept = train()
    assert isinstance(kept.computed_once, ComputedOnce)
    assert given.count((1, 6)) == 1 + 32  # for the size of an output, and for each record of some model
    assert {shape for shape in given if shape != (1, 6)} == {(10, 6)}  # validation asks the whole network
    monkeypatch.setattr(computed_once, "MOST_BYTES", 0)
    plain = train()
    assert plain.computed_once is None
    assert {(7, 6), (8, 6)} <= set(given)
    for name, tensor in plain.stack.state_dict().items():
        torch.testing.assert_close(kept.stack.state_dict()[name], tensor, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(kept.validation_loss_EK, plain.validation_loss_EK, rtol=1e-10, atol=1e-12)


def test_a_layer_that_differs_between_models_or_is_trained_is_computed_at_every_step(blobs: Population) -> None:
    shifts = iter([0.0, 0.0, 1.0])
    assert of(lambda: Network(lambda: Squares(next(shifts))), blobs) is None
    assert of(partial(Network, partial(nn.Linear, 6, 6)), blobs) is None
    assert of(lambda: nn.Sequential(Squares(), nn.Linear(6, 3)), blobs) is None  # does not say that it has one


def test_a_rule_of_gradients_is_given_the_records_themselves(blobs: Population) -> None:
    recipe = Recipe(epochs=1, batch_size=8, optimizer=ADAM, execution="stack")
    private = DPSGD(clip_norm=1.0, noise_multiplier=1.0).adapt(recipe)
    assert fitted(private, blobs, [torch.arange(30)]).computed_once is None
