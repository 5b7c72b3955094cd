"""Transforms of torchvision, v1 and v2, read step by step: what of them is normalisation, and what is augmentation.

torchvision is not imported: its classes are known by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mia_lightning.datasets.augmentation import Augmentation, Crop, Flip

_TO_TENSOR = ("ToTensor", "PILToTensor", "ToImage", "ToPureTensor")
_BYTE = 255


@dataclass(frozen=True, eq=False)
class InOrder:
    """Steps, one after another."""

    steps: Sequence[Callable[[Any], Any]]

    def __call__(self, x: Any) -> Any:
        for step in self.steps:
            x = step(x)
        return x


@dataclass(frozen=True)
class Normalisation:
    """`(x * scale - mean) / std`, one number a channel; () for none."""

    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def then(self, mean: Sequence[float], std: Sequence[float]) -> "Normalisation":
        """Followed by another subtraction and division."""
        of = zip(*_alike(self.mean or (0.0,), self.std or (1.0,), mean, std), strict=True)
        both = [(m1 + s1 * m2, s1 * s2) for m1, s1, m2, s2 in of]
        return Normalisation(self.scale, *(tuple(each) for each in zip(*both, strict=True)))

    def of(self, value: Sequence[float]) -> tuple[float, ...]:
        """The value, normalised, a number a channel."""
        of = zip(*_alike(value, self.mean or (0.0,), self.std or (1.0,)), strict=True)
        return tuple((v * self.scale - m) / s for v, m, s in of)


@dataclass(frozen=True, eq=False)
class Chain:
    """A transform: any steps, and then such as are known to act on each pixel alone or at random.

    Attributes:
        head: the steps before.
        tail: conversions, scaling, normalisation, flips and crops.
    """

    head: tuple[Callable[[Any], Any], ...]
    tail: tuple[Callable[[Any], Any], ...]

    @classmethod
    def of(cls, transform: Any) -> "Chain":
        steps = tuple(steps_of(transform))
        start = len(steps)
        while start and _is_known(steps[start - 1]):
            start -= 1
        return cls(steps[:start], steps[start:])

    @property
    def is_random(self) -> bool:
        """Whether some of the known steps are random."""
        return any(_is_random(step) for step in self.tail)

    def fixed(self) -> InOrder:
        """All steps but the known random ones."""
        return InOrder((*self.head, *(step for step in self.tail if not _is_random(step))))

    def as_bytes(self) -> "tuple[Callable[[Any], Tensor], Normalisation] | None":
        """What gives a record as uint8, and the normalisation after which it is what the fixed steps give.

        None for a transform that does not scale bytes in its known steps.
        """
        found = Normalisation()
        for step in self.tail:
            if _scales(step):
                found = Normalisation(1 / _BYTE) if found.scale == 1.0 else found
            elif _named(step) == "Normalize":
                if found.scale == 1.0:
                    return None
                found = found.then(_numbers(step.mean), _numbers(step.std))  # type: ignore[attr-defined]
        if found.scale == 1.0:
            return None
        head = InOrder(self.head)
        return (lambda x: _uint8(head(x))), found

    def augmentations(self, shape: tuple[int, ...]) -> tuple[Augmentation, ...] | None:
        """The known random steps, as they act on normalised records of this shape, in order.

        None where one of them has no counterpart for such records.
        """
        found: list[Augmentation] = []
        for place, step in enumerate(self.tail):
            if not _is_random(step):
                continue
            if len(shape) < 2:
                return None
            if _named(step) == "RandomHorizontalFlip":
                found.append(Flip())
                continue
            crop: Any = step
            padding = _padding(crop)
            if tuple(crop.size) != tuple(shape[-2:]) or padding is None:
                return None
            if padding == 0:
                continue
            fill: Any = "reflect" if crop.padding_mode == "reflect" else _fill(crop, self.tail[place + 1 :])
            one = Crop(padding=padding, fill=fill)
            if one.refusal(shape) is not None:
                return None
            found.append(one)
        return tuple(found)


def steps_of(transform: Any) -> list[Callable[[Any], Any]]:
    """The steps of a composed transform, also of one within another; [] for None."""
    if transform is None:
        return []
    inner = transform.transforms if _named(transform) == "Compose" else None
    if isinstance(transform, InOrder):
        inner = transform.steps
    if inner is None and isinstance(transform, nn.Sequential):
        inner = list(transform)
    return [transform] if inner is None else [step for each in inner for step in steps_of(each)]


def name_of(transform: Any) -> str:
    """What a sentence calls it."""
    return str(getattr(transform, "__name__", type(transform).__name__))


def _named(step: Any) -> str:
    """The name of its class in torchvision; "" for another one."""
    own = type(step)
    return own.__name__ if own.__module__.startswith("torchvision.transforms") else ""


def _is_known(step: Any) -> bool:
    name = _named(step)
    if name == "RandomHorizontalFlip":
        return bool(step.p == 0.5)
    if name == "RandomCrop":
        is_padded = step.padding_mode in ("constant", "reflect") and not isinstance(step.fill, dict)
        return is_padded and not step.pad_if_needed and _padding(step) is not None
    return name in _TO_TENSOR or name == "Normalize" or _scales(step)


def _is_random(step: Any) -> bool:
    return _named(step) in ("RandomHorizontalFlip", "RandomCrop")


def _scales(step: Any) -> bool:
    """Whether it makes numbers from 0 to 1, in float32, of bytes."""
    name = _named(step)
    if name == "ToDtype":
        return step.dtype is torch.float32 and bool(step.scale)
    return name == "ToTensor" or (name == "ConvertImageDtype" and step.dtype is torch.float32)


def _padding(crop: Any) -> int | None:
    """Of all four sides; None where they differ."""
    if crop.padding is None:
        return 0
    sides = [crop.padding] if isinstance(crop.padding, int) else list(crop.padding)
    return int(sides[0]) if len(set(sides)) == 1 else None


def _fill(crop: Any, after: Sequence[Any]) -> Any:
    """The colour of its border, once the steps after it have acted on it."""
    scale = next((Normalisation(1 / _BYTE) for step in after if _scales(step)), Normalisation())
    value = scale.of(_numbers(0 if crop.fill is None else crop.fill))
    for step in after:
        if _named(step) == "Normalize":
            value = Normalisation().then(_numbers(step.mean), _numbers(step.std)).of(value)
    if not any(value):
        return "zero"
    return value[0] if len(set(value)) == 1 else list(value)


def _numbers(value: Any) -> tuple[float, ...]:
    if isinstance(value, Tensor):
        value = value.flatten().tolist()
    return tuple(float(each) for each in value) if isinstance(value, Sequence) else (float(value),)


def _alike(*values: Sequence[float]) -> list[tuple[float, ...]]:
    """As many numbers in each, where one stands for all."""
    length = max(map(len, values))
    return [tuple(each) * (length if len(each) == 1 else 1) for each in values]


def _uint8(x: Any) -> Tensor:
    """An image as uint8 `[C, H, W]`.

    Raises:
        TypeError: it has other numbers.
    """
    if hasattr(x, "getbands"):
        from torchvision.transforms.v2.functional import pil_to_tensor

        x = pil_to_tensor(x)
    elif isinstance(x, np.ndarray) and x.ndim in (2, 3):
        x = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1) if x.ndim == 3 else x[None]))
    if not isinstance(x, Tensor) or x.dtype != torch.uint8:
        raise TypeError("no image of bytes")
    return x.as_subclass(Tensor)
