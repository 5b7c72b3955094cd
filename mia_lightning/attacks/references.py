"""Shadow models as references for single records: sums over those that trained on a record, and those that did not.

A target is compared with all shadow models, or, where it is one of them itself, with all but its own block, so that
every model can be a target in turn at the price of a few passes over the signals.

Nothing here is summed over all shadow models, in and out together, though that would estimate how hard a record is.
Where each record is in half of K models and some of them are left out, the number of in-models among the rest tells
what the left-out ones trained on, and so does a mean over the rest, to which in- and out-models contribute by their
numbers. In and out are kept apart, and where both are needed each has the weight 1/2, whatever its count.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mia_lightning.attacks.applicable import missing_models, too_few_to_compare
from mia_lightning.attacks.decisions import LearntThreshold
from mia_lightning.attacks.interface import DoesNotApplyError, Evidence, Needs
from mia_lightning.attacks.operating_point import threshold_between
from mia_lightning.attacks.smooth_threshold import ascending
from mia_lightning.attacks.statistics import log_confidence
from mia_lightning.training.signals import Signals

# Numbers of one float64 matrix [K, records of a slice].
_SLICE_NUMBERS = 2**19
# A mean farther from 0 than this may be one value's doing, that of a model whose training went astray.
FAR = 1e6


@dataclass(frozen=True, eq=False, kw_only=True)
class Others:
    """For each of T targets the shadow models that it is compared with: all but those of its own block.

    Attributes:
        block_K: int64, the blocks numbered from 0.
        own_T: int64, the block of each target; None for one target that is no shadow model (T = 1).
    """

    block_K: Tensor
    own_T: Tensor | None = None

    @classmethod
    def of(cls, shadows: Evidence, row_T: Tensor | None = None) -> "Others":
        """For the shadow models `row_T` (int64) as targets; None: for a target that is not among them."""
        block_K = shadows.block_K.unique(return_inverse=True)[1].to(shadows.signals.log_probability_KANC.device)
        return cls(block_K=block_K, own_T=None if row_T is None else block_K[row_T.to(block_K.device)])

    def sum(self, value_K: Tensor) -> Tensor:
        """Sum of `[K, ...]` over the models that each target is compared with, float64 `[T, ...]`."""
        if self.own_T is None:
            return value_K.double().sum(0, keepdim=True)
        num_blocks = int(self.block_K.max()) + 1
        block_sum = value_K.new_zeros(num_blocks, *value_K.shape[1:], dtype=torch.float64)
        block_sum.index_add_(0, self.block_K, value_K.double())
        # What stands before a block plus what follows it. To subtract the block from the sum over all would leave
        # rounding errors of the size of the block, which may be far above all that is left.
        rest = torch.zeros_like(block_sum)
        torch.cumsum(block_sum[:-1], 0, out=rest[1:])
        rest[:-1] += block_sum[1:].flip(0).cumsum(0).flip(0)
        return rest[self.own_T]


@dataclass(frozen=True, eq=False, kw_only=True)
class Moments:
    """How a value is spread over the models on one side, in or out, that each target is compared with.

    Attributes:
        count, centre, total, squares: float64 `[T, ..., N]`; the number of models, a value near theirs, and the sums of
            their differences from it and of the squares of these. Of a record without models all but `centre` are 0.
    """

    count: Tensor
    centre: Tensor
    total: Tensor
    squares: Tensor

    @classmethod
    def of(cls, value_KN: Tensor, side_KN: Tensor, others: Others) -> "Moments":
        """Of float64 `[K, ..., N]` where `side_KN` (bool, of a shape that broadcasts to it) is True."""
        size_N = side_KN.double().sum(0).clamp(min=1.0)
        centre_N = (value_KN.where(side_KN, 0.0) / size_N).sum(0)
        is_far_N = centre_N.abs() > FAR
        if others.own_T is not None and bool(is_far_N.any()):
            # A target that leaves this value out is compared with the others, whose differences must not drown in it.
            median_N = value_KN.where(side_KN, torch.nan).nanmedian(0).values.nan_to_num(0.0)
            centre_N = torch.where(is_far_N, median_N, centre_N)
        difference_KN = (value_KN - centre_N).where(side_KN, 0.0)
        return cls(
            count=others.sum(side_KN),
            centre=centre_N.unsqueeze(0),
            total=others.sum(difference_KN),
            squares=others.sum(difference_KN.square()),
        )

    @property
    def mean(self) -> Tensor:
        """Of a record without models the centre, which means nothing."""
        return self.centre + self.total / self.count.clamp(min=1.0)

    @property
    def deviation(self) -> Tensor:
        """Sum of squared deviations from the mean."""
        return (self.squares - self.total.square() / self.count.clamp(min=1.0)).clamp(min=0.0)


def record_slices(num_models: int, num_records: int) -> Iterator[slice]:
    """Slices of the record axis that bound the memory of what is computed for `num_models` at once."""
    width = max(1, _SLICE_NUMBERS // max(1, num_models))
    return (slice(start, min(start + width, num_records)) for start in range(0, num_records, width))


def finite(value: Tensor) -> Tensor:
    """Infinite values at the ends of float32, so that differences are no NaN and equal values are ties."""
    limits = torch.finfo(torch.float32)
    return value.clamp(limits.min, limits.max)


def finite_log_confidence(signals: Signals, label_N: Tensor) -> Tensor:
    """log p of the true class: minus the loss, in nats, `[K, N]` float64; larger for members."""
    return finite(log_confidence(signals, label_N))


Compare = Callable[[Tensor, Tensor, Tensor, Others], Tensor]
"""Scores `[T, n]` of targets whose values are `[T, n]`, from the values `[K, n]` of all shadow models, where these are
out-models (bool), and which of them each target is compared with."""


def scores_left_out(
    compare: Compare, value_KN: Tensor, shadows: Evidence, row_T: Tensor, value_TN: Tensor | None = None
) -> Tensor:
    """The shadow models `row_T` (int64) as targets, each compared with its out-models outside its block, `[T, N]`.

    Args:
        value_KN: of all shadow models, float64.
        value_TN: what the targets show, where it is other than what they show as shadow models; overwritten.
    """
    row_T = row_T.to(value_KN.device)
    score_TN = value_KN[row_T] if value_TN is None else value_TN
    out_KN = ~shadows.member_KN.to(value_KN.device)
    others = Others.of(shadows, row_T)
    for columns in record_slices(*value_KN.shape):
        score_TN[:, columns] = compare(score_TN[:, columns], value_KN[:, columns], out_KN[:, columns], others)
    return score_TN


def check_references(shadows: Evidence, needs: Needs, attack: str, *, offline: str | None = None) -> None:
    """Every record that is evidence about a target must have the models that it is compared with.

    Args:
        attack: its name, for messages.
        offline: the attack to propose where in-models are missing.

    Raises:
        DoesNotApplyError: some have fewer out-models or in-models than `needs` says, or the population is missing.
    """
    if needs.population and not bool(shadows.population_N.any()):
        raise DoesNotApplyError(
            f"attack={attack} compares each record with a population of records that no model trained on, and none "
            "was reserved; set `membership.population`."
        )
    in_N = shadows.member_KN.sum(0)[shadows.target_scored_N]
    out_N = shadows.num_models - in_N
    reason = missing_models(attack, needs, in_N, out_N, shadows.plan_name, shadows.num_models, offline=offline)
    if reason is not None:
        raise DoesNotApplyError(reason)


def left_out_threshold(score_KN: Tensor, shadows: Evidence, attack: str) -> LearntThreshold:
    """`learnt_threshold` over the shadow models, each scored against the others.

    Args:
        score_KN: from `score_left_out` for every shadow model; −inf where too few of the others are left.

    Raises:
        DoesNotApplyError: no member, or no non-member, of a shadow model has enough other models to compare with.
    """
    usable_KN = shadows.scored_KN.to(score_KN.device) & (score_KN > -torch.inf)
    member_KN = shadows.member_KN.to(score_KN.device)
    member_M, other_M = (ascending(score_KN, usable_KN & kind_KN) for kind_KN in (member_KN, ~member_KN))
    if min(len(member_M), len(other_M)) == 0:
        raise DoesNotApplyError(too_few_to_compare(attack, shadows.num_models, shadows.plan_name))
    return threshold_between(member_M, other_M)
