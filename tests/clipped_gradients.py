"""Clipped gradients of single records: a step of a small stack, and a slow loop."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from mia_lightning.defenses.private_gradients import PrivateGradients, trainable
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import derive
from mia_lightning.training.stack.stack import MakeNetwork, Stack
from mia_lightning.training.step.recipe import cross_entropy


def in_groups() -> nn.Module:
    return nn.GroupNorm(2, 4)


class Pictures(nn.Module):
    """Convolution, group normalisation or another, a tied weight and a frozen parameter."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        norm: Callable[[], nn.Module] = in_groups,
        flat_norm: Callable[[], nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(input_shape[0], 4, 3, padding=1)
        self.norm, self.flat_norm = norm(), flat_norm()
        self.mix = nn.Linear(4, 4)
        self.mix_again = nn.Linear(4, 4)
        self.mix_again.weight = self.mix.weight
        self.head = nn.Linear(4, num_classes)
        self.head.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.relu(self.norm(self.convolution(x))).mean((2, 3))
        return self.head(self.mix_again(torch.tanh(self.mix(self.flat_norm(pooled)))))


def linear(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A layer of zeros, at which the gradient of a record is known."""
    layer = nn.Linear(input_shape[0], num_classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


NETWORKS = {"mlp": ("blobs", partial(MLP, hidden=[8])), "pictures": ("pictures", Pictures)}
MODELS, WIDTH = 3, 7
CLIP = 0.4


def stack_of(make: MakeNetwork) -> Stack:
    return Stack.build(make, range(MODELS), seed=5, role="shadow").double()


def gradients_of(stack: Stack, *, clip_norm: float = CLIP, noise_multiplier: float = 0.0) -> PrivateGradients:
    return PrivateGradients(
        objective=cross_entropy,
        clip_norm=clip_norm,
        noise_multiplier_K=torch.full((MODELS,), noise_multiplier, dtype=torch.float64),
        expected_size_K=torch.tensor([4.0, 5.5, 6.0], dtype=torch.float64),
        noise_key_K={
            name: torch.tensor([derive(1, "shadow", k, "gradient noise", name) for k in range(MODELS)])
            for name in trainable(stack)
        },
    )


def slow_gradient(
    network: nn.Module, x_B: Tensor, label_B: Tensor, *, clip_norm: float, expected_size: float
) -> tuple[dict[str, Tensor], list[float]]:
    """One record at a time, by autograd on the ordinary network: clipped jointly, summed, divided; and the norms."""
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    norms = []
    for x, label in zip(x_B, label_B, strict=True):
        loss = nn.functional.cross_entropy(network(x[None]), label[None])
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        norms.append(float(torch.sqrt(sum((g**2).sum() for g in gradients))))
        for name, g in zip(parameters, gradients, strict=True):
            total[name] += g * min(1.0, clip_norm / norms[-1])
    return {name: g / expected_size for name, g in total.items()}, norms
