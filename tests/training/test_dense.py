"""A chain of dense layers gives a whole stack what each of its networks gives."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mia_lightning.models.mlp import MLP
from mia_lightning.training.stack.dense import DenseLayers
from mia_lightning.training.stack.stack import Stack

MakeNetwork = Callable[[], nn.Module]


def tied() -> nn.Module:
    chain = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6), nn.Linear(6, 3))
    chain[2].weight = chain[0].weight
    return chain


def frozen() -> nn.Module:
    chain = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    chain[0].requires_grad_(False)
    return chain


CHAINS: dict[str, tuple[tuple[int, ...], MakeNetwork]] = {
    "mlp": ((6,), partial(MLP, (6,), 3, hidden=[8, 5])),
    "mlp of pictures": ((2, 3, 4), partial(MLP, (2, 3, 4), 3, hidden=[8], activation="relu")),
    "sequences within": (
        (6,),
        lambda: nn.Sequential(nn.Sequential(nn.Linear(6, 4, bias=False), nn.Flatten(), nn.SiLU()), nn.Linear(4, 3)),
    ),
    "in place": ((6,), lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))),
    "tied": ((6,), tied),
    "frozen": ((6,), frozen),
}


def batch_of(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(4, 7, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_vmap(stack: Stack, x: Tensor) -> Tensor:
    def one(state: dict[str, Tensor], x_B: Tensor) -> Tensor:
        logits_BC: Tensor = functional_call(stack.networks, state, (x_B,))
        return logits_BC

    logits_KBC: Tensor = vmap(one)(stack.state(), x)
    return logits_KBC


def gradients(stack: Stack, logits_KBC: Tensor) -> list[Tensor]:
    trained = [p for p in stack.parameters() if p.requires_grad]
    return list(torch.autograd.grad(logits_KBC.square().sum(), trained))


@pytest.mark.parametrize(("shape", "make"), CHAINS.values(), ids=CHAINS)
def test_logits_and_gradients_are_those_of_each_network(shape: tuple[int, ...], make: MakeNetwork) -> None:
    stack = Stack.build(make, range(4), seed=0, role="shadow").double()
    layers = DenseLayers.of(stack.networks)
    assert layers is not None
    x = batch_of(shape)
    assert layers.take(x)
    logits_KBC = layers(x)
    assert logits_KBC.is_contiguous()
    torch.testing.assert_close(logits_KBC, torch.stack([stack.model(k)(x[k]) for k in range(4)]))
    torch.testing.assert_close(gradients(stack, logits_KBC), gradients(stack, by_vmap(stack, x)))


def test_the_gradient_of_the_weights_is_made_in_their_layout() -> None:
    stack = Stack.build(partial(MLP, (6,), 3, hidden=[8]), range(4), seed=0, role="shadow").double()
    assert all(gradient.is_contiguous() for gradient in gradients(stack, stack(batch_of((6,)))))


def test_a_stack_goes_through_its_dense_layers_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack.build(partial(MLP, (6,), 3, hidden=[8, 8]), range(4), seed=0, role="shadow").double()
    seen: list[tuple[int, ...]] = []
    for layer in stack.networks:
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(tuple(output.shape)))
    stack(batch_of((6,)))
    assert seen == [(4, 8, 7), (4, 8, 7)]  # the activations, of all models at once


def test_bfloat16_is_as_close_as_under_vmap() -> None:
    stack = Stack.build(partial(MLP, (60,), 3, hidden=[80]), range(4), seed=0, role="shadow")
    x = batch_of((60,)).float()
    exact = stack(x).detach()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        lowered, vmapped = stack(x), by_vmap(stack, x)
    assert lowered.dtype == torch.bfloat16
    assert float((lowered - exact).abs().max()) <= 2 * float((vmapped - exact).abs().max())


class Doubled(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class LinearOfItsOwn(nn.Linear):
    pass


def hooked(of: Callable[[nn.Sequential], nn.Module]) -> nn.Module:
    chain = nn.Sequential(nn.Linear(6, 3), nn.Tanh())
    of(chain).register_forward_hook(lambda layer, inputs, output: 2 * output)
    return chain


def replaced() -> nn.Module:
    chain = nn.Sequential(nn.Linear(6, 3))
    chain[0].forward = lambda x: x[..., :3]
    return chain


@pytest.mark.parametrize(
    "make",
    [
        lambda: Doubled(nn.Linear(6, 3)),
        lambda: nn.Sequential(LinearOfItsOwn(6, 3)),
        lambda: nn.Sequential(nn.Linear(6, 3), nn.Softmax(dim=1)),
        lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3)),
        lambda: nn.Sequential(nn.Flatten(start_dim=2), nn.Linear(6, 3)),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)),
        lambda: hooked(lambda chain: chain),
        lambda: hooked(lambda chain: chain[0]),
        replaced,
    ],
)
@pytest.mark.usefixtures("global_generators")
def test_what_is_more_than_a_chain_of_dense_layers_is_left_to_vmap(make: MakeNetwork) -> None:
    assert DenseLayers.of(make()) is None


def test_records_of_several_axes_that_are_not_flattened_first_are_left_to_vmap() -> None:
    stack = Stack.build(lambda: nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(6, 3)), [0, 1], seed=0, role="s")
    layers = DenseLayers.of(stack.networks)
    assert layers is not None
    x = torch.randn(2, 5, 2, 4, generator=torch.Generator().manual_seed(0))
    assert not layers.take(x)
    torch.testing.assert_close(stack(x), torch.stack([stack.model(k)(x[k]) for k in range(2)]))
