"""Networks with one output on two classes, as targets and as models that are trained, against plain PyTorch."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from given_setup import given_setup
from torch import Tensor, nn
from training_jobs import train_with

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.targets.existing import Existing
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

pytestmark = pytest.mark.usefixtures("global_generators")  # of networks that the tests make


class One(nn.Module):
    """One number a record."""

    def __init__(self, after: Callable[[Tensor], Tensor] = lambda z: z) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.layers(x))


def squeezed(z: Tensor) -> Tensor:
    return z.squeeze()


def sigmoid_squeezed(z: Tensor) -> Tensor:
    return torch.sigmoid(z).squeeze(-1)


class Squeezed(One):
    def __init__(self) -> None:
        super().__init__(squeezed)


class Sigmoid(One):
    def __init__(self) -> None:
        super().__init__(torch.sigmoid)


@pytest.fixture
def two(blobs: Population) -> Population:
    return replace(blobs, label_N=blobs.label_N % 2, class_names=("no", "yes"))


def test_the_one_output_of_a_target_is_the_logit_or_the_probability_of_the_second_class(two: Population) -> None:
    network = One()
    with torch.no_grad():
        logit_N = network(two.x_N).squeeze(1)
    expected_NC = torch.stack([nn.functional.logsigmoid(-logit_N), nn.functional.logsigmoid(logit_N)], -1)
    for after in (lambda z: z, squeezed, torch.sigmoid, sigmoid_squeezed):
        given = One(after)
        given.load_state_dict(network.state_dict())
        models = Existing(network=given).obtain(given_setup(two))
        torch.testing.assert_close(models.observe(two).log_probability_KANC[0, 0], expected_NC, rtol=1e-4, atol=1e-5)
        assert models.architecture.name == "One"


def test_a_checkpoint_of_a_model_with_one_output_is_read(two: Population, tmp_path: Path) -> None:
    network = One()
    torch.save(network.state_dict(), tmp_path / "one.pt")
    report = mia.audit(
        two,
        model=One,
        membership=mia.Given(member_N=range(40)),
        target=mia.Checkpoint(path=tmp_path / "one.pt"),
        shadow=mia.Real(count=2),
        attacks=[mia.Loss()],
        training=mia.Recipe(epochs=1),
        trainer=TrainerSettings(accelerator="cpu"),
    )
    with torch.no_grad():
        right_N = (network(two.x_N).squeeze(1) > 0) == two.label_N.bool()
    assert report.target.train_accuracy == pytest.approx(float(right_N[:40].double().mean()))


@pytest.mark.parametrize("execution", ["stack", "loop"])
@pytest.mark.parametrize("make", [One, Squeezed, lambda: nn.Linear(6, 1)], ids=["column", "squeezed", "linear"])
def test_a_stack_of_them_is_trained_by_binary_cross_entropy(
    make: Callable[[], nn.Module], execution: str, two: Population
) -> None:
    bound = bind_records(make, two)
    recipe = Recipe(epochs=3, batch_size=30, optimizer=partial(torch.optim.SGD, lr=0.1), execution=execution)
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu", precision="64"))
    trained = train_with(engine, bound, two, [torch.arange(30), torch.arange(30, 60)], recipe, role="shadow")
    for k, records in enumerate((slice(0, 30), slice(30, 60))):
        alone = make().double()
        alone.load_state_dict({name: value[0] for name, value in first(engine, bound, two, recipe, k).items()})
        optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(
                alone(two.x_N[records].double()).reshape(-1), two.label_N[records].double()
            ).backward()
            optimizer.step()
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(trained.stack.state_of(k)[name].squeeze(0).view_as(value), value)


def first(engine: Engine, bound: Callable[[], nn.Module], two: Population, recipe: Recipe, k: int) -> dict[str, Tensor]:
    """The weights of model k before training."""
    still = replace(recipe, epochs=1, optimizer=partial(torch.optim.SGD, lr=0.0))
    return dict(train_with(engine, bound, two, [torch.arange(30)], still, role="shadow", models=[k]).stack.state())


def test_a_model_with_one_probability_is_refused_as_any_that_gives_probabilities(two: Population) -> None:
    with pytest.raises(InputError, match="gives probabilities"):
        mia.audit(two, model=Sigmoid, shadow=mia.Real(count=2), membership=mia.Disjoint(train_size=20))


def test_one_output_for_three_classes_is_refused(blobs: Population) -> None:
    with pytest.raises(InputError, match=r"gives \[\d, 1\] for records"):
        mia.audit(blobs, model=One, shadow=mia.Real(count=2), membership=mia.Disjoint(train_size=20))
