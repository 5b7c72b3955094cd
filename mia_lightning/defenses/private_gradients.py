"""The gradients of DP-SGD: per-record gradients, clipped and summed, with noise, for a whole stack at once.

Abadi et al., "Deep learning with differential privacy" (2016), algorithm 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import pi
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from mia_lightning.datasets.form import Records, each_of, of_model
from mia_lightning.seeds import counter_hash
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.recipe import Objective
from mia_lightning.training.step.rules import Step

# Numbers in the per-record gradients that are held at once: bounds memory, not results.
_GRADIENT_NUMBERS = 2**25

Summed = tuple[dict[str, Tensor], Tensor]
"""Sums over records by the name of a parameter, `[K, ...]` (of one model `[...]`), and of the loss."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PrivateGradients:
    """(Σ clipped gradients of the records in the batch + noise) / expected batch size, for each model of a stack.

    The gradient of a record is clipped to a 2-norm of at most `clip_norm` over all trainable parameters together, and
    is taken of that record alone: what dropout draws depends on (model, layer, step, record). One that is not finite
    counts as zero. The noise of a parameter is normal with standard deviation `noise_multiplier` · `clip_norm`, and a
    function of (its key, step) alone. A model whose batch is empty moves by noise alone.

    Attributes:
        objective: loss of each record.
        clip_norm: C.
        noise_multiplier_K: σ, float64.
        expected_size_K: expected number of records in a batch, float64.
        noise_key_K: by the name of a parameter, int64.
    """

    objective: Objective
    clip_norm: float
    noise_multiplier_K: Tensor
    expected_size_K: Tensor
    noise_key_K: Mapping[str, Tensor]
    _moved: dict[torch.device, "PrivateGradients"] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, stack: Stack, step: Step) -> Tensor:
        sums, loss_K = self.clipped_sums(stack, step)
        there = self._on(step.label_KB.device)
        deviation_K = self.clip_norm * there.noise_multiplier_K
        for name, parameter in trainable(stack).items():
            columns = (-1, *(1 for _ in parameter.shape[1:]))
            noise = counter_normal(there.noise_key_K[name], step.number, parameter.shape[1:])
            noisy = sums[name].double() + deviation_K.view(columns) * noise
            parameter.grad = (noisy / there.expected_size_K.view(columns)).to(parameter.dtype)
        is_real_KB = step.is_real_KB
        count_K = step.index_KB.shape[1] if is_real_KB is None else is_real_KB.sum(1).clamp(min=1)
        return loss_K / count_K

    def _on(self, device: torch.device) -> "PrivateGradients":
        """The same with its constants on a device, to which they go once."""
        if device not in self._moved:
            self._moved[device] = replace(
                self,
                noise_multiplier_K=self.noise_multiplier_K.to(device),
                expected_size_K=self.expected_size_K.to(device),
                noise_key_K={name: key_K.to(device) for name, key_K in self.noise_key_K.items()},
            )
        return self._moved[device]

    def clipped_sums(self, stack: Stack, step: Step) -> Summed:
        """The sum of the clipped gradients of each model's records, and of their losses, `[K]`."""
        K, B = step.index_KB.shape
        is_real_KB = torch.ones_like(step.index_KB, dtype=torch.bool) if step.is_real_KB is None else step.is_real_KB
        number = torch.full((), step.number, dtype=torch.int64, device=step.label_KB.device)
        draw_KB = counter_hash(number, step.index_KB)
        together = K if step.execution == "stack" else 1
        numbers = together * sum(parameter[0].numel() for parameter in trainable(stack).values())
        parts = []
        for part in torch.arange(B).split(max(1, _GRADIENT_NUMBERS // numbers)):
            of = slice(int(part[0]), int(part[-1]) + 1)
            inputs = (_columns(step.x, of), step.label_KB[:, of], is_real_KB[:, of], draw_KB[:, of])
            parts.append(self._stacked(stack, *inputs) if together == K else self._looped(stack, *inputs))
        return _added(parts)

    def _stacked(self, stack: Stack, x: Records, label_KB: Tensor, is_real_KB: Tensor, draw_KB: Tensor) -> Summed:
        def one(state: dict[str, Tensor], *inputs: Any) -> Summed:
            return self._of_one_model(stack, state, *inputs)

        summed: Summed = vmap(one, randomness="error")(stack.state(), x, label_KB, is_real_KB, draw_KB)
        return summed

    def _looped(self, stack: Stack, x: Records, label_KB: Tensor, is_real_KB: Tensor, draw_KB: Tensor) -> Summed:
        each = [
            self._of_one_model(stack, stack.state_of(k), of_model(x, k), label_KB[k], is_real_KB[k], draw_KB[k])
            for k in range(stack.num_models)
        ]
        sums = {name: torch.stack([sums[name] for sums, _ in each]) for name in each[0][0]}
        return sums, torch.stack([loss for _, loss in each])

    def _of_one_model(
        self, stack: Stack, state: dict[str, Tensor], x_B: Records, label_B: Tensor, is_real_B: Tensor, draw_B: Tensor
    ) -> Summed:
        moved = {name: state[name].detach() for name in trainable(stack)}

        def loss_of(moved: dict[str, Tensor], x: Records, label: Tensor, draw: Tensor) -> Tensor:
            logits_BC = stack.call_one({**state, **moved}, each_of(x, lambda one: one[None]), step=draw)
            return self.objective(logits_BC[None], label[None, None]).squeeze()

        per_record = vmap(grad_and_value(loss_of), in_dims=(None, 0, 0, 0), randomness="error")
        gradient_B, loss_B = per_record(moved, x_B, label_B, draw_B)
        norm_B = torch.stack([g.flatten(1).norm(dim=1) for g in gradient_B.values()]).norm(dim=0)
        counts_B = is_real_B & norm_B.isfinite()
        factor_B = torch.where(norm_B > self.clip_norm, self.clip_norm / norm_B, 1.0)
        sums = {
            name: torch.where(counts_B.view(-1, *(1 for _ in g.shape[1:])), g, 0.0).flatten(1).mul(factor_B[:, None])
            for name, g in gradient_B.items()
        }
        shaped = {name: g.sum(0).view(moved[name].shape) for name, g in sums.items()}
        return shaped, torch.where(is_real_B, loss_B, 0.0).sum()


def _columns(records: Records, of: slice) -> Records:
    return each_of(records, lambda x: x[:, of])


def trainable(stack: Stack) -> dict[str, Tensor]:
    """The stacked parameters that are trained, by name; tied ones appear once."""
    return {name: p for name, p in stack.networks.named_parameters() if p.requires_grad}


def counter_normal(key_K: Tensor, step: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers, float64 `[K, *shape]`; those of a row are a function of (its key, `step`) alone.

    Two uniform numbers of 53 bits give two normal ones (Box and Muller 1958), so none is beyond 8.6.
    """
    count = torch.Size(shape).numel()
    place_P = torch.arange((count + 1) // 2, device=key_K.device)
    radius_KP, angle_KP = (_uniform(counter_hash(key_K[:, None], step, part, place_P)) for part in range(2))
    radius_KP = (-2 * radius_KP.log()).sqrt()
    angle_KP = 2 * pi * angle_KP
    normal_KP = torch.cat([radius_KP * angle_KP.cos(), radius_KP * angle_KP.sin()], dim=1)
    return normal_KP[:, :count].view(-1, *shape)


def _uniform(bits: Tensor) -> Tensor:
    """Float64 in (0, 1] from 64 uniform bits."""
    return (((bits >> 11) & (2**53 - 1)) + 1).double() * 2.0**-53


def _added(parts: Sequence[Summed]) -> Summed:
    sums, loss = parts[0]
    for other, other_loss in parts[1:]:
        sums = {name: value + other[name] for name, value in sums.items()}
        loss = loss + other_loss
    return sums, loss
