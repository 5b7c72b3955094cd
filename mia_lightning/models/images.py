"""What architectures for images have in common."""

from collections.abc import Sequence

from mia_lightning.errors import InputError


def image_shape(input_shape: Sequence[int], model: str, *, least_side: int) -> tuple[int, int, int]:
    """(channels, height, width) of one record.

    Raises:
        InputError: a record is no image, or one with a side below `least_side`.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < least_side:
        raise InputError(
            f"model={model} needs images of shape (channels, height, width), both sides at least {least_side}, but a "
            f"record has shape {tuple(input_shape)}; use model=mlp."
        )
    channels, height, width = input_shape
    return channels, height, width


def check_positive(**settings: int) -> None:
    """Refuse widths, depths and counts below 1."""
    for name, value in settings.items():
        if value < 1:
            raise InputError(f"`model.{name}` is {value}; it must be at least 1.")
