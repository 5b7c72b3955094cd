"""Ranks and medians among the shadow models of one side, in or out, once a target's own block is left out.

The models are sorted once for each record; what leaving a block out changes follows from the ranks of its models. The
axis of models comes last, since that is what is sorted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mia_lightning.attacks.references import Others

# Minus a loss is interpolated between these as if two more losses had been seen, 0 and a very large one: the ends of
# the code published with Ye et al. (2022).
ENDS = (-1000.0, 0.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Ordered:
    """The values of one side in ascending order, for each record, and what each target leaves out of them.

    Attributes:
        sorted_NK: float64 `[..., N, K]`; +inf behind the values, in place of the models of the other side.
        count_N: int64 `[..., N]`; the models of this side.
        taken_NTW: int64 `[..., N, T, W]`, ascending; the places of the models of a target's own block, and K or more
            in place of those of the other side. W is 0 for a target that is no shadow model.
    """

    sorted_NK: Tensor
    count_N: Tensor
    taken_NTW: Tensor

    @classmethod
    def of(cls, value_KN: Tensor, side_KN: Tensor, others: Others) -> "Ordered":
        """Of finite values `[K, ..., N]` where `side_KN` (bool, of a shape that broadcasts to it) is True."""
        num_models = len(value_KN)
        side_NK = side_KN.expand(value_KN.shape).movedim(0, -1)
        sorted_NK, order_NK = value_KN.movedim(0, -1).where(side_NK, torch.inf).contiguous().sort(-1)
        mate_TW, is_mate_TW = _mates(others)
        if mate_TW.numel():
            places = torch.arange(num_models, device=value_KN.device).expand(order_NK.shape)
            place_NK = torch.empty_like(order_NK).scatter_(-1, order_NK, places)
            place_NK = place_NK.where(side_NK, num_models)
            taken_NTW = place_NK[..., mate_TW].where(is_mate_TW, num_models).sort(-1).values
        else:
            taken_NTW = order_NK.new_empty(*order_NK.shape[:-1], *mate_TW.shape)
        return cls(sorted_NK=sorted_NK, count_N=side_NK.sum(-1), taken_NTW=taken_NTW)

    def columns(self, columns: slice) -> "Ordered":
        """The same of a slice of the records."""
        return Ordered(
            sorted_NK=self.sorted_NK[..., columns, :],
            count_N=self.count_N[..., columns],
            taken_NTW=self.taken_NTW[..., columns, :, :],
        )

    @property
    def left_NT(self) -> Tensor:
        """How many models are left to compare with, int64 `[..., N, T]`."""
        return self.count_N.unsqueeze(-1) - (self.taken_NTW < self.sorted_NK.shape[-1]).sum(-1)

    def median(self) -> Tensor:
        """Median of the models that are left, `[T, ..., N]`; 0 where there are none.

        Of an even number it is the mean of the middle two.
        """
        left_NT = self.left_NT
        low_NT, high_NT = (self._at(place_NT) for place_NT in ((left_NT - 1).clamp(min=0) // 2, left_NT // 2))
        return ((low_NT + high_NT) / 2).where(left_NT > 0, 0.0).movedim(-1, 0)

    def place_of(self, value_TN: Tensor) -> Tensor:
        """Where a value stands among those that are left, `[T, ..., N]`: 0 at the lowest, their number − 1 at the
        highest, linear between neighbours. Of equal ones it is the first place.

        Args:
            value_TN: finite; where blocks are left out, of as many targets as there are.
        """
        value_NT = value_TN.movedim(0, -1).contiguous()
        num_below_NT = torch.searchsorted(self.sorted_NK, value_NT)
        last = self.sorted_NK.shape[-1] - 1
        for taken_NT in self.taken_NTW.unbind(-1):  # as many as a block has models
            own_NT = self.sorted_NK.gather(-1, taken_NT.clamp(max=last)).where(taken_NT <= last, torch.inf)
            num_below_NT -= (own_NT < value_NT).long()
        return interpolated(value_NT, num_below_NT, self._at, self.left_NT).movedim(-1, 0)

    def _at(self, place_NT: Tensor) -> Tensor:
        """The values at these places of what is left."""
        for taken_NT in self.taken_NTW.unbind(-1):  # ascending, so that each moves the place behind it by one
            place_NT = place_NT + (place_NT >= taken_NT).long()
        return self.sorted_NK.gather(-1, place_NT.clamp(max=self.sorted_NK.shape[-1] - 1))


def interpolated(value: Tensor, num_below: Tensor, at: Callable[[Tensor], Tensor], size: Tensor | int) -> Tensor:
    """The place of a value among `size` ascending ones, of which `num_below` are smaller, linear between neighbours.

    Args:
        at: gives the values at places of the shape of `value`.
    """
    upper = num_below.clamp(max=size - 1).clamp(min=0)
    lower = (upper - 1).clamp(min=0)
    low, high = at(lower), at(upper)
    share = ((value - low) / (high - low)).where(high > low, 1.0).clamp(0.0, 1.0)
    return lower + (upper - lower) * share


def _mates(others: Others) -> tuple[Tensor, Tensor]:
    """The models of each target's block, int64 `[T, W]`, and where that is one rather than filled up, bool."""
    if others.own_T is None:
        nothing = others.block_K.new_empty(1, 0)
        return nothing, nothing.bool()
    is_own_TK = others.own_T[:, None] == others.block_K
    width = int(is_own_TK.sum(1).max())
    is_mate_TW, mate_TW = is_own_TK.long().sort(dim=1, descending=True, stable=True)
    return mate_TW[:, :width], is_mate_TW[:, :width].bool()
