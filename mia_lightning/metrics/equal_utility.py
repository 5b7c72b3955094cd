"""Leakage at equal utility: two recipes compared where both models are equally good.

A recipe trained at several strengths, or for several numbers of epochs, gives a curve of leakage over utility for each
target. Two recipes are compared only where the curves of all their targets overlap; within each target the leakage is
interpolated between neighbouring strengths. Whole targets and whole records are redrawn together, so that a record
moves both axes of all curves that it belongs to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from mia_lightning.metrics.intervals.influence import Observed
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.seeds import derive

Numbers = NDArray[np.float64]
FEWEST_STRENGTHS = 3
REPLICATES = 400
PLACES = 5  # utilities at which the curves are read, from one end of the overlap to the other
_SLICE_NUMBERS = 2**23


@dataclass(frozen=True, eq=False)
class Strength:
    """A recipe at one strength: what an attack says of its targets, and which records they answer right.

    Attributes:
        is_right_TN: bool `[T, N]`, whether target t answers record n right.
    """

    seen: Observed
    is_right_TN: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class AtEqualUtility:
    """Two recipes where their curves overlap.

    Attributes:
        utility_U: where the curves are read; empty where they do not overlap.
        first_U, second_U: the leakage there, means over targets.
        value: the first less the second, the mean over these utilities; NaN without an overlap.
        low, high: its 95 % limits.
        reach: the utilities that all targets of the first, and of the second, reach.
    """

    utility_U: Numbers
    first_U: Numbers
    second_U: Numbers
    value: float
    low: float
    high: float
    reach: tuple[tuple[float, float], tuple[float, float]]


def at_equal_utility(
    first: Sequence[Strength], second: Sequence[Strength], *, same_targets: bool, replicates: int = REPLICATES
) -> AtEqualUtility:
    """The difference in AUC where both recipes have the same test accuracy.

    With w_n and w_t the multinomial weights of records and targets in a replicate, AUC and accuracy of each target are
    taken with the weights w_n, its curves are read at the same utilities as those of the data, and the differences are
    averaged with the weights w_t. The limits are the difference plus and minus a quantile of Student's t with T − 1
    degrees of freedom times the standard deviation of the replicates, √(T / (T − 1)) times as large. As each answer is
    redrawn with its record and with its target, they are conservative. With one target each no target is redrawn, and
    the limits are those of these models. Replicates in which a target has no members, or no non-members, do not count.

    Args:
        first, second: at three strengths or more, in any order, all with the same targets.
        same_targets: target t has the same members in both.

    Returns:
        NaN limits where the curves do not overlap.
    """
    sides = [_Side(each) for each in (first, second)]
    plain = np.ones((1, sides[0].num_records))
    curves = [side.curves(plain) for side in sides]
    reach = [_reach(utility_BTS[0]) for utility_BTS, _ in curves]
    low, high = max(each[0] for each in reach), min(each[1] for each in reach)
    nothing = np.zeros(0)
    if not low < high:
        return AtEqualUtility(nothing, nothing, nothing, np.nan, np.nan, np.nan, (reach[0], reach[1]))
    utility_U = np.linspace(low, high, PLACES)
    read = [_read(*each, utility_U)[0].mean(0) for each in curves]
    random = np.random.default_rng(derive(0, "equal utility"))
    drawn = []
    width = max(1, _SLICE_NUMBERS // sides[0].num_records)
    for start in range(0, replicates, width):
        size = min(width, replicates - start)
        weight_BN = random.multinomial(
            sides[0].num_records, np.full(sides[0].num_records, 1 / sides[0].num_records), size
        )
        redrawn = [side.curves(weight_BN.astype(float)) for side in sides]
        has_both_B = np.all([np.isfinite(each_BTS).all((1, 2)) for of in redrawn for each_BTS in of], axis=0)
        means = [_read(*each, utility_U).mean(2) for each in redrawn]
        weights = [_weights(random, size, each.shape[1]) for each in means]
        weights[1] = weights[0] if same_targets else weights[1]
        drawn.append(((means[0] * weights[0]).mean(1) - (means[1] * weights[1]).mean(1))[has_both_B])
    value, T = float((read[0] - read[1]).mean()), min(side.num_targets for side in sides)
    error = float(np.concatenate(drawn).std(ddof=1))
    quantile = -float(ndtri(TAIL)) if T == 1 else float(stdtrit(T - 1, 1 - TAIL)) * sqrt(T / (T - 1))
    span = (value - quantile * error, value + quantile * error)
    return AtEqualUtility(utility_U, read[0], read[1], value, *span, (reach[0], reach[1]))


class _Side:
    """The curves of a recipe, for any weights of the records."""

    def __init__(self, strengths: Sequence[Strength]) -> None:
        self._strengths = strengths
        self.num_targets, self.num_records = strengths[0].seen.score_TN.shape

    def curves(self, weight_BN: Numbers) -> tuple[Numbers, Numbers]:
        """Accuracy on non-members and AUC, `[B, T, S]` both."""
        shape = (len(weight_BN), self.num_targets, len(self._strengths))
        utility_BTS, leakage_BTS = np.zeros(shape), np.zeros(shape)
        for s, strength in enumerate(self._strengths):
            seen = strength.seen
            inside_TN, outside_TN = seen.inside_TN.numpy(), seen.outside_TN.numpy()
            for t in range(self.num_targets):
                outside_BM = weight_BN[:, outside_TN[t]]
                right_M = strength.is_right_TN[t, outside_TN[t]]
                with np.errstate(invalid="ignore"):  # 0 / 0 where none was drawn
                    utility_BTS[:, t, s] = outside_BM @ right_M / outside_BM.sum(1)
                leakage_BTS[:, t, s] = weighted_auc(seen.score_TN[t].numpy(), inside_TN[t], outside_TN[t], weight_BN)
        return utility_BTS, leakage_BTS


def weighted_auc(
    score_N: Numbers, is_inside_N: NDArray[np.bool_], is_outside_N: NDArray[np.bool_], weight_BN: Numbers
) -> Numbers:
    """The AUC `[B]` with each record counted as often as its weight says; ties count half.

    NaN where members, or non-members, have no weight.
    """
    used_N = is_inside_N | is_outside_N
    tie_M = np.unique(score_N[used_N], return_inverse=True)[1]
    inside_M = is_inside_N[used_N]
    order_M = np.argsort(tie_M, kind="stable")
    start_G = np.flatnonzero(np.diff(tie_M[order_M], prepend=-1))
    weight_BM = weight_BN[:, used_N][:, order_M]
    inside_BG = np.add.reduceat(weight_BM * inside_M[order_M], start_G, axis=1)
    outside_BG = np.add.reduceat(weight_BM * ~inside_M[order_M], start_G, axis=1)
    below_BG = outside_BG.cumsum(1) - outside_BG / 2
    with np.errstate(invalid="ignore"):
        areas: Numbers = (inside_BG * below_BG).sum(1) / (inside_BG.sum(1) * outside_BG.sum(1))
    return areas


def _reach(utility_TS: Numbers) -> tuple[float, float]:
    """The utilities that the curves of all targets have."""
    return float(utility_TS.min(1).max()), float(utility_TS.max(1).min())


def _read(utility_BTS: Numbers, leakage_BTS: Numbers, utility_U: Numbers) -> Numbers:
    """The leakage at these utilities, `[B, T, U]`: on a line between neighbours, beyond the ends as there."""
    order_BTS = utility_BTS.argsort(2, kind="stable")
    utility_BTS = np.take_along_axis(utility_BTS, order_BTS, 2)
    leakage_BTS = np.take_along_axis(leakage_BTS, order_BTS, 2)
    B, T, _ = utility_BTS.shape
    read_BTU = np.empty((B, T, len(utility_U)))
    for b in range(B):
        for t in range(T):
            read_BTU[b, t] = np.interp(utility_U, utility_BTS[b, t], leakage_BTS[b, t])
    return read_BTU


def _weights(random: np.random.Generator, size: int, T: int) -> Numbers:
    """Of targets, of mean 1; 1 for a single one."""
    if T == 1:
        return np.ones((size, 1))
    weights: Numbers = random.multinomial(T, np.full(T, 1 / T), size).astype(float)
    return weights
