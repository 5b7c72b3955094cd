"""Views: changed copies of the records, which target and shadow models are asked about too.

An attack lists those that it needs in `needs.views`; a run asks about the views of all its attacks once, through
`observe_views`. To add one, write a frozen dataclass with `name`, `refusal` and `apply`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from mia_lightning.attacks.statistics import all_right, scaled_logit
from mia_lightning.datasets.form import Form
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.interface import OutputDefense, apply_all
from mia_lightning.errors import InputError
from mia_lightning.seeds import counter_hash, derive
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast0, Positive
from mia_lightning.shadows.domain import Domain, row_blocks, unit
from mia_lightning.training.models import Observable
from mia_lightning.training.plan.room import Room
from mia_lightning.training.signals import Signals, ViewSignals


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordForm:
    """What a view knows of records in general; features are numbered in the order of a flattened record.

    Attributes:
        domain: range and kind of each feature.
        deviation_F: float64, standard deviation of each feature, gaps aside.
        is_code_F: bool, which features are codes, of tokens or categories.
    """

    domain: Domain
    deviation_F: Tensor
    is_code_F: Tensor

    @classmethod
    def of(cls, population: Population) -> "RecordForm":
        """The form of these records."""
        flat = population.entries_NF
        blocks = row_blocks(len(flat), flat.shape[1], flat.device)
        count_F = torch.stack([(~flat[row_B].isnan()).sum(0) for row_B in blocks]).sum(0).clamp(min=1)
        mean_F = torch.stack([flat[row_B].double().nan_to_num(0.0).sum(0) for row_B in blocks]).sum(0) / count_F
        squares = [(flat[row_B].double() - mean_F).square().nan_to_num(0.0).sum(0) for row_B in blocks]
        deviation_F = (torch.stack(squares).sum(0) / count_F).sqrt()
        return cls(domain=Domain.of(population), deviation_F=deviation_F, is_code_F=population.is_code_F)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one record."""
        return self.domain.shape

    @property
    def is_binary_F(self) -> Tensor:
        """Which features are 0 or 1."""
        return self.domain.is_whole_F & (self.domain.low_F == 0) & (self.domain.high_F == 1)


