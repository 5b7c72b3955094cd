"""The models of a loop on several streams of a device, so that one fills what another leaves idle.

A GPU does what is queued in one stream in order, and a single small model keeps only a part of it busy.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from mia_lightning.training.plan.memory import MODELS_IN_STREAMS
from mia_lightning.training.stack.looped import Streams
from mia_lightning.training.step.recipe import Recipe


class OfCuda:
    """Streams of CUDA. A tensor that is made in one of them is used elsewhere only after the context of `forked`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams = [torch.cuda.Stream(device) for _ in range(MODELS_IN_STREAMS)]

    @contextmanager
    def forked(self) -> Iterator[None]:
        usual = torch.cuda.current_stream(self._device)
        for stream in self._streams:
            stream.wait_stream(usual)
        try:
            yield
        finally:  # also where memory runs out: what is freed then is used again by what follows
            for stream in self._streams:
                usual.wait_stream(stream)

    def beside(self, k: int) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._streams[k % len(self._streams)])


STREAMS: dict[str, Callable[[torch.device], Streams]] = {"cuda": OfCuda}
"""By the type of a device, its streams."""


def refusal(recipe: Recipe, device: torch.device) -> str | None:
    """Why models are not queued in several streams, in a clause; None where those of a loop can be."""
    if recipe.streams is False:
        return "`training.streams` is false"
    if device.type not in STREAMS:
        return f"the device is {device.type}"
    if recipe.own is not None:
        return "a LightningModule trains itself"
    return None if recipe.gradient_rule is None else "a defence makes the gradients"
