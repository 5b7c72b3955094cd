"""Differences of two ways of training that share their targets: the same members, records and initial weights.

Target t of one way is paired with target t of the other, and each record with itself. So what the two figures have in
common cancels: the difference of target t is A_t − B_t, and the contribution of a record to it the difference of its
contributions to both (`crossed`). Their mean over targets has the variance of the crossed bootstrap, for new records of
the same population and new trainings on them.

The largest of several figures, such as the AUC of the strongest attack, is not the figure of one attack chosen
afterwards: `worst_difference`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import torch
from scipy.special import stdtr, stdtrit
from torch import Tensor

from mia_lightning.metrics.intervals.crossed import FEWEST_TARGETS, crossed_variance

TAIL = 0.025


class Limits(NamedTuple):
    """A value, the limits of its 95 % interval (None for fewer than 16 targets), and the p-value of no difference."""

    value: float
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """A figure of T targets, and what groups of records contribute to it.

    Attributes:
        value_T: float64.
        part_TG: how much the figure of target t changes with the weight of the records of group g, to first order;
            float64, of sum 0 for each target. The groups are the same for all targets and ways of training.
    """

    value_T: Tensor
    part_TG: Tensor

    def __sub__(self, other: "Part") -> "Part":
        return Part(value_T=self.value_T - other.value_T, part_TG=self.part_TG - other.part_TG)

    def select(self, places: Sequence[int]) -> "Part":
        """The targets at these places."""
        return Part(value_T=self.value_T[list(places)], part_TG=self.part_TG[list(places)])

    @property
    def mean(self) -> float:
        return float(self.value_T.mean())

    def drawn(self, weight_RT: Tensor, weight_RG: Tensor) -> Tensor:
        """The mean over targets in R replicates of the crossed bootstrap, float64 `[R]`.

        Args:
            weight_RT, weight_RG: how often each target, and each group of records, is drawn, float64.
        """
        drawn: Tensor = (weight_RT * (self.value_T + weight_RG @ self.part_TG.T)).sum(1) / len(self.value_T)
        return drawn


def summed(part_TN: Tensor, group_N: Tensor, num_groups: int) -> Tensor:
    """Contributions of records `[T, N]` as those of their groups `[T, G]`."""
    return part_TN.new_zeros(len(part_TN), num_groups).index_add_(1, group_N, part_TN)


def difference(first: Part, second: Part, *, tail: float = TAIL) -> Limits:
    """The mean of `first` less that of `second`, with the p-value of a difference of 0, two-sided.

    Without any difference in any target the limits are 0.
    """
    apart = first - second
    return _limits(apart, tail)


def worst_difference(first: Mapping[str, Part], second: Mapping[str, Part]) -> Limits:
    """The largest figure over the attacks on one way of training, less the largest of those on the other.

    With the true means R_a and N_b and the largest of them R_a* and N_b*, the difference max R − max N is at most
    R_a* − N_b for every b, and at least R_a − N_b* for every a. Let U_ab and L_ab be limits of R_a − N_b at a tail of
    0.025 over the number of b, and of a. The largest U_ab over a is below the difference only if U_a*b is below
    R_a* − N_b; so the smallest over b of these is an upper limit with 97.5 % (Bonferroni over b alone), and the largest
    over a of the smallest L_ab over b a lower one. Neither looks for the strongest attack first.
    """
    value = max(each.mean for each in first.values()) - max(each.mean for each in second.values())
    by_second, by_first = TAIL / len(second), TAIL / len(first)
    uppers = [[_limits(a - b, by_second) for a in first.values()] for b in second.values()]
    lowers = [[_limits(a - b, by_first) for b in second.values()] for a in first.values()]
    if uppers[0][0].high is None:
        return Limits(value, None, None, None)
    high = min(max(each.high or 0.0 for each in row) for row in uppers)
    low = max(min(each.low or 0.0 for each in row) for row in lowers)
    falls = min(max(_one_sided(a - b) for a in first.values()) for b in second.values()) * len(second)
    rises = min(max(_one_sided(b - a) for b in second.values()) for a in first.values()) * len(first)
    return Limits(value, min(low, value), max(high, value), min(1.0, 2 * min(falls, rises)))


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for their number: Holm, "A simple sequentially rejective multiple test procedure" (1979)."""
    order = sorted(range(len(p)), key=p.__getitem__)
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = largest
    return adjusted


def _limits(apart: Part, tail: float) -> Limits:
    value = apart.mean
    if len(apart.value_T) < FEWEST_TARGETS:
        return Limits(value, None, None, None)
    variance, freedom = crossed_variance(apart.value_T, apart.part_TG)
    if variance == 0.0:
        return Limits(value, value, value, 1.0 if value == 0.0 else 0.0)
    reach = float(stdtrit(freedom, 1 - tail)) * sqrt(variance)
    return Limits(value, value - reach, value + reach, 2 * float(stdtr(freedom, -abs(value) / sqrt(variance))))


def _one_sided(apart: Part) -> float:
    """The p-value of a difference that is not below 0."""
    variance, freedom = crossed_variance(apart.value_T, apart.part_TG)
    if variance == 0.0:
        return 0.0 if apart.mean < 0 else 1.0
    return float(stdtr(freedom, apart.mean / sqrt(variance)))


def jackknifed(value_T: Tensor, without_GT: Tensor) -> Part:
    """A figure without a derivative at hand, from what it is without each group of records.

    To first order Σ over the records of group g of the contributions is (A − A(−g)) (1 − 1 / G), where the G groups are
    of equal size; their mean is taken off, so that they add up to 0.

    Args:
        value_T: with all records, float64.
        without_GT: without those of each group, float64.
    """
    part_TG = ((value_T - without_GT) * (1 - 1 / len(without_GT))).T
    return Part(value_T=value_T, part_TG=part_TG - part_TG.mean(1, keepdim=True))


def crossed_draws(num_targets: int, num_groups: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights of targets `[R, T]` and of groups of records `[R, G]` in replicates of the crossed bootstrap, float64."""
    drawn = []
    for size in (num_targets, num_groups):
        place_RM = torch.randint(size, (count, size), generator=generator)
        drawn.append(torch.zeros(count, size, dtype=torch.float64).scatter_add_(1, place_RM, _ones(place_RM)))
    return drawn[0], drawn[1]


def _ones(place: Tensor) -> Tensor:
    return torch.ones(place.shape, dtype=torch.float64)
