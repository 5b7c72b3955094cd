"""Stacks of plain multilayer perceptrons, stepped layer by layer without `vmap`.

Under `vmap` a linear layer multiplies by transposed weights, so that their gradient is transposed and must be copied
into place; the bias is added in a pass of its own; and every operation is dispatched twice at every step. Together this
takes about a sixth of the step of a small network. A chain of linear and element-wise layers needs no `vmap`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_ELEMENTWISE = (
    *(nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Softplus, nn.Hardtanh, nn.Mish),
    nn.Identity,
)


@dataclass(frozen=True, eq=False)
class DenseLayers:
    """A chain of linear and element-wise layers, whose parameters may be those of a stack.

    Attributes:
        layers: in order, without those that flatten.
        flattens: whether records are flattened first; else they must be vectors.
    """

    layers: tuple[nn.Module, ...]
    flattens: bool

    @classmethod
    def of(cls, network: nn.Module) -> "DenseLayers | None":
        """The layers of `network`; None where it is no such chain, and so is run by `vmap`."""
        layers = list(_in_turn(network))
        known = (nn.Linear, nn.Flatten, *_ELEMENTWISE)
        if not all(type(layer) in known and _is_plain(layer) for layer in layers):
            return None
        flattens = [layer for layer in layers if isinstance(layer, nn.Flatten)]
        if any((layer.start_dim, layer.end_dim) != (1, -1) for layer in flattens):
            return None
        return cls(
            tuple(layer for layer in layers if not isinstance(layer, nn.Flatten)),
            flattens=bool(layers) and isinstance(layers[0], nn.Flatten),
        )

    def take(self, x: Tensor) -> bool:
        """Whether the layers take the records `[K, B, *features]`."""
        return self.flattens or x.dim() == 3

    def __call__(self, x: Tensor) -> Tensor:
        """Logits `[K, B, C]` of all models from a batch for each, `[K, B, *features]`."""
        # Between the layers records are the last axis, so that the gradient of the weights has the weights' layout.
        hidden_KFB = x.flatten(2).mT
        for layer in self.layers:
            if not isinstance(layer, nn.Linear):
                hidden_KFB = layer(hidden_KFB)
            elif layer.bias is None:
                hidden_KFB = torch.bmm(layer.weight, hidden_KFB)  # type: ignore[unreachable]  # bias=False
            else:
                hidden_KFB = torch.baddbmm(layer.bias[:, :, None], layer.weight, hidden_KFB)
        return hidden_KFB.mT.contiguous()


def _in_turn(network: nn.Module) -> Iterator[nn.Module]:
    """The layers of a sequence in order, those of inner sequences among them; else `network` itself."""
    if isinstance(network, nn.Sequential) and type(network).forward is nn.Sequential.forward and _is_plain(network):
        for layer in network:
            yield from _in_turn(layer)
    else:
        yield network


def _is_plain(layer: nn.Module) -> bool:
    """Whether calling the layer does what its class does, and nothing else."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return not any(hooks) and "forward" not in vars(layer)
