"""The LightningModule in a network: found, asked for its methods, and taken out of what only reports."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from mia_lightning.datasets.form import Records
from mia_lightning.training.own.nothing import NoMetric

_METRICS = ("Metric", "MetricCollection")


LABELS = "labels"
"""The key of the labels in a batch of named tensors, as in those of Hugging Face."""


def batch_of(x_B: Records, label_B: Tensor) -> Any:
    """A batch as a training step is given it: [records, labels], or one dict of named tensors and `labels`."""
    return [x_B, label_B] if isinstance(x_B, Tensor) else {**x_B, LABELS: label_B}


def lightning_module(network: nn.Module) -> nn.Module | None:
    """The LightningModule that a network is, or that has all parameters of the network it stands in; None for none.

    Those of `lightning.pytorch` count as well as those of `pytorch_lightning`.
    """
    whole = set(map(id, network.parameters()))
    for module in network.modules():
        if base_of(module) is not None and set(map(id, module.parameters())) == whole:
            return module
    return None


def base_of(module: nn.Module) -> type | None:
    """Lightning's own class among those of a module; None where it is no LightningModule."""
    return next((each for each in type(module).__mro__ if each.__name__ == "LightningModule"), None)


def has_own(module: nn.Module, method: str) -> bool:
    """Whether a LightningModule has a method of its own, in place of Lightning's."""
    base = base_of(module)
    own = getattr(type(module), method, None)
    return method in vars(module) or (own is not None and own is not getattr(base, method, None))


def lightning_modules(network: nn.Module) -> Iterator[nn.Module]:
    """All LightningModules in a network."""
    return (module for module in network.modules() if base_of(module) is not None)


def take_out_reports(network: nn.Module) -> None:
    """Replace metric objects by `NoMetric`, and compiled layers by those that were compiled, in place.

    A metric has no part in a gradient, and would keep tensors of `vmap` beyond the step that made them.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            compiled: object = getattr(child, "_orig_mod", None)
            if _is_metric(child):
                setattr(parent, name, NoMetric())
            elif isinstance(compiled, nn.Module):
                setattr(parent, name, compiled)
        for name, value in list(vars(parent).items()):  # in plain lists and dicts
            if isinstance(value, list) and any(map(_is_metric, value)):
                value[:] = [NoMetric() if _is_metric(each) else each for each in value]
            elif type(value) is dict and name not in ("_modules", "_parameters", "_buffers"):
                value.update({key: NoMetric() for key, each in value.items() if _is_metric(each)})


def _is_metric(value: object) -> bool:
    if not isinstance(value, nn.Module) or isinstance(value, NoMetric):
        return False
    return any(each.__name__ in _METRICS and each.__module__.startswith("torchmetrics") for each in type(value).__mro__)
