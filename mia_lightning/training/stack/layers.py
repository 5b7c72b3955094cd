"""Layers that do in a stack what they do in a network trained alone.

Two kinds of layers are replaced when a network is stacked. Dropout would draw from a global generator, so that its
draws depend on the size of the stack. Batch normalisation would take its statistics over the padding of ragged batches,
too. The replacements keep the names of parameters and buffers, so that the state of a stacked network loads into the
original architecture.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from mia_lightning.errors import InputError
from mia_lightning.seeds import counter_hash, derive

_MIX_1 = 0x7FEB352D
_MIX_2 = 0x846CA68B - 2**32


class CounterDropout(nn.Module):
    """Dropout whose mask is a hash of (key, step, call, element): the same in a stack, in a loop and alone.

    Args:
        p: probability of dropping.
        leading_axes: how many leading axes (batch included) a mask element spans: all of them for `nn.Dropout`,
            two for `nn.Dropout1d` to `3d`, which drop whole channels.

    Buffers (set by the stack): `key`, int64, of the model and layer; `step`, int64, the optimiser step. `calls` counts
    the uses of the layer within one forward pass; the stack resets it.
    """

    key: Tensor
    step: Tensor

    def __init__(self, p: float, leading_axes: int | None = None) -> None:
        super().__init__()
        self.p = p
        self.leading_axes = leading_axes
        self.calls = 0
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if self.p == 1.0:
            return x * 0.0
        seed = counter_hash(self.key, self.step, self.calls)
        self.calls += 1
        keep = _uniform_bits(self._mask_shape(x), seed) >= int(-(2**31) + self.p * 2**32)
        return torch.where(keep, x / (1.0 - self.p), torch.zeros((), dtype=x.dtype, device=x.device))

    def _mask_shape(self, x: Tensor) -> tuple[int, ...]:
        if self.leading_axes is None:
            return tuple(x.shape)
        return (*x.shape[: self.leading_axes], *(1 for _ in x.shape[self.leading_axes :]))

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _uniform_bits(shape: tuple[int, ...], seed: Tensor) -> Tensor:
    """Uniform int32 of `shape`; element i depends on (seed, i) alone, i counted row by row."""
    low = (seed & 0x7FFFFFFF).to(torch.int32)
    high = ((seed >> 33) & 0x7FFFFFFF).to(torch.int32)
    count = int(torch.Size(shape).numel())
    element = torch.arange(count, dtype=torch.int32, device=seed.device).view(shape)
    return _mix32(_mix32(element ^ low) ^ high)


def _mix32(value: Tensor) -> Tensor:
    # The 32-bit finaliser "lowbias32" (Wellons, "Hash Function Prospector", 2018).
    value = (value ^ ((value >> 16) & 0xFFFF)) * _MIX_1
    value = (value ^ ((value >> 15) & 0x1FFFF)) * _MIX_2
    return value ^ ((value >> 16) & 0xFFFF)


class MaskedBatchNorm(nn.Module):
    """Batch normalisation over the real records of a batch; padding enters no statistic.

    Takes over the parameters, buffers and options of a `BatchNorm1d`, `2d` or `3d`.

    Buffer (set by the stack): `is_real`, bool `[B]`; empty where the batch has no padding.
    """

    is_real: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(self, source: _BatchNorm) -> None:
        super().__init__()
        self.eps, self.momentum = source.eps, source.momentum
        self.weight, self.bias = source.weight, source.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(source, name))
        self.register_buffer("is_real", torch.empty(0, dtype=torch.bool), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.running_mean is not None:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if self.is_real.numel() == 0 and self.momentum is not None:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
            )
        return self._masked(x)

    def _masked(self, x: Tensor) -> Tensor:
        rows = self.is_real if self.is_real.numel() else torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
        rows = rows.view(-1, *(1 for _ in x.shape[1:]))
        axes = [axis for axis in range(x.dim()) if axis != 1]
        channel = (1, -1, *(1 for _ in x.shape[2:]))
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        zero = torch.zeros((), dtype=wide.dtype, device=x.device)
        count = rows.sum() * (x.shape[2:].numel() if x.dim() > 2 else 1)
        mean = torch.where(rows, wide, zero).sum(axes) / count.clamp(min=1)
        centred = wide - mean.view(channel)
        variance = torch.where(rows, centred.square(), zero).sum(axes) / count.clamp(min=1)
        if self.training and self.running_mean is not None:
            self._update_running(mean.detach(), variance.detach(), count)
        normalised = centred * torch.rsqrt(variance + self.eps).view(channel)
        if self.weight is not None:
            normalised = normalised * self.weight.view(channel) + self.bias.view(channel)
        return normalised.to(x.dtype)

    def _update_running(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        momentum: float | Tensor
        if self.momentum is not None:
            momentum = self.momentum
        else:  # a cumulative average, as in torch.nn
            assert self.num_batches_tracked is not None
            momentum = 1.0 / self.num_batches_tracked.to(mean.dtype)
        share = momentum * (count > 0)  # a batch without real records leaves the statistics alone
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_mean.add_(share * (mean - self.running_mean))
        self.running_var.add_(share * (unbiased - self.running_var))


def make_stackable(network: nn.Module, seed: int, *name: str | int) -> nn.Module:
    """Replace, in place, the layers of `network` that cannot be stacked as they are.

    Args:
        seed, name: of the model; dropout draws are keyed by them and by the layer's path.

    Returns:
        `network`, or its replacement where the network itself is such a layer.

    Raises:
        InputError: a layer without a replacement couples records or models, or draws random numbers.
    """
    replaced: dict[int, nn.Module] = {}
    for path, layer in list(network.named_modules(remove_duplicate=False)):
        if id(layer) not in replaced:
            replacement = _replacement(layer, path)
            if replacement is None:
                continue
            if isinstance(replacement, CounterDropout):
                replacement.key.fill_(derive(seed, *name, "dropout", path))
            replaced[id(layer)] = replacement.train(layer.training)
        if not path:
            return replaced[id(layer)]
        parent, _, child = path.rpartition(".")
        setattr(network.get_submodule(parent), child, replaced[id(layer)])
    return network


def _replacement(layer: nn.Module, path: str) -> nn.Module | None:
    if isinstance(layer, nn.SyncBatchNorm | nn.AlphaDropout | nn.FeatureAlphaDropout):
        raise InputError(
            f"The model's layer `{path}` is a {type(layer).__name__}, which has no counterpart in a stack of "
            "models; use BatchNorm or Dropout instead."
        )
    if isinstance(layer, _InstanceNorm) and layer.track_running_stats:
        raise InputError(
            f"The model's layer `{path}` is an {type(layer).__name__} with track_running_stats=True, whose "
            "statistics would see padded records; set track_running_stats=False or use GroupNorm."
        )
    if isinstance(layer, _BatchNorm):
        return MaskedBatchNorm(layer)
    if isinstance(layer, _DropoutNd):
        return CounterDropout(layer.p, None if isinstance(layer, nn.Dropout) else 2)
    return None
