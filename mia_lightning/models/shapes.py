"""Parameters that architectures share: the shape of a record or an image, activations."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from mia_lightning.errors import InputError
from mia_lightning.settings.kinds import AtLeast1, FromList, OneOf

Shape = Annotated[Sequence[AtLeast1], FromList]

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}
Activation = Annotated[str, OneOf(ACTIVATIONS)]


def image_shape(input_shape: Shape, model: str, *, least_side: int, mend: str = "") -> tuple[int, int, int]:
    """(channels, height, width) of one record.

    Args:
        model: name of the architecture in the configuration.
        least_side: of an image.
        mend: the end of the error message: what else helps.

    Raises:
        InputError: a record is no image, or has a side below `least_side`.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < least_side:
        raise InputError(
            f"model={model} needs images of shape (channels, height, width), both sides at least {least_side}, but a "
            f"record has shape {tuple(input_shape)}; use model=mlp{mend}."
        )
    channels, height, width = input_shape
    return channels, height, width


def text_length(input_shape: Shape, model: str) -> int:
    """Tokens of one record.

    Args:
        model: name of the architecture in the configuration.

    Raises:
        InputError: a record is no line of tokens.
    """
    if len(input_shape) != 1:
        raise InputError(
            f"model={model} needs texts of shape (tokens,), but a record has shape {tuple(input_shape)}; use model=mlp."
        )
    return input_shape[0]


def real_tokens(x: Tensor, padding_id: int | None) -> Tensor:
    """Which tokens are no padding, bool, of the shape of `x`."""
    return torch.ones_like(x, dtype=torch.bool) if padding_id is None else x != padding_id
