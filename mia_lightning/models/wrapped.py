"""Networks inside the wrappers that people train and keep them in."""

import sys
from typing import Any

import torch
from torch import nn

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def is_of(network: nn.Module, module: str, name: str) -> bool:
    """Whether it is an instance of a class whose module is slow to import: if it is, the module is imported already."""
    return isinstance(network, getattr(sys.modules.get(module), name, ()))


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
    is_averaged = is_of(network, "torch.optim.swa_utils", "AveragedModel")
    if is_averaged or isinstance(network, _WRAPPERS) or is_of(network, "lightning_fabric.wrappers", "_FabricModule"):
        inner: Any = network.module
        return inner  # type: ignore[no-any-return]  # a module
    held = list(network.children())
    has_forward = type(network).forward is not nn.Module.forward or "forward" in vars(network)
    return held[0] if len(held) == 1 and not has_forward else None
