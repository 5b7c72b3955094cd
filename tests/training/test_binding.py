"""Networks for images on records that are flattened images: the digits, without a word about their shape."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn
from training_jobs import train_with

from mia_lightning.command.configuration import content_of
from mia_lightning.command.mistakes import config_directory
from mia_lightning.datasets.digits import load_digits
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP
from mia_lightning.models.vit import VisionTransformer
from mia_lightning.seeds import isolated
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes, inspect_architecture
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

pytestmark = pytest.mark.usefixtures("global_generators")  # of networks that the tests make

SMALL_CNN = partial(CNN, channels=[4], hidden=8)
SMALL_VIT = partial(VisionTransformer, width=8, depth=1, heads=2)


@pytest.fixture(scope="module")
def digits() -> Population:
    return load_digits().part(slice(0, 120))


def as_images(population: Population) -> Population:
    assert population.image_shape is not None
    return replace(population, x_N=population.x_N.view(-1, *population.image_shape), image_shape=None)


@pytest.mark.costly
@pytest.mark.parametrize(
    "name", ["cnn", "vit", "resnet18", "wide_resnet28_2", "mlp", "relu_mlp", "logistic_regression"]
)
def test_every_architecture_takes_the_default_data_set(name: str, digits: Population) -> None:
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = compose("config", overrides=[f"model={name}", "logger=none"])
    make = instantiate(content_of(config)["model"], _partial_=True)
    bound = bind_records(make, digits)
    images = digits.records(torch.arange(3))
    with isolated(0, "a network"):
        network = bound().eval()
    with isolated(0, "a network"):
        alone = bind_shapes(make, (1, 8, 8), 10)().eval()
    assert type(network) is type(alone)
    assert list(network.state_dict()) == list(alone.state_dict())
    assert torch.equal(network(images), alone(images.view(3, 1, 8, 8)))


@pytest.mark.costly
@pytest.mark.parametrize("execution", ["stack", "loop"])
@pytest.mark.parametrize("make", [SMALL_CNN, SMALL_VIT], ids=["cnn", "vit"])
def test_stacks_on_flattened_images_are_those_on_images(
    make: Callable[..., nn.Module], execution: str, digits: Population
) -> None:
    recipe = Recipe(epochs=2, batch_size=16, optimizer=partial(torch.optim.SGD, lr=0.1), execution=execution)
    records_K = [torch.arange(40), torch.arange(30, 70)]
    found: list[Tensor] = []
    for population in (digits, as_images(digits)):
        engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu"))
        trained = train_with(engine, bind_records(make, population), population, records_K, recipe, role="shadow")
        found.append(trained.observe(population).log_probability_KANC)
    assert torch.equal(found[0], found[1])


def test_a_network_that_takes_flat_records_is_left_as_it_is(digits: Population) -> None:
    """Also where it would take images, too: so stored models of the default data set keep their identity."""
    make = partial(MLP, hidden=[8])
    for bound in (bind_records(make, digits), bind_shapes(make, (64,), 10)):
        assert isinstance(bound, partial)
        assert bound.func is MLP
        assert bound.keywords == {"hidden": [8], "input_shape": (64,), "num_classes": 10}
        assert not bound()._forward_pre_hooks


class Mine(nn.Module):
    """A network of somebody else, for images of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3)
        self.logits = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.convolution(x).mean((2, 3)))
        return logits


def test_a_network_of_somebody_else_is_asked_and_not_its_class(digits: Population) -> None:
    architecture = inspect_architecture(bind_records(Mine, digits), digits)
    assert architecture.refusal is None
    flat = bind_records(partial(nn.Linear, 64, 10), digits)
    assert flat()(digits.records(torch.arange(2))).shape == (2, 10)


def test_what_runs_on_neither_is_refused_as_on_flat_records(digits: Population) -> None:
    plain = replace(digits, image_shape=None)
    deep = partial(CNN, channels=[4, 4, 4, 4])  # for sides of at least 16
    sentences = []
    for population in (digits, plain):
        with pytest.raises(InputError, match="model=cnn needs images") as caught:
            inspect_architecture(bind_records(deep, population), population)
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]


@pytest.mark.parametrize("image_shape", [(1, 8, 9), (8, 1, 7)])
def test_a_shape_of_other_images_is_refused(image_shape: tuple[int, int, int], digits: Population) -> None:
    with pytest.raises(InputError, match=re.escape(f"image_shape of population 'digits' is {list(image_shape)}")):
        replace(digits, image_shape=image_shape)
    with pytest.raises(InputError, match=r"image_shape .* a record has shape \[1, 8, 8\]"):
        replace(as_images(digits), image_shape=(1, 8, 8))


def test_what_is_bound_already_stays_bound(digits: Population) -> None:
    made = []

    def make(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        made.append((input_shape, num_classes))
        return nn.Linear(64, num_classes)

    bind_shapes(partial(partial(make, num_classes=7)), (64,), 10)()
    bind_shapes(make, (64,), 10)()
    assert made == [((64,), 7), ((64,), 10)]
