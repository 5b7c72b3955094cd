"""Architectures against their known sizes, torchvision's, and themselves in a stack."""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torchvision
from quick import slow_but
from torch import nn
from training_jobs import train_with

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.cnn import CNN
from mia_lightning.models.logistic_regression import LogisticRegression
from mia_lightning.models.mlp import MLP
from mia_lightning.models.resnet import ResNet18
from mia_lightning.models.vit import SelfAttention, VisionTransformer
from mia_lightning.models.wide_resnet import WideResNet
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import inspect_architecture
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

SHAPE = (2, 8, 8)
SMALL: dict[str, Callable[[], nn.Module]] = {
    "logistic_regression": partial(LogisticRegression, SHAPE, 3),
    "relu_mlp": partial(MLP, SHAPE, 3, hidden=[16, 8], activation="relu"),
    "cnn": partial(CNN, SHAPE, 3, channels=[4], hidden=8),
    "resnet18": partial(ResNet18, SHAPE, 3, width=4),
    "wide_resnet": partial(WideResNet, SHAPE, 3, depth=10, widen=1, dropout=0.2),
    "vit": partial(VisionTransformer, SHAPE, 3, width=8, depth=2, heads=2, dropout=0.1),
}


@pytest.fixture(scope="module")
def images() -> Population:
    numbers = torch.Generator().manual_seed(0)
    x_N = torch.randn(48, *SHAPE, generator=numbers)
    return Population(name="images", x_N=x_N, label_N=torch.arange(48) % 3, class_names=("a", "b", "c"))


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def wide_resnet_parameters(depth: int, widen: int, num_classes: int) -> int:
    """By hand: 3 x 3 kernels and two normalisations a block, a 1 x 1 shortcut at the head of each group."""
    total, width = 3 * 16 * 9, 16
    for group in range(3):
        wider = 16 * 2**group * widen
        for block in range((depth - 4) // 6):
            total += 2 * width + 9 * width * wider + 2 * wider + 9 * wider * wider
            if block == 0 and (width != wider or group > 0):
                total += width * wider
            width = wider
    return total + 2 * width + width * num_classes + num_classes


@pytest.mark.usefixtures("global_generators")
def test_sizes_are_those_of_the_papers() -> None:
    assert count(ResNet18((3, 32, 32), 10)) == 11_173_962
    assert count(WideResNet((3, 32, 32), 10)) == wide_resnet_parameters(28, 2, 10) == 1_467_610
    assert count(LogisticRegression((3, 4, 4), 10)) == 490
    width, hidden, tokens = 128, 256, 64
    block = 4 * width + width * 3 * width + 3 * width + width * width + width
    block += width * hidden + hidden + hidden * width + width
    patches = 3 * 16 * width + width + tokens * width
    assert count(VisionTransformer((3, 32, 32), 10)) == 4 * block + patches + 2 * width + width * 10 + 10


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("records", [1, 5])
@pytest.mark.usefixtures("global_generators")
def test_logits_have_a_row_for_each_record(name: str, records: int) -> None:
    network = SMALL[name]().eval()
    assert network(torch.randn(records, *SHAPE)).shape == (records, 3)


@pytest.mark.usefixtures("global_generators")
def test_resnet_is_torchvisions_but_for_the_stem() -> None:
    torch.manual_seed(0)
    reference = torchvision.models.resnet18(num_classes=10)
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    own = ResNet18((3, 16, 16), 10)
    assert len(own.state_dict()) == len(reference.state_dict())
    own.load_state_dict(dict(zip(own.state_dict(), reference.state_dict().values(), strict=True)))
    x = torch.randn(4, 3, 16, 16)
    for mode in (True, False):
        torch.testing.assert_close(own.train(mode)(x), reference.train(mode)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("global_generators")
def test_attention_is_the_scaled_dot_product() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(12, 3)
    x = torch.randn(2, 5, 12)
    reference = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(attention.query_key_value.weight)
        reference.in_proj_bias.copy_(attention.query_key_value.bias)
        reference.out_proj.weight.copy_(attention.output.weight)
        reference.out_proj.bias.copy_(attention.output.bias)
    torch.testing.assert_close(attention(x), reference(x, x, x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.costly
@pytest.mark.parametrize("name", SMALL)
def test_vmap_takes_it_without_a_warning(name: str, images: Population) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inspect_architecture(SMALL[name], images).refusal is None


@pytest.mark.costly
@pytest.mark.parametrize("name", slow_but(["logistic_regression", "relu_mlp", "cnn", "vit"], SMALL))
def test_trained_in_a_stack_it_is_the_network_trained_alone(name: str, images: Population) -> None:
    recipe = Recipe(epochs=2, batch_size=8, optimizer=partial(torch.optim.SGD, lr=0.02, momentum=0.9))
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu", precision=64))
    records_K = [torch.arange(24), torch.arange(20, 44), torch.arange(12, 36)]
    stack = train_with(engine, SMALL[name], images, records_K, recipe, role="shadow")
    alone = train_with(engine, SMALL[name], images, records_K[1:2], recipe, role="shadow", models=[1])
    untrained = Stack.build(SMALL[name], [1], seed=0, role="shadow").state_of(0)
    trained = alone.stack.state_of(0)
    assert any(not torch.allclose(trained[key].float(), untrained[key].float()) for key in trained)
    for key, value in stack.stack.state_of(1).items():
        torch.testing.assert_close(value, trained[key], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (partial(ResNet18, (64,), 3), "model=resnet18 needs images"),
        (partial(ResNet18, (3, 8, 7), 3), "at least 8"),
        (partial(CNN, (64,), 3), r"model=cnn needs images .*; use model=mlp, or fewer `model.channels`"),
        (partial(ResNet18, SHAPE, 3, width=0), "`model.width` is 0"),
        (partial(MLP, SHAPE, 3, activation="rleu"), r"`model.activation` is 'rleu' \(did you mean `relu`\?\)"),
        (
            partial(MLP, SHAPE, 3, hiden=[3]),
            r"`model.hiden` is no setting \(.*`hidden`.*\); the settings are input_shape,",
        ),
        (partial(WideResNet, (64,), 3), "model=wide_resnet28_2 needs images"),
        (partial(WideResNet, SHAPE, 3, depth=27), "`model.depth` is 27"),
        (partial(WideResNet, SHAPE, 3, depth=4), "`model.depth` is 4"),
        (partial(VisionTransformer, (64,), 3), "model=vit needs images"),
        (partial(VisionTransformer, SHAPE, 3, patch_size=3), "`model.patch_size` is 3, which does not divide"),
        (partial(VisionTransformer, SHAPE, 3, width=10), "`model.heads` is 4, which does not divide"),
    ],
)
def test_settings_that_make_no_network_are_refused(make: Callable[[], nn.Module], part: str) -> None:
    with pytest.raises(InputError, match=part):
        make()


@pytest.mark.usefixtures("global_generators")
def test_numbers_of_numpy_are_numbers() -> None:
    network = MLP((np.int64(4),), np.int64(3), hidden=[np.int64(5)], dropout=np.float32(0.5))
    assert [tuple(each.shape) for each in network.parameters()] == [(5, 4), (5,), (3, 5), (3,)]
