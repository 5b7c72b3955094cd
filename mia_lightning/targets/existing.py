"""A target that is trained already: a module in memory, or the weights of one in a file."""

import copy
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, first_line
from mia_lightning.seeds import isolated
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AnyText, PathLike, Share
from mia_lightning.targets.interface import Target
from mia_lightning.training.setup import Setup
from mia_lightning.training.stack.architecture import inspect_architecture
from mia_lightning.training.stack.layers import make_stackable
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.trained import TrainedStack


@settings("target", eq=False)
class Existing(Target):
    """A trained `nn.Module`; it is copied, never changed.

    Attributes:
        expected_accuracy: on records that it was not trained on, as it was seen elsewhere; None for unknown.
    """

    network: nn.Module
    expected_accuracy: Share | None = None
    count: ClassVar[int] = 1
    is_trained_here: ClassVar[bool] = False
    takes_recipe: ClassVar[bool] = False

    def obtain(self, setup: Setup) -> TrainedStack:
        """The module as a stack of one, in its own floating-point type.

        Raises:
            InputError: it does not give `[B, C]` on the population's records, or has weights that are not finite.
        """
        return as_stack(self.network, setup.population, setup.engine.device)


def as_stack(network: nn.Module, population: Population, device: torch.device) -> TrainedStack:
    """A trained module, which is copied, as a stack of one on the device.

    Args:
        population: for whose records it gives logits `[B, C]`.

    Raises:
        InputError: it does not give logits of this shape, or has weights that are not finite.
    """
    _check_finite(network, f"The module {type(network).__name__}")
    network = copy.deepcopy(network).cpu()
    own = inspect_architecture(lambda: copy.deepcopy(network), population, trainable=False)
    stack = Stack([make_stackable(copy.deepcopy(network), 0, "existing")], lambda: copy.deepcopy(network))
    none = torch.full((1,), -1)
    return TrainedStack(
        stack=stack.to(device).eval(),
        architecture=own,
        execution="stack" if own.refusal is None else "loop",
        failed_epoch_K=none,
        stopped_epoch_K=none,
        train_loss_EK=torch.empty(0, 1, dtype=torch.float64),
        validation_loss_EK=None,
    )


@settings("target")
class Checkpoint(Target):
    """The weights of a trained network of the configured `model`.

    Attributes:
        path: a `.safetensors` file, or a `.pt`, `.pth` or `.ckpt` with a state dict (read without executing
            anything; a Lightning checkpoint's `state_dict` is found by itself), or the `target.safetensors` that a run
            with `save_models=true` and one target wrote.
        prefix: with which the names in the file begin, unlike those of the model ("model." in many checkpoints).
        expected_accuracy: on records that it was not trained on, as it was seen elsewhere; None for unknown.
    """

    path: PathLike
    prefix: AnyText = ""
    expected_accuracy: Share | None = None
    count: ClassVar[int] = 1
    is_trained_here: ClassVar[bool] = False
    takes_recipe: ClassVar[bool] = False

    def obtain(self, setup: Setup) -> TrainedStack:
        """The network with these weights, as a stack of one.

        Raises:
            InputError: the file is not there, is damaged, or does not fit the model.
        """
        with isolated(0, "initialisation that is overwritten"):
            network = setup.make_network()
        state = _without_model_axis(_read_state(Path(self.path), self.prefix), network)
        difference = _first_difference(state, network.state_dict())
        if difference:
            raise InputError(
                f"`target.path` {self.path} does not fit the model {type(network).__name__}: {difference}; set `model` "
                "to the architecture that it was trained with, and `target.prefix` if its names have one."
            )
        network.load_state_dict(state)
        _check_finite(network, f"`target.path` {self.path}")
        return Existing(network=network).obtain(setup)


def _check_finite(network: nn.Module, what: str) -> None:
    for name, value in network.state_dict().items():
        if isinstance(value, Tensor) and not bool(value.isfinite().all()):
            raise InputError(
                f"{what} has NaN or infinite values in `{name}`; give the weights of a training that did not diverge."
            )


def _first_difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """The first tensor of the model that the file lacks or has in another shape; else one that the model lacks."""
    for name, value in wanted.items():
        if name not in found:
            other = next((each for each in found if each.endswith(name)), None) or next(iter(found), None)
            beside = f" (it has `{other}`)" if other is not None else ""
            return f"it has no `{name}`{beside}"
        if found[name].shape != value.shape:
            return f"`{name}` is {list(found[name].shape)} in the file and {list(value.shape)} in the model"
    unknown = [name for name in found if name not in wanted]
    return f"the model has no `{unknown[0]}`" if unknown else ""


def _without_model_axis(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The state of a network, also where the file holds a stack of one, whose tensors have a leading axis of 1."""
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    is_stack = bool(state) and all(tuple(value.shape) == (1, *shapes.get(name, ())) for name, value in state.items())
    return {name: value[0] for name, value in state.items()} if is_stack else state


def _read_state(path: Path, prefix: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"`target.path` {path} is not a file; give the weights of the trained model.")
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    # torch.load has no error of its own: for a damaged file it raises struct.error, IndexError, KeyError and others.
    except Exception as error:
        raise InputError(
            f"`target.path` {path} cannot be read as weights alone ({first_line(error)}); save the state dict, best as "
            "safetensors."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"`target.path` {path} holds no state dict; save `model.state_dict()`.")
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
