"""A multilayer perceptron: the architecture of Shokri et al. (2017) for tabular data, section VI-B."""

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

from torch import nn

from mia_lightning.errors import InputError

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


def activation_named(name: str) -> nn.Module:
    """A fresh activation module."""
    if name not in ACTIVATIONS:
        raise InputError(f"`model.activation` is {name!r}; it must be one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()


def check_widths(setting: str, widths: object) -> None:
    """Refuse what is no list of whole numbers of at least 1."""
    is_list = isinstance(widths, Sequence) and not isinstance(widths, str)
    if not is_list or any(type(width) is not int or width < 1 for width in widths):  # type: ignore[attr-defined]
        raise InputError(f"`{setting}` is {widths!r}; it must be a list of whole numbers of at least 1, such as [128].")


def check_dropout(dropout: object) -> None:
    """Refuse what is no probability below 1."""
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0.0 <= dropout < 1.0:
        raise InputError(f"`model.dropout` is {dropout!r}; it must be at least 0 and below 1.")


class MLP(nn.Sequential):
    """Fully connected network from flattened records to logits `[B, C]`.

    Args:
        input_shape: of one record.
        num_classes: C.
        hidden: width of each hidden layer.
        activation: tanh, relu or gelu.
        dropout: probability of dropping after each hidden layer.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        hidden: Sequence[int] = (128,),
        activation: str = "tanh",
        dropout: float = 0.0,
    ) -> None:
        check_widths("model.hidden", hidden)
        check_dropout(dropout)
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        width = prod(input_shape)
        for i, wider in enumerate(hidden):
            layers[f"linear_{i}"] = nn.Linear(width, wider)
            layers[f"activation_{i}"] = activation_named(activation)
            if dropout:
                layers[f"dropout_{i}"] = nn.Dropout(dropout)
            width = wider
        layers["logits"] = nn.Linear(width, num_classes)
        super().__init__(layers)
