"""Loops of plain PyTorch over single networks, written for a GPU: what `gpu.py` holds the package against."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from shadow_training import LEARNING_RATE
from torch import Tensor, nn
from training_settings import SEED, Case

from mia_lightning.seeds import generator

Objective = Callable[[Tensor, Tensor], Tensor]
_WARM_UP = 3  # steps before a capture


class Step:
    """A step of one network on records of its own: as a CUDA graph or, on the CPU, as it is.

    Args:
        network: on the device, in train mode; the weights that it has are those that the first call starts from.
        x_M, label_M: its records.
        batch_size: of every step.
        precision: `32` or `bf16`, under autocast.
    """

    def __init__(
        self,
        network: nn.Module,
        x_M: Tensor,
        label_M: Tensor,
        batch_size: int,
        *,
        precision: str = "32",
        objective: Objective = nn.functional.cross_entropy,
    ) -> None:
        self.network, self._x_M, self._label_M = network, x_M, label_M
        self._precision, self._objective = precision, objective
        self._index_B = torch.zeros(batch_size, dtype=torch.int64, device=x_M.device)
        self._optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True, capturable=x_M.is_cuda)
        self._graph: torch.cuda.CUDAGraph | None = None
        if x_M.is_cuda:
            self._capture()

    def __call__(self, index_B: Tensor) -> None:
        """One step on the records of these numbers."""
        self._index_B.copy_(index_B)
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()

    def _step(self) -> None:
        x_B, label_B = self._x_M.index_select(0, self._index_B), self._label_M.index_select(0, self._index_B)
        with torch.autocast(x_B.device.type, torch.bfloat16, enabled=self._precision == "bf16", cache_enabled=False):
            loss = self._objective(self.network(x_B), label_B)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()

    def _capture(self) -> None:
        """Steps on a stream of their own, which make the optimiser's state; then all is set back to the start."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        start = [tensor.detach().clone() for tensor in tensors]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        self._optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._step()
        with torch.no_grad():
            for tensor, first in zip(tensors, start, strict=True):
                tensor.copy_(first)
            for state in self._optimizer.state.values():
                for value in state.values():
                    value.zero_()


def train_by_graphs(case: Case, models: Sequence[int]) -> list[Callable[[], nn.Module]]:
    """As `train_by_bare_loop`, with each network's step captured."""
    trained: list[Callable[[], nn.Module]] = []
    for k in models:
        x_M, label_M = case.tensors(k)
        network = case.initial_network(k).to(case.device).train()
        size = case.setting.batch_size
        assert len(x_M) % size == 0  # a graph takes batches of one size
        step = Step(network, x_M, label_M, size, precision=case.precision)
        numbers = generator(SEED, "benchmark", "bare loop", k, device=case.device)
        for _ in range(case.epochs):
            for index_B in torch.randperm(len(x_M), generator=numbers, device=case.device).split(size):
                step(index_B)
        trained.append(network.eval)
    return trained


class FastResNet(nn.Module):
    """A residual network that learns 32 x 32 images in few epochs; logits `[B, C]`.

    A convolution with batch normalisation for each scale, two of them with a residual block, the maximum over places
    and a scaled linear layer.

    Source: Page, "How to train your ResNet" (2018).
    """

    def __init__(self, input_shape: Sequence[int], num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(input_shape[0], width),
            _convolution(width, 2 * width, pools=True),
            _Residual(2 * width),
            _convolution(2 * width, 4 * width, pools=True),
            _convolution(4 * width, 4 * width, pools=True),
            _Residual(4 * width),
        )
        self.logits = nn.Linear(4 * width, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.layers(x).amax((-2, -1)))
        return 0.125 * logits


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(_convolution(width, width), _convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.inner(x)
        return y


def _convolution(inputs: int, outputs: int, *, pools: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pools else []), nn.BatchNorm2d(outputs), nn.ReLU())


smoothed = partial(nn.functional.cross_entropy, label_smoothing=0.1)
"""Cross-entropy against labels of which a tenth is spread over all classes."""


def smoothed_of_stack(logits_KBC: Tensor, label_KB: Tensor) -> Tensor:
    """The same of each record of a stack, `[K, B]`."""
    loss_KB: Tensor = smoothed(logits_KBC.movedim(-1, 1), label_KB, reduction="none")
    return loss_KB
