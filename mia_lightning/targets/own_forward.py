"""A trained network that no stack can hold, run as it is: TorchScript, quantised weights, ways of its own."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mia_lightning.datasets.form import Records, of_model
from mia_lightning.errors import InputError, first_line
from mia_lightning.store.identity import NoIdentityError
from mia_lightning.store.tensors import save_tensors
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.stack.way import ask


class OwnForward(Stack):
    """A stack of one network, which answers by its own forward, on its own device.

    The network is not changed. It is in eval mode while it answers, and in its own mode before and after.
    """

    def __init__(self, network: nn.Module) -> None:
        nn.Module.__init__(self)
        self._held = (network,)  # no submodule: its mode and its device are its own
        self.make_network = partial(copy.deepcopy, network)

    @property
    def network(self) -> nn.Module:
        return self._held[0]

    @property
    def num_models(self) -> int:
        return 1

    @property
    def device(self) -> torch.device:
        return next((t.device for t in self._tensors().values()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.network.parameters() if p.is_floating_point()), torch.float32)

    def forward(
        self, x: Records, *, step: int | Tensor = 0, is_real_KB: Tensor | None = None, shared: bool = False
    ) -> Tensor:
        return self.call_one({}, x if shared else of_model(x, 0))[None]

    @torch.no_grad()
    def call_one(
        self, state: Mapping[str, Tensor], x_B: Records, *, step: int | Tensor = 0, is_real_B: Tensor | None = None
    ) -> Tensor:
        with in_eval_mode(self.network):
            logits_BC: Tensor = ask(self.network, x_B)
        return logits_BC

    def state(self) -> dict[str, Tensor]:
        return {name: tensor[None] for name, tensor in self._tensors().items()}

    def state_of(self, k: int) -> dict[str, Tensor]:
        state = self.network.state_dict()
        if not all(isinstance(value, Tensor) and not value.is_quantized for value in state.values()):
            raise NoIdentityError(f"the quantised weights of {type(self.network).__name__}")
        return self._tensors()

    def states(self) -> Iterator[dict[str, Tensor]]:
        yield self._tensors()

    def save(self, path: Path) -> None:
        try:
            state = self.state_of(0)
        except NoIdentityError as error:
            raise InputError(
                f"`save_models` is true, but {error} cannot be written as safetensors; set it to false."
            ) from error
        save_tensors({name: tensor[None].contiguous().clone() for name, tensor in state.items()}, path)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.network.state_dict().items() if isinstance(value, Tensor)}


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Within the context, the network is in eval mode; then every layer is in its own mode again.

    Raises:
        InputError: it cannot be put into eval mode.
    """
    modes = [(layer, layer.training) for layer in network.modules() if hasattr(layer, "training")]  # none if frozen
    try:
        try:
            if any(is_training for _, is_training in modes):
                network.eval()
        except Exception as error:  # an exported program has the mode in which it was exported
            raise InputError(
                f"The module {type(network).__name__} cannot be put into eval mode ({first_line(error)}); give the "
                "network that it was made from."
            ) from error
        yield
    finally:
        for layer, is_training in modes:
            layer.training = is_training
