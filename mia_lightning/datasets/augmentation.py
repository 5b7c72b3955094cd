"""Augmentation: in training, records are changed at random in each step; validation and attacks see them unchanged.

To add one, write a frozen dataclass with `refusal` and `apply`, and name it in `training.augment`. One that takes a
record of a number anew has `takes_index`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol, cast, runtime_checkable

import torch
from annotated_types import MinLen
from torch import Tensor
from torch.nn.functional import pad

from mia_lightning.seeds import counter_hash, derive
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1, FromList, ImageShape

_STREAM = derive(0, "augmentation")


@runtime_checkable
class Augmentation(Protocol):
    """One way to change the records of a step."""

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        """Why records of this shape cannot be augmented so, in one sentence; None where they can."""
        ...

    def apply(self, x: Tensor, draw_KB: Tensor) -> Tensor:
        """Changed copies of the records `[K, B, *features]`; each depends on its record and its draw alone.

        Args:
            x: normalised, as the networks see it.
            draw_KB: int64, uniform, a new one for each model and record in every step; key of `counter_hash`.
        """
        ...


def augmented(
    x: Tensor, augmentations: Sequence[Augmentation], *, key_K: Tensor, step: int | Tensor, index_KB: Tensor
) -> Tensor:
    """The records of a step, changed by all augmentations in order.

    The draw for a record is a function of the model's key, the step, the record's index and the place among the
    augmentations. It depends neither on other models nor on other records of the batch, so that under DP-SGD a record
    does not influence the gradients of the others.

    Args:
        x: `[K, B, *features]`, normalised.
        key_K: int64, of the models.
        step: of the optimiser; a number, or an int64 scalar where the records are.
        index_KB: int64, of the records in the population.
    """
    for place, each in enumerate(augmentations):
        draw_KB = counter_hash(key_K[:, None], _STREAM, place, step, index_KB)
        named = {"index_KB": index_KB} if takes_index(each) else {}
        x = cast(Any, each).apply(x, draw_KB, **named)
    return x


def takes_index(augmentation: Augmentation) -> bool:
    """Whether it takes the record of a number anew, where others change the record that they are given.

    Its `apply` has an argument `index_KB` of these numbers, and its records must be those of the data set.
    """
    return bool(getattr(augmentation, "takes_index", False))


@settings("training.augment.Crop")
class Crop:
    """An image padded on all four sides and cropped to its size at a random place; all places are equally likely.

    Attributes:
        padding: rows and columns on each side.
        fill: `zero` pads with 0 in normalised values (the mean colour where `Population.mean` is that, black where
            there is none), as He et al. do; `reflect` with the mirrored image, its border not repeated; a number, or
            one for each channel, with this normalised value.
        image_shape: of one image, `[..., rows, columns]`, where records are flattened images; None where they are not.

    Source: He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (2016), section 4.2.
    """

    padding: AtLeast1 = 4
    fill: Literal["zero", "reflect"] | float | Annotated[Sequence[float], FromList, MinLen(1)] = "zero"
    image_shape: ImageShape | None = None

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        reason = _refuse_no_image("Crop", shape, self.image_shape)
        if reason is not None:
            return reason
        rows, columns = (self.image_shape or shape)[-2:]
        channels = torch.Size((self.image_shape or shape)[:-2]).numel()
        if isinstance(self.fill, Sequence) and not isinstance(self.fill, str) and len(self.fill) != channels:
            return (
                f"`training.augment.Crop.fill` has {len(self.fill)} numbers for an image of {channels} channels; give "
                "one for each, or a single number."
            )
        if self.padding >= min(rows, columns):
            return (
                f"`training.augment.Crop.padding` is {self.padding}, which may leave nothing of an image of "
                f"{rows} x {columns}; lower it."
            )
        return None

    def apply(self, x: Tensor, draw_KB: Tensor) -> Tensor:
        image = _images(x, self.image_shape).flatten(0, 1)
        rows, columns = image.shape[-2:]
        places = 2 * self.padding + 1
        row_M, column_M = (counter_hash(draw_KB.flatten(), axis) % places for axis in range(2))
        padded = pad(image, (self.padding,) * 4, mode="reflect" if self.fill == "reflect" else "constant")
        if not isinstance(self.fill, str):
            inside = pad(torch.ones(rows, columns, dtype=torch.bool, device=x.device), (self.padding,) * 4)
            fills = [self.fill] if isinstance(self.fill, int | float) else self.fill
            fill_C = torch.stack([x.new_full((1, 1), each) for each in fills])  # no copy from the host in a step
            padded = torch.where(inside, padded, fill_C)
        window = padded.unfold(-2, rows, 1).unfold(-2, columns, 1)  # a view: [M, channels, places, places, ...]
        return window[torch.arange(len(image), device=x.device), :, row_M, column_M].reshape(x.shape)


@settings("training.augment.Flip")
class Flip:
    """An image mirrored left to right with probability 1/2; `image_shape` as of `Crop`."""

    image_shape: ImageShape | None = None

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        return _refuse_no_image("Flip", shape, self.image_shape)

    def apply(self, x: Tensor, draw_KB: Tensor) -> Tensor:
        image = _images(x, self.image_shape)
        is_mirrored_KB = counter_hash(draw_KB, 0) < 0
        return torch.where(is_mirrored_KB[..., None, None, None], image.flip(-1), image).reshape(x.shape)


@settings("training.augment.Cutout")
class Cutout:
    """An image with a square of zeros, in normalised values, centred at any of its pixels and clipped at its border.

    Attributes:
        size: rows and columns of the square; it begins `size` // 2 above and to the left of its centre.
        image_shape: as of `Crop`.

    Source: DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout" (2017),
    section 3.2.
    """

    size: AtLeast1 = 8
    image_shape: ImageShape | None = None

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        return _refuse_no_image("Cutout", shape, self.image_shape)

    def apply(self, x: Tensor, draw_KB: Tensor) -> Tensor:
        image = _images(x, self.image_shape)
        row_KBR, column_KBR = (self._is_cut(draw_KB, axis, image.shape[3 + axis]) for axis in range(2))
        is_cut = row_KBR[..., None, :, None] & column_KBR[..., None, None, :]
        return image.masked_fill(is_cut, 0.0).reshape(x.shape)

    def _is_cut(self, draw_KB: Tensor, axis: int, length: int) -> Tensor:
        """Which rows (or columns) of each image the square covers, bool `[K, B, length]`."""
        start_KB = counter_hash(draw_KB, axis) % length - self.size // 2
        offset_KBR = torch.arange(length, device=draw_KB.device) - start_KB[..., None]
        return (offset_KBR >= 0) & (offset_KBR < self.size)


def _images(x: Tensor, image_shape: Sequence[int] | None) -> Tensor:
    """Records `[K, B, *features]` as `[K, B, channels, rows, columns]`; all axes before the rows are channels."""
    features = torch.Size(image_shape or x.shape[2:])
    return x.reshape(*x.shape[:2], features[:-2].numel(), *features[-2:])


def _refuse_no_image(kind: str, shape: tuple[int, ...], image_shape: Sequence[int] | None) -> str | None:
    if image_shape is None:
        if len(shape) >= 2:
            return None
        return (
            f"`training.augment` has a {kind}, but a record has the shape {shape}, which is no image "
            "`[..., rows, columns]`; give the shape of flattened images as its `image_shape`, or leave it out."
        )
    if torch.Size(image_shape).numel() == torch.Size(shape).numel():
        return None
    return (
        f"`training.augment.{kind}.image_shape` is {list(image_shape)}, but a record has the shape {shape}; "
        "give as many numbers as a record has."
    )
