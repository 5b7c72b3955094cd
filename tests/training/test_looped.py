"""Looped execution: gradients taken model by model, convolutions channels last."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from training_jobs import train_with

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.models.cnn import CNN
from mia_lightning.seeds import derive
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes, inspect_architecture
from mia_lightning.training.stack.looped import LoopedGradients, all_logits
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.batches import StackBatches
from mia_lightning.training.step.module import StackModule
from mia_lightning.training.step.optimizers import match_layout
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

K = 3
make_cnn = partial(CNN, channels=[4, 4], hidden=8, kernel_size=3, batch_norm=True, activation="relu")


class Sided(nn.Module):
    """The second of its layers is used for records of positive sum alone, the last one never."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.never = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 2)
        self.first.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.first(x)
        return y + self.second(x) if float(x.sum()) > 0 else y


def stack_of(make: object, seed: int = 0) -> Stack:
    return Stack.build(make, range(K), seed=seed, role="shadow").double()


def is_channels_last(stack: Stack) -> list[bool]:
    weights = [p for p in stack.networks.parameters() if p.dim() == 5]
    return [weight[k].is_contiguous(memory_format=torch.channels_last) for weight in weights for k in range(K)]


def test_gradients_are_those_of_each_model_alone_and_add_up() -> None:
    stack = stack_of(Sided)
    looped = LoopedGradients(stack)
    x_KBF = torch.randn(K, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).abs()
    x_KBF[1] *= -1  # this model does not use its second layer

    def loss_of(k: int, state: object) -> tuple[Tensor, Tensor]:
        loss = stack.call_one(state, x_KBF[k]).square().mean()
        return 2 * loss, loss

    expected_K = []
    for k in range(K):
        alone = stack.model(k)
        loss = alone(x_KBF[k]).square().mean()
        (2 * loss).backward()
        expected_K.append((loss.detach(), {name: p.grad for name, p in alone.named_parameters()}))
    for passes in (1, 2, 1):  # the third time in the place of the first
        for _ in range(passes):
            loss_K = looped(loss_of)
        for k, (loss, gradients) in enumerate(expected_K):
            torch.testing.assert_close(loss_K[k], loss)
            for name, parameter in stack.networks.named_parameters():
                if name == "first.bias" or name.startswith("never."):
                    assert parameter.grad is None
                    continue
                alone_or_zero = torch.zeros_like(parameter[k]) if gradients[name] is None else gradients[name]
                torch.testing.assert_close(parameter.grad[k], passes * alone_or_zero)
        assert sorted(looped.used_by_some) == ["second.bias", "second.weight"]
        stack.zero_grad(set_to_none=True)


def test_gradients_are_written_to_the_same_memory_step_after_step() -> None:
    stack = stack_of(Sided)
    looped = LoopedGradients(stack)
    x_BF = torch.ones(2, 4, dtype=torch.float64)
    places = []
    for _ in range(2):
        looped(lambda k, state: (stack.call_one(state, x_BF).sum(),) * 2)
        places.append(stack.networks.second.weight.grad.data_ptr())
        stack.zero_grad(set_to_none=True)
    assert places[0] == places[1]
    kept = looped._gradient["second.weight"]
    looped.clear()
    assert kept.data_ptr() == places[0]
    assert looped._gradient == {}


def test_states_are_the_states_of_model_after_model_and_share_their_memory() -> None:
    stack = stack_of(bind_shapes(make_cnn, (1, 8, 8), 3))
    states = list(stack.states())
    assert len(states) == K
    for k, state in enumerate(states):
        expected = stack.state_of(k)
        assert state.keys() == expected.keys()
        for name, tensor in state.items():
            assert tensor.data_ptr() == expected[name].data_ptr()
            assert torch.equal(tensor, expected[name])