class View(Protocol):
    """One way to change a record, hashable and equal to others of the same settings.

    Attributes:
        name: what its draws and its observations are called; different views have different names.
    """

    @property
    def name(self) -> str: ...

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        """Why records of this shape cannot be changed so, in one sentence; None where they can."""
        ...

    def apply(self, x_B: Tensor, index_B: Tensor, *, seed: int, form: RecordForm) -> Tensor:
        """Changed copies of the records `[B, *features]`, in the form of `Population.x_N`, before any normalisation.

        Each is a function of the record, its number in `index_B` (int64 `[B]`), the seed and this view, whatever
        records stand beside it.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Shift:
    """An image moved by `dx` columns to the right and `dy` rows down; what moves in repeats the border.

    Attributes:
        image_shape: of one image, `[..., rows, columns]`, where records are flattened ones; None where they are not.
    """

    dx: int
    dy: int
    image_shape: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        return f"shift_{self.dx}_{self.dy}"

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        reason = refuse_no_image(shape, self.image_shape)
        if reason is not None:
            return reason
        rows, columns = (self.image_shape or shape)[-2:]
        if abs(self.dx) >= columns or abs(self.dy) >= rows:
            return f"An image of {rows} x {columns} cannot be shifted by {self.dy} rows and {self.dx} columns."
        return None

    def apply(self, x_B: Tensor, index_B: Tensor, *, seed: int, form: RecordForm) -> Tensor:
        image_B = x_B.reshape(-1, *(self.image_shape or x_B.shape[1:]))
        rows, columns = image_B.shape[-2:]
        row = (torch.arange(rows, device=x_B.device) - self.dy).clamp(0, rows - 1)
        column = (torch.arange(columns, device=x_B.device) - self.dx).clamp(0, columns - 1)
        return image_B[..., row[:, None], column].reshape(x_B.shape)


@dataclass(frozen=True, kw_only=True)
class Flip:
    """An image mirrored left to right; `image_shape` as of `Shift`."""

    image_shape: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        return "flip"

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        return refuse_no_image(shape, self.image_shape)

    def apply(self, x_B: Tensor, index_B: Tensor, *, seed: int, form: RecordForm) -> Tensor:
        return x_B.reshape(-1, *(self.image_shape or x_B.shape[1:])).flip(-1).reshape(x_B.shape)


@settings("")
class Noise:
    """A record with noise on every feature.

    A feature that is 0 or 1 flips with probability `scale`, or 0.5 where that is less. Any other moves by `scale`
    times its standard deviation times a standard normal number; whole numbers are rounded and kept in their range.
    Codes, of categories or tokens, and gaps stay as they are.

    Attributes:
        scale: above 0.
        draw: number of the draw, for several of one scale.
    """

    scale: Positive
    draw: AtLeast0 = 0

    @property
    def name(self) -> str:
        return f"noise_{self.scale!r}_{self.draw}"

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        return None

    def apply(self, x_B: Tensor, index_B: Tensor, *, seed: int, form: RecordForm) -> Tensor:
        x_BF = x_B.flatten(1)
        domain = form.domain
        key = torch.tensor(derive(seed, "view", self.name), device=x_B.device)
        random_BF = counter_hash(key, index_B[:, None], torch.arange(x_BF.shape[1], device=x_B.device))
        moved_BF = x_BF.double() + self.scale * form.deviation_F * _standard_normal(random_BF)
        whole_BF = moved_BF.round().clamp(domain.low_F.double(), domain.high_F.double())
        flipped_BF = torch.where(unit(random_BF) < min(self.scale, 0.5), 1.0 - x_BF.double(), x_BF.double())
        noisy_BF = torch.where(domain.is_whole_F, whole_BF, moved_BF)
        noisy_BF = torch.where(form.is_binary_F, flipped_BF, noisy_BF)
        return torch.where(form.is_code_F, x_BF.double(), noisy_BF).to(x_B.dtype).reshape(x_B.shape)


def image_views(shift: int, flip: bool, image_shape: Sequence[int] | None) -> tuple[View, ...]:
    """The 4 d copies that are moved by columns and rows whose numbers add up to d = `shift`, and the mirror image."""
    shape = None if image_shape is None else tuple(image_shape)
    steps = [(dx, side * (shift - abs(dx))) for dx in range(-shift, shift + 1) for side in (-1, 1)]
    shifts = [Shift(dx=dx, dy=dy, image_shape=shape) for dx, dy in dict.fromkeys(steps) if shift]
    return (*shifts, *([Flip(image_shape=shape)] if flip else []))


def observe_views(
    models: Observable,
    population: Population,
    views: Sequence[View],
    seed: int,
    outputs: Sequence[OutputDefense] = (),
    *,
    form: RecordForm | None = None,
    room: Room | None = None,
) -> ViewSignals:
    """Ask K models about each view of all N records in turn, `len(views)` queries for a record.

    Args:
        population: record n is number n to the views, so that target and shadow models, asked about one population,
            see the same copies.
        views: at least one; equal ones are asked about once.
        outputs: the defences through which answers are observed.
        form: of records; of this population by default.
        room: where whole answers for one view lie.

    Raises:
        InputError: no view, different views of one name, or one that cannot change such records.
    """
    views = tuple(dict.fromkeys(views))
    names = tuple(view.name for view in views)
    if not names or len(set(names)) < len(names):
        raise InputError(f"The views have the names {list(names)}; give at least one, and each a name of its own.")
    for view in views:
        reason = view_refusal(view, population.input_shape, population.form)
        if reason is not None:
            raise InputError(reason)
    form = form or RecordForm.of(population)
    logits, correct = [], []
    for view in views:
        changed = replace(population, x_N=_changed(view, population, seed, form), member_N=None)
        answer_KANC = models.observe(changed, room=room).log_probability_KANC
        observed = Signals(log_probability_KANC=apply_all(outputs, answer_KANC, room=room), task=population.task)
        logits.append(scaled_logit(observed, population.label_N).float())
        correct.append(all_right(observed, population.label_N) == 1)
    return ViewSignals(
        names=names, scaled_logit_KAN=torch.stack(logits, dim=1), is_correct_KAN=torch.stack(correct, dim=1)
    )


def view_refusal(view: View, shape: tuple[int, ...], form: Form | None) -> str | None:
    """Why records of this shape and form cannot be changed so, in one sentence; None where they can."""
    if form is not None and not form.has_quantities:
        return (
            f"Views move numbers or pixels a little, and a record here is {form.words}, which has neither; leave this "
            "attack out."
        )
    return view.refusal(shape)


def refuse_no_image(shape: tuple[int, ...], image_shape: tuple[int, ...] | None) -> str | None:
    """Why records of this shape are no images, in one sentence; None where they are."""
    if image_shape is None:
        if len(shape) >= 2:
            return None
        return (
            f"A record has the shape {shape}, which is no image `[..., rows, columns]`; name the shape of flattened "
            "images in `image_shape`, or leave this attack to images."
        )
    if len(image_shape) >= 2 and torch.Size(image_shape).numel() == torch.Size(shape).numel():
        return None
    return (
        f"`image_shape` is {list(image_shape)}, but a record has the shape {shape}; give rows and columns last, and as "
        "many numbers as a record has."
    )


def _changed(view: View, population: Population, seed: int, form: RecordForm) -> Tensor:
    blocks = row_blocks(len(population), form.domain.num_features, population.device)
    if population.form is not None and not population.form.is_one:  # views see a flat row of numbers
        x_NF = population.entries_NF
        return population.stored(torch.cat([view.apply(x_NF[row_B], row_B, seed=seed, form=form) for row_B in blocks]))
    return torch.cat([view.apply(population.x_N[row_B], row_B, seed=seed, form=form) for row_B in blocks])


def _standard_normal(random: Tensor) -> Tensor:
    """Standard normal float64 from uniform int64: the quantile at the middle of one of 2**52 equal cells."""
    cell = (random >> 12) & (2**52 - 1)
    normal: Tensor = torch.special.ndtri((cell.double() + 0.5) / 2**52)
    return normal
