"""Networks for texts: against slow loops, whatever padding there is, and in a stack."""

import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from training_jobs import train_with

from mia_lightning.datasets.form import Field, Form
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.text_cnn import TextCNN
from mia_lightning.models.text_transformer import TextTransformer
from mia_lightning.models.vit import SelfAttention
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import inspect_architecture
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

WORDS, TOKENS = 50, 12
SMALL: dict[str, Callable[..., nn.Module]] = {
    "text_cnn": partial(TextCNN, WORDS, 3, width=6, channels=5),
    "text_transformer": partial(TextTransformer, WORDS, 3, (64,), width=8, heads=2),
}


def texts(lengths: list[int], tokens: int, *, before: int = 0) -> Tensor:
    """Ids from 1, the same for the same place in a text, padded to `tokens`."""
    x_N = torch.zeros(len(lengths), tokens, dtype=torch.int64)
    for i, length in enumerate(lengths):
        drawn = torch.randint(1, WORDS, (TOKENS,), generator=torch.Generator().manual_seed(i))
        x_N[i, before : before + length] = drawn[:length]
    return x_N


@pytest.fixture(scope="module")
def population() -> Population:
    field = Field(kind="tokens", dtype=torch.uint8, shape=(TOKENS,), padding=0, sizes=(WORDS,))
    x_N = texts([1 + i % TOKENS for i in range(48)], TOKENS).to(torch.uint8)
    return Population(
        name="texts", x_N=x_N, label_N=torch.arange(48) % 3, class_names=("a", "b", "c"), form=Form.of([field])
    )


@pytest.fixture(params=SMALL)
def network(request: pytest.FixtureRequest, global_generators: None) -> nn.Module:
    torch.manual_seed(0)
    return SMALL[request.param]().eval()


def test_padding_changes_nothing_however_much_there_is(network: nn.Module) -> None:
    lengths = [TOKENS, 7, 2, 1]
    short, long = network(texts(lengths, 16)), network(texts(lengths, 64))
    torch.testing.assert_close(short, long, rtol=0, atol=1e-6)
    torch.testing.assert_close(network(texts(lengths, 64, before=9)), long, rtol=0, atol=1e-6)
    for i, length in enumerate(lengths):
        trimmed = network(texts(lengths, TOKENS)[i : i + 1, :length])
        torch.testing.assert_close(trimmed, long[i : i + 1], rtol=0, atol=1e-6)
    assert (short[0] - short[1]).abs().max() > 1e-3  # whereas other words change something


def test_the_values_of_the_padding_change_nothing(network: nn.Module) -> None:
    x_B = texts([5, 2], 16)
    before = network(x_B)
    with torch.no_grad():
        network.embedding.weight[0] += 1e6
    torch.testing.assert_close(network(x_B), before, rtol=0, atol=1e-6)


def test_a_record_of_padding_alone_has_numbers_for_logits_and_gradients(network: nn.Module) -> None:
    logits_BC = network.train()(texts([0, 3], 16))
    logits_BC.sum().backward()
    assert logits_BC.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.usefixtures("global_generators")
def test_without_a_padding_id_every_token_counts(name: str) -> None:
    torch.manual_seed(0)
    network = SMALL[name](padding_id=None).eval()
    assert (network(texts([5], 5)) - network(texts([5], 16))).abs().max() > 1e-6


@pytest.mark.usefixtures("global_generators")
@torch.no_grad()
def test_the_cnn_is_its_sum_over_windows() -> None:
    torch.manual_seed(0)
    network = SMALL["text_cnn"]().double().eval()
    x_B = texts([TOKENS, 4, 1], 16)
    for text, logits_C in zip(x_B, network(x_B), strict=True):
        words = [network.embedding.weight[t] for t in text.tolist() if t]
        largest = []
        for layer in network.convolutions:
            for weight, bias in zip(layer.weight, layer.bias, strict=True):  # weight: [width, tokens]
                sums = [
                    bias
                    + sum(weight[:, j] @ words[start + j] for j in range(weight.shape[1]) if start + j < len(words))
                    for start in range(len(words))
                ]
                largest.append(max(0.0, *map(float, sums)))
        expected = network.logits(torch.tensor(largest, dtype=torch.float64))
        torch.testing.assert_close(logits_C, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("global_generators")
def test_masked_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    attention, reference = SelfAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(attention.query_key_value.weight)
        reference.in_proj_bias.copy_(attention.query_key_value.bias)
        reference.out_proj.weight.copy_(attention.output.weight)
        reference.out_proj.bias.copy_(attention.output.bias)
    x = torch.randn(3, 5, 12)
    is_real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0]]).bool()
    expected = reference(x, x, x, key_padding_mask=~is_real)[0]
    bias = torch.where(is_real, 0.0, -1e30)[:, None, None]
    torch.testing.assert_close(attention(x, bias), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (partial(TextTransformer, WORDS, 3, (3, 8, 8)), r"model=text_transformer needs texts .* shape \(3, 8, 8\)"),
        (partial(TextTransformer, WORDS, 3, (8,), width=10), "`model.heads` is 4, which does not divide"),
        (partial(TextCNN, 0, 3), "`model.vocabulary_size` is 0"),
        (partial(TextCNN, WORDS, 3, kernel_sizes=[0]), "`model.kernel_sizes"),
    ],
)
@pytest.mark.usefixtures("global_generators")
def test_settings_that_make_no_network_are_refused(make: Callable[[], nn.Module], part: str) -> None:
    with pytest.raises(InputError, match=part):
        make()


@pytest.mark.parametrize("name", SMALL)
def test_vmap_takes_it_without_a_warning(name: str, population: Population) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inspect_architecture(SMALL[name], population).refusal is None


def trained(name: str, population: Population, models: list[int], **recipe: object) -> TrainedStack:
    optimizer = partial(torch.optim.Adam, lr=0.02)
    records_K = [torch.arange(24), torch.arange(20, 44), torch.arange(12, 35)]  # ragged: the last model has fewer
    return train_with(
        Engine(seed=0, settings=TrainerSettings(accelerator="cpu", precision=64)),
        SMALL[name],
        population,
        [records_K[k] for k in models],
        Recipe(**{"epochs": 2, "batch_size": 8, "optimizer": optimizer, **recipe}),
        role="shadow",
        models=models,
    )


@pytest.mark.costly
@pytest.mark.parametrize("execution", ["stack", "loop"])
@pytest.mark.parametrize("name", SMALL)
def test_trained_in_a_stack_it_is_the_network_trained_alone(name: str, execution: str, population: Population) -> None:
    """Dropout included."""
    together = trained(name, population, [0, 1, 2], execution=execution)
    assert together.execution == execution
    for k in range(3):
        alone = trained(name, population, [k]).stack.state_of(0)
        untrained = Stack.build(SMALL[name], [k], seed=0, role="shadow").state_of(0)
        assert not torch.allclose(alone["logits.weight"].float(), untrained["logits.weight"].float())
        for key, value in together.stack.state_of(k).items():
            torch.testing.assert_close(value, alone[key], rtol=1e-8, atol=1e-8)
