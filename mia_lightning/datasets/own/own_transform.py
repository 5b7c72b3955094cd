"""The random transform of somebody's dataset as an augmentation: record by record, from what the transform is given."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.own.chains import Normalisation
from mia_lightning.datasets.own.items import ItemError, as_record
from mia_lightning.datasets.own.views import View, denormalised, transform_of, with_transform
from mia_lightning.errors import InputError, first_line
from mia_lightning.seeds import isolated

Form = Literal["image", "array", "tensor"]


@dataclass(frozen=True)
class OwnTransform:
    """A training transform, applied to each record of a step by itself; no other record or model changes its draws.

    The global generators of torch, numpy and Python are seeded from the record's draw, and are afterwards as they were.

    Attributes:
        transform: what the dataset calls on its raw record; it gives the record as a network sees it.
        form: of a raw record: a PIL image, an array `[H, W, C]` or `[H, W]`, or a tensor.
        normalisation: of the bytes of a raw record; None where it is the record itself.
        shape: of a record.
        name: of what is random in it.
    """

    transform: Callable[[Any], Any]
    form: Form
    normalisation: Normalisation | None
    shape: tuple[int, ...]
    name: str

    takes_constants: ClassVar[bool] = False

    def __repr__(self) -> str:
        return f"the transform of the training set ({self.name}), record by record"

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        return wrong_shape(self.shape, shape)

    def apply(self, x: Tensor, draw_KB: Tensor) -> Tensor:
        given, changed = x.detach().cpu(), torch.empty(x.shape, dtype=x.dtype)
        with isolated(0, "own transform"), as_a_loader():
            for k, draws in enumerate(draw_KB.tolist()):
                for b, draw in enumerate(draws):
                    seed_all(draw)
                    changed[k, b] = self._of(given[k, b])
        return changed.to(x.device)

    def raw(self, x: Tensor) -> Any:
        """What the dataset gives its transform, from the record as a network sees it."""
        if self.normalisation is None:
            return x.float()
        pixels = denormalised(x, self.normalisation)
        if self.form == "tensor":
            return pixels
        array = pixels.permute(1, 2, 0).contiguous().numpy() if len(pixels) > 1 else pixels[0].contiguous().numpy()
        if self.form == "array":
            return array
        from PIL import Image

        return Image.fromarray(array)

    def _of(self, x: Tensor) -> Tensor:
        try:
            made = as_record(self.transform(self.raw(x)))
        except Exception as error:  # the user's own code
            raise failed(error) from error
        check_shape(made, self.shape)
        return made


@contextmanager
def as_a_loader() -> Iterator[None]:
    """What surrounds the items of a loader: the precision of a training step would change the draws of a transform."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_default_dtype(dtype)


def failed(error: Exception) -> InputError:
    """What is said where the training transform fails."""
    return InputError(
        f"The training transform fails on a record: {type(error).__name__}: {first_line(error)}; mend it, or set "
        "`dataset.train_transform=ignore`."
    )


def check_shape(made: Tensor, shape: tuple[int, ...]) -> None:
    """Raise an `InputError` if a record that the training transform gives has another shape."""
    if made.shape != shape:
        raise InputError(
            f"The training transform gives a record of shape {list(made.shape)}, and others of shape {list(shape)}; "
            "give all of them one, or set `dataset.train_transform=ignore`."
        )


def wrong_shape(made: tuple[int, ...], shape: tuple[int, ...]) -> str | None:
    """Why the training transform does not suit records of this shape; None where it does."""
    if tuple(shape) == made:
        return None
    return (
        f"The training transform gives records of shape {list(made)}, but a record has the shape {list(shape)}; set "
        "`dataset.train_transform` to ignore."
    )


def own_transform(
    dataset: Any, view: View, sample: Sequence[int], name: str, failures: list[str]
) -> OwnTransform | None:
    """The transform of a dataset as an augmentation of the records that the view gives.

    None where these are not what the transform is given, but for their normalisation, or where it draws from a
    generator of its own, which cannot be seeded.

    Args:
        failures: joined by the error where somebody's code is why there is none.
    """
    transform = transform_of(dataset)
    if transform is None:
        return None
    taken: list[Any] = []

    def keep(raw: Any = None, **named: Any) -> Any:
        taken.append(named or raw)  # some transforms are given their pictures by name, and give such back
        return taken[-1]

    try:
        bare = with_transform(dataset, keep)
        for index in sample:
            bare[index]
        records = [view.item(index)[0] for index in sample]
        found = OwnTransform(
            transform=transform,
            form=_form(taken[0]),
            normalisation=None if view.raw is None else view.raw[1],
            shape=tuple(records[0].shape),
            name=name,
        )
        is_raw = len(taken) == len(sample) and all(
            _equal(found.raw(x), raw) for x, raw in zip(records, taken, strict=True)
        )
        return found if is_raw and _is_seeded(found, records) else None
    except ItemError:
        return None
    except Exception as error:  # the user's own code
        failures.append(f"{type(error).__name__}: {first_line(error)}")
        return None


def _is_seeded(found: OwnTransform, records: Sequence[Tensor]) -> bool:
    x, draw_KB = torch.stack(list(records))[None], torch.arange(len(records))[None]
    return torch.equal(found.apply(x, draw_KB), found.apply(x, draw_KB))


def _form(raw: Any) -> Form:
    if isinstance(raw, Tensor):
        return "tensor"
    if isinstance(raw, np.ndarray):
        return "array"
    if hasattr(raw, "getbands"):
        return "image"
    raise ItemError("is of another form")


def _equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other) and not (hasattr(one, "getbands") and hasattr(other, "getbands")):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return bool(one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes())


def seed_all(draw: int) -> None:
    """Seed the global generators of torch, numpy and Python from a record's draw."""
    torch.default_generator.manual_seed(draw % 2**63)
    np.random.seed(draw % 2**32)
    random.seed(draw)
