"""Layers under several names, true ties and shared buffers: in a stack as in a plain training loop of torch."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from training_jobs import train_with

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.seeds import isolated
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import inspect_architecture
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings


class Attributes(nn.Module):
    """Layers as attributes, and once more in a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)
        self.layers = nn.Sequential(self.a, nn.Tanh(), self.b)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Recurrent(nn.Module):
    """An LSTM as an attribute, and once more in a ModuleList."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = nn.LSTM(2, 4, batch_first=True)
        self.layers = nn.ModuleList([self.reader])
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers[0](x.view(-1, 3, 2))[0][:, -1])


class Normed(nn.Module):
    """Batch normalisation under two names, used twice; a buffer of two layers, which forward updates."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.head = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)
        self.norms = nn.ModuleDict({"again": self.norm})
        self.register_buffer("level", torch.zeros(()))
        self.head.register_buffer("level", self.level)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.level.mul_(0.5).add_(1.0)
        return self.head(self.norms["again"](torch.tanh(self.norm(self.a(x))))) * (1 + self.head.level)


class Tied(nn.Module):
    """Two layers of one weight, one of them under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = self.a.weight
        self.blocks = nn.ModuleList([self.b])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.blocks[0](torch.tanh(self.a(x)))))


class BufferIsParameter(nn.Module):
    """A parameter that is registered as a buffer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)
        self.register_buffer("weight", self.a.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + x @ self.weight.T


@pytest.mark.costly
@pytest.mark.parametrize("execution", ["stack", "loop"])
@pytest.mark.parametrize("make", [Attributes, Recurrent, Normed, Tied, BufferIsParameter])
def test_a_stack_trains_them_as_a_plain_loop_does(
    blobs: Population, make: Callable[[], nn.Module], execution: str
) -> None:
    if make is Recurrent and execution == "stack":
        execution = "auto"  # vmap refuses LSTMs
    engine = Engine(seed=3, settings=TrainerSettings(accelerator="cpu", precision="64"))
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    records = [torch.arange(0, 40), torch.arange(30, 70)]
    recipe = Recipe(epochs=5, batch_size=40, optimizer=sgd, execution=execution)  # one batch an epoch: no order
    trained = train_with(engine, make, blobs, records, recipe, role="shadow").stack
    for k, index_N in enumerate(records):
        with isolated(3, "shadow", k, "initialisation"):
            alone = make()
        alone = alone.double().train()
        if make is Normed:
            alone.head.level = alone.level  # which `double` parts
        optimizer = sgd(alone.parameters())
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(alone(blobs.x_N[index_N].double()), blobs.label_N[index_N]).backward()
            optimizer.step()
        state = alone.state_dict()
        assert state.keys() == trained.networks.state_dict().keys()
        for name, tensor in trained.networks.state_dict().items():
            torch.testing.assert_close(tensor[k], state[name], rtol=1e-9, atol=1e-10, msg=name)
        taken = trained.model(k)
        torch.testing.assert_close(taken(blobs.x_N.double()), alone.eval()(blobs.x_N.double()))


def test_after_an_error_in_forward_the_networks_hold_their_own_tensors_again() -> None:
    from mia_lightning.training.stack.stack import Stack

    stack = Stack.build(Attributes, [0, 1], seed=0, role="shadow")
    before = {name: id(tensor) for name, tensor in stack.networks.named_parameters()}
    with pytest.raises(RuntimeError):
        stack.call_one(stack.state_of(1), torch.zeros(2, 7))
    assert before == {name: id(tensor) for name, tensor in stack.networks.named_parameters()}


class PlainList(nn.Module):
    """One of its layers is in a plain list, in which no stack sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(6, 6)]
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers[0](x))


class HeldWeight(nn.Module):
    """It computes with a reference to a weight, which a stack would swap in vain."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)
        self.weights = (self.a.weight,)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weights[0].T + self.a.bias


class HeldNorm(nn.Module):
    """It calls a normalisation by a reference beside the module tree."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a = nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.held = [self.norm]

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.held[0](x))


class SharedMemory(nn.Module):
    """Two parameters in the same memory, which are not one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = nn.Parameter(self.a.weight.data[:3])

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (PlainList, "PlainList computes with tensors that are none of its parameters and buffers"),
        (HeldWeight, "HeldWeight computes with tensors that are none of its parameters and buffers"),
        (HeldNorm, "HeldNorm computes with tensors that are none of its parameters and buffers"),
        (SharedMemory, "SharedMemory has `b.weight` and `a.weight` in the same memory"),
        (lambda: nn.DataParallel(Attributes()), "`model` made a DataParallel, which a stack cannot train"),
        pytest.param(
            lambda: torch.compile(Attributes()),
            "`model` made a OptimizedModule, which a stack cannot train",
            marks=pytest.mark.slow,
        ),
        (lambda: torch.jit.script(nn.Linear(6, 3)), "`model` made a RecursiveScriptModule, which a stack cannot train"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_what_a_stack_would_mix_up_is_refused(blobs: Population, make: Callable[[], nn.Module], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        inspect_architecture(make, blobs)