@pytest.mark.usefixtures("global_generators")
def test_a_stack_laid_out_channels_last_is_the_same_stack(tmp_path: Path) -> None:
    make = bind_shapes(make_cnn, (2, 8, 8), 3)
    stack, other = stack_of(make).eval(), stack_of(make).eval()
    parameters = list(other.parameters())
    other.use_channels_last()
    assert not any(is_channels_last(stack))
    assert all(is_channels_last(other))
    assert all(one is two for one, two in zip(parameters, other.parameters(), strict=True))
    x_B = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    for execution in ("stack", "loop"):
        torch.testing.assert_close(all_logits(other, x_B, execution), all_logits(stack, x_B, "stack"))
    other.save(tmp_path / "stack.safetensors")
    loaded = Stack.load(tmp_path / "stack.safetensors", make)
    for name, tensor in stack.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    joined = Stack.concatenate([other, stack_of(make, seed=1)], torch.tensor([4, 0, 2]))
    assert all(is_channels_last(joined))
    torch.testing.assert_close(joined.state_dict()["networks.logits.weight"][1], stack.networks.logits.weight[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_what_follows_a_first_convolution_is_channels_last_for_images_of_any_depth(channels: int) -> None:
    stack = Stack.build(partial(CNN, (channels, 8, 8), 3), [0], seed=0, role="shadow")
    x_B = torch.linspace(-1, 1, 5 * channels * 64).view(5, channels, 8, 8)
    plain_BC = stack.call_one(stack.state_of(0), x_B)
    stack.use_channels_last()
    given: list[Tensor] = []
    layer = stack.networks.get_submodule("convolution_1")
    layer.register_forward_hook(lambda layer, inputs, output: given.append(inputs[0]))
    torch.testing.assert_close(stack.call_one(stack.state_of(0), x_B), plain_BC)
    assert given[0].is_contiguous(memory_format=torch.channels_last)
    assert not given[0].is_contiguous()


@pytest.mark.parametrize("execution", ["stack", "loop"])
def test_convolutions_are_channels_last_in_looped_execution_alone(execution: str, pictures: Population) -> None:
    recipe = Recipe(epochs=1, batch_size=8, optimizer=partial(torch.optim.Adam, lr=1e-3), execution=execution)
    trained = train_with(
        Engine(seed=1, settings=TrainerSettings(accelerator="cpu")),
        bind_shapes(make_cnn, pictures.input_shape, pictures.num_classes),
        pictures,
        [torch.arange(16)] * K,
        recipe,
        role="shadow",
    )
    assert set(is_channels_last(trained.stack)) == {execution == "loop"}


@pytest.mark.costly
@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
@pytest.mark.parametrize(("before", "after"), [("stack", "loop"), ("loop", "stack"), ("loop", "loop")])
def test_a_run_resumed_in_another_execution_goes_on_as_it_was(
    before: str, after: str, pictures: Population, tmp_path: Path
) -> None:
    """Adam's moments come from the checkpoint in the layout that the parameters had then."""

    def fit(execution: str, epochs: int, resume: Path | None = None) -> StackModule:
        make = bind_shapes(make_cnn, pictures.input_shape, pictures.num_classes)
        module = StackModule(
            Stack.build(make, range(K), seed=1, role="shadow").double(),  # or a checkpoint is read into float32
            pictures,
            StackBatches(
                [torch.arange(k, k + 16) for k in range(K)],
                torch.tensor([derive(1, "shadow", k, "order") for k in range(K)]),
                batches_per_epoch=2,
            ),
            Recipe(epochs=4, batch_size=8, optimizer=partial(torch.optim.Adam, lr=1e-2, eps=1e-3)),
            execution=execution,
        )
        trainer = pl.Trainer(
            accelerator="cpu",
            precision="64-true",
            max_epochs=epochs,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[ModelCheckpoint(dirpath=tmp_path / f"{execution}-{epochs}", filename="last")],
        )
        trainer.fit(module, ckpt_path=resume)
        return module

    whole = fit("stack", 4)
    fit(before, 2)
    resumed = fit(after, 4, tmp_path / f"{before}-2" / "last.ckpt")
    for name, tensor in whole.stack.state_dict().items():
        torch.testing.assert_close(resumed.stack.state_dict()[name], tensor, rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("global_generators")
def test_the_state_of_an_optimizer_takes_on_the_layout_of_its_parameters() -> None:
    parameter = nn.Parameter(torch.randn(2, 3, 4, 5, 6))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    moments = {name: value.clone() for name, value in optimizer.state[parameter].items()}
    parameter.data = parameter.data.movedim(2, -1).contiguous().movedim(-1, 2)
    match_layout(optimizer)
    for name, value in optimizer.state[parameter].items():
        assert torch.equal(value, moments[name])
    assert optimizer.state[parameter]["exp_avg"].stride() == parameter.stride()


class Viewing(nn.Module):
    """Flattens by `view`, as many networks do: what a convolution gives channels last has no such view."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.logits = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.convolution(x).view(len(x), -1))
        return logits


def test_a_network_that_flattens_by_view_keeps_the_layout_that_allows_it() -> None:
    numbers = torch.Generator().manual_seed(0)
    pictures = make_population(torch.rand(60, 3, 8, 8, generator=numbers), torch.arange(60) % 3)
    assert not inspect_architecture(Viewing, pictures).takes_channels_last
    assert inspect_architecture(bind_shapes(make_cnn, (3, 8, 8), 3), pictures).takes_channels_last
    recipe = Recipe(epochs=2, batch_size=20, optimizer=partial(torch.optim.SGD, lr=0.1), execution="loop")
    records_K = [torch.arange(k, k + 40) for k in range(K)]
    looped, stacked = (
        train_with(
            Engine(seed=0, settings=TrainerSettings(accelerator="cpu", precision="64", progress_bar=False)),
            Viewing,
            pictures,
            records_K,
            replace(recipe, execution=execution),
            role="shadow",
        ).stack
        for execution in ("loop", "stack")
    )
    assert not any(is_channels_last(looped))
    for name, tensor in looped.state().items():
        torch.testing.assert_close(tensor, stacked.state()[name], rtol=0, atol=1e-10)
