"""The scale of records: by the range of their values, the same for arrays from a file and from Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.settings.kinds import FromList

PerChannel = float | Annotated[Sequence[float], FromList]

_CHECKED_NUMBERS = 2**22  # at once


def scale_by_range(x_N: Tensor, name: str) -> tuple[float, tuple[str, ...]]:
    """The factor on records, and what is to be said of it where it is not obvious.

    It is 1/255 for uint8 records of two or more axes (images) that use the upper half of a byte's range, and 1 for all
    others: bits, one-hot vectors and small counts stay what they would be as floating-point numbers.
    """
    if x_N.dtype != torch.uint8 or x_N.numel() == 0:
        return 1.0, ()
    is_image, largest = x_N.ndim > 2, 0
    for block in x_N.split(max(1, _CHECKED_NUMBERS // max(1, x_N[0].numel()))):
        largest = max(largest, int(block.max()))
        if largest > 127:  # as most images show at once
            break
    if is_image == (largest > 127) or largest <= 1:
        return (1 / 255 if is_image and largest > 127 else 1.0), ()
    reach = "above 127" if largest > 127 else f"up to {largest}"
    return 1.0, (
        f"The records of {name!r} are uint8 with values {reach}, and are taken as they are, not divided by 255; if the "
        "model is trained on others, set `dataset.scale` (`scale` of `make_population`).",
    )


def per_channel(what: str, value: PerChannel | None, record: tuple[int, ...], file: Path) -> Tensor | None:
    """`mean` or `std`, one number or one for each entry of a record's first axis, so that it broadcasts.

    Raises:
        InputError: it has another length.
    """
    if value is None:
        return None
    if isinstance(value, float):
        return torch.tensor(value)
    if not record or len(value) != record[0]:
        raise InputError(
            f"dataset.{what} has {len(value)} numbers but the records of '{file.absolute()}' have the "
            f"shape {record}: give one number, or one for each entry of the first axis"
        )
    return torch.tensor(value).reshape(-1, *[1] * (len(record) - 1))
