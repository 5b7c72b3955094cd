"""Normal distributions of the scaled logit φ of each record, over the shadow models of one side, in or out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import log, pi, sqrt

import torch
from torch import Tensor

from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.moderated import VariancePrior, log_student
from mia_lightning.attacks.ordered import Ordered
from mia_lightning.attacks.references import FAR, Moments, Others, record_slices

# Of standard deviations, in nats: where models agree, all that is left of a spread is the rounding of signals.
SMALLEST_STD = 1e-3
# What the published code adds to a standard deviation.
_PUBLISHED_STD = 1e-30

Spread = Callable[[Moments], tuple[Tensor, Tensor | None]]
"""The deviations of records from their moments, and the degrees of freedom where the law is Student's t."""


@dataclass(frozen=True, kw_only=True)
class Normal:
    """How the distributions are fitted.

    Attributes:
        variance: `record`, one for each record, view and side, with n − 1; `fixed`, one for each view and side, the
            within-record variance pooled over the records that are evidence about a target; `moderated`, one for each
            record, drawn towards that of those records (`VariancePrior`), of a new φ about the mean of n others.
        student: with moderated variances, whether a new φ follows Student's t, as it does while mean and variance are
            uncertain, instead of the normal distribution of the same scale.
        published: as in the code published with the paper, where that differs: medians instead of means; n instead of
            n − 1, and no smallest deviation; `fixed` is the variance of all φ of a side about the common mean of all
            records and views, so that it includes the spread between records; online the in-models' serves both sides.

    Where φ is of votes, no deviation is below that of one vote (`step_of_votes`), unless `published`.
    """

    variance: str
    published: bool = False
    student: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Side:
    """The distribution of φ for each record and view over the models of one side.

    Attributes:
        mean, std: in nats, of shapes that broadcast to `[T, A, N]`.
        is_known_TN: bool; whether there are the two models that a variance takes.
        freedom: degrees of freedom of Student's t, `[T, A, N]`; None for normal distributions.
    """

    mean: Tensor
    std: Tensor
    is_known_TN: Tensor
    freedom: Tensor | None = None

    def columns(self, columns: slice) -> "Side":
        """The same of a slice of the records."""
        return Side(
            mean=self.mean[..., columns],
            std=self.std if self.std.shape[-1] == 1 else self.std[..., columns],
            is_known_TN=self.is_known_TN[:, columns],
            freedom=None if self.freedom is None else self.freedom[..., columns],
        )

    def standardised(self, phi_TAN: Tensor) -> Tensor:
        """In standard deviations from the mean."""
        return (phi_TAN - self.mean) / self.std

    def log_density(self, phi_TAN: Tensor) -> Tensor:
        if self.freedom is not None:
            return log_student(self.standardised(phi_TAN), self.freedom) - self.std.log()
        return -self.standardised(phi_TAN).square() / 2 - self.std.log() - log(2 * pi) / 2


def sides(
    phi_KAN: Tensor, shadows: Evidence, others: Others, normal: Normal, *, online: bool
) -> Iterator[tuple[slice, Side | None, Side]]:
    """In and out (in only `online`), one slice of the records after another, for each target of `others`."""
    member_KAN = shadows.member_KN.to(phi_KAN.device).unsqueeze(1)
    votes, states = shadows.signals.atoms, shadows.signals.task.states(shadows.num_classes)
    atoms = None if votes is None else (votes, states)
    index_N = shadows.target_scored_N.to(phi_KAN.device).nonzero().squeeze(1)
    slices = list(record_slices(phi_KAN.shape[0] * phi_KAN.shape[1], phi_KAN.shape[2]))
    of_in, of_out = None, None
    if len(slices) == 1 and len(index_N) == phi_KAN.shape[2]:  # what all records say is of these moments, too
        of_in = Moments.of(phi_KAN.double(), member_KAN, others) if online else None
        of_out = Moments.of(phi_KAN.double(), ~member_KAN, others)
    spread = partial(_spread, phi_KAN, index_N=index_N, others=others, normal=normal, atoms=atoms)
    spread_in = spread(member_KAN, of_in) if online else None
    if spread_in is not None and normal.published and normal.variance == "fixed":
        spread_out = spread_in  # the in-models' serves both
    else:
        spread_out = spread(~member_KAN, of_out)
    for columns in slices:
        phi_KAn, member_KAn = phi_KAN[..., columns].double(), member_KAN[..., columns]
        side = partial(_side, phi_KAn, others=others, normal=normal, atoms=atoms)
        inside = None if spread_in is None else side(member_KAn, of_in, spread=spread_in)
        yield columns, inside, side(~member_KAn, of_out, spread=spread_out)


def joined(parts: list[Side]) -> Side:
    """The slices of one side, together."""
    first = parts[0]
    is_fixed = first.std.shape[-1] < first.mean.shape[-1]
    freedoms = [part.freedom for part in parts if part.freedom is not None]
    return Side(
        mean=torch.cat([part.mean for part in parts], dim=-1),
        std=first.std if is_fixed else torch.cat([part.std for part in parts], dim=-1),
        is_known_TN=torch.cat([part.is_known_TN for part in parts], dim=-1),
        freedom=torch.cat(freedoms, dim=-1) if freedoms else None,
    )


def step_of_votes(phi: Tensor, atoms: int, num_classes: int) -> Tensor:
    """By how much φ changes, in nats, with one vote of `atoms` about the share of votes that φ stands for.

    A φ that only takes such steps is uncertain by a step: no fitted deviation is below that of a uniform distribution
    over one, step / √12. The shares are smoothed, (v + 1 / C) / (atoms + 1).
    """
    votes = phi.sigmoid() * (atoms + 1) - 1 / num_classes
    below = (votes - 0.5).clamp(0.0, atoms - 1.0)
    low, high = ((v + 1 / num_classes) / (atoms + 1) for v in (below, below + 1))
    return high.logit() - low.logit()


