"""Networks inside the wrappers that people train and keep them in."""

import torch
from lightning_fabric.wrappers import _FabricModule
from torch import nn
from torch.optim.swa_utils import AveragedModel

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel, _FabricModule)


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside all wrappers: of several devices, compiled, averaged, or a mere holder of another one."""
    inner = _inside(network)
    return network if inner is None else unwrapped(inner)


def _inside(network: nn.Module) -> nn.Module | None:
    if isinstance(network, torch.jit.ScriptModule):
        return None
    compiled: object = getattr(network, "_orig_mod", None)  # of torch.compile; its class is slow to import
    if isinstance(compiled, nn.Module):
        return compiled
    if isinstance(network, _WRAPPERS):
        inner: nn.Module = network.module
        return inner
    held = list(network.children())
    has_forward = type(network).forward is not nn.Module.forward or "forward" in vars(network)
    return held[0] if len(held) == 1 and not has_forward else None