def _side(
    phi_KAN: Tensor,
    side_KAN: Tensor,
    known: Moments | None,
    others: Others,
    normal: Normal,
    spread: Spread,
    atoms: tuple[int, int] | None,
) -> Side:
    """Of one slice of the records.

    Args:
        known: the moments, where they are known.
        atoms: the votes and the states (`Task.states`) where φ is of votes.
    """
    moments = Moments.of(phi_KAN, side_KAN, others) if known is None else known
    std, freedom = spread(moments)
    mean = Ordered.of(phi_KAN, side_KAN, others).median() if normal.published else moments.mean
    if atoms is not None and not normal.published:
        std = torch.maximum(std, _smallest(mean, atoms))
    return Side(mean=mean, std=std, is_known_TN=moments.count.squeeze(1) >= 2, freedom=freedom)


def _smallest(mean: Tensor, atoms: tuple[int, int]) -> Tensor:
    """The deviation of a φ that is known to one vote."""
    return step_of_votes(mean, *atoms) / sqrt(12)


def _spread(
    phi_KAN: Tensor,
    side_KAN: Tensor,
    known: Moments | None,
    index_N: Tensor,
    others: Others,
    normal: Normal,
    atoms: tuple[int, int] | None,
) -> Spread:
    """How deviations follow from moments, with what all records of one side say of them.

    Args:
        known: the moments of all these records, where they are known.
    """
    slices = _moments(phi_KAN, side_KAN, index_N, others) if known is None else iter([known])
    if normal.variance == "moderated":
        return _moderated(slices, atoms, student=normal.student)
    if normal.variance == "fixed":
        fixed = _fixed_published(slices, phi_KAN, index_N) if normal.published else _fixed(slices, phi_KAN)
        return lambda _: (fixed, None)
    return _of_record_published if normal.published else _of_record


def _of_record(moments: Moments) -> tuple[Tensor, None]:
    return (moments.deviation / (moments.count - 1).clamp(min=1.0)).sqrt().clamp(min=SMALLEST_STD), None


def _of_record_published(moments: Moments) -> tuple[Tensor, None]:
    return (moments.deviation / moments.count.clamp(min=1.0)).sqrt() + _PUBLISHED_STD, None


def _moderated(slices: Iterator[Moments], atoms: tuple[int, int] | None, *, student: bool) -> Spread:
    """Variances of single records, drawn towards those of the records whose moments these are."""

    def parts() -> Iterator[tuple[Tensor, Tensor]]:
        for moments in slices:
            std, _ = _of_record(moments)
            std = std if atoms is None else torch.maximum(std, _smallest(moments.mean, atoms))
            yield std.square(), (moments.count - 1).clamp(min=0.0)

    prior = VariancePrior.of(parts())

    def spread(moments: Moments) -> tuple[Tensor, Tensor | None]:
        variance, freedom = prior.posterior(moments.deviation, (moments.count - 1).clamp(min=0.0))
        variance = variance * (1 + 1 / moments.count.clamp(min=1.0))  # of a new φ about the mean of n others
        return variance.sqrt().clamp(min=SMALLEST_STD), freedom if student else None

    return spread


def _fixed(slices: Iterator[Moments], phi_KAN: Tensor) -> Tensor:
    """The pooled within-record standard deviation of these records, `[T, A, 1]`."""
    deviation_TA1, freedom_TA1 = phi_KAN.new_zeros(2, 1, phi_KAN.shape[1], 1, dtype=torch.float64)
    for moments in slices:
        deviation_TA1 = deviation_TA1 + moments.deviation.sum(-1, keepdim=True)
        freedom_TA1 = freedom_TA1 + (moments.count - 1).clamp(min=0.0).sum(-1, keepdim=True)
    std_TA1: Tensor = (deviation_TA1 / freedom_TA1.clamp(min=1.0)).sqrt().clamp(min=SMALLEST_STD)
    return std_TA1


def _fixed_published(slices: Iterator[Moments], phi_KAN: Tensor, index_N: Tensor) -> Tensor:
    """The standard deviation of all φ of these records about their common mean, `[T, 1, 1]`."""
    centre = phi_KAN[..., index_N].mean(dtype=torch.float64)
    if bool(centre.abs() > FAR):
        centre = phi_KAN[..., index_N].median().double()
    count, total, squares = phi_KAN.new_zeros(3, 1, 1, 1, dtype=torch.float64)
    for moments in slices:
        shift_TAn = moments.mean - centre
        count = count + moments.count.expand(shift_TAn.shape).sum((1, 2), keepdim=True)
        total = total + (moments.count * shift_TAn).sum((1, 2), keepdim=True)
        squares = squares + (moments.deviation + moments.count * shift_TAn.square()).sum((1, 2), keepdim=True)
    count = count.clamp(min=1.0)
    variance: Tensor = (squares / count - (total / count).square()).clamp(min=0.0)
    return variance.sqrt() + _PUBLISHED_STD


def _moments(phi_KAN: Tensor, side_KAN: Tensor, index_N: Tensor, others: Others) -> Iterator[Moments]:
    for columns in record_slices(phi_KAN.shape[0] * phi_KAN.shape[1], len(index_N)):
        column_n = index_N[columns]
        yield Moments.of(phi_KAN[..., column_n].double(), side_KAN[..., column_n], others)
