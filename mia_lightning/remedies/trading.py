"""Leakage against utility: what each strength of a remedy does, paired with doing nothing, and curves at equal utility.

The curve of a remedy goes from doing nothing over its strengths, the weakest first, straight from point to point. Each
target has its own. The means over targets say where they are read: where the AUC is least at a utility not below that
of doing nothing less the price. That is at a strength, or between two where the price is passed. There each target is
read by itself, where its own utility passes the price: at its own utility without the remedy, less the price. Doing
nothing is on every curve, so that all curves overlap at its utility and, as far as they reach, below. The place is
chosen by means alone: the least AUC of each target would be low by chance, and a remedy without effect would help.

Intervals are of the crossed bootstrap: whole targets and whole records are drawn, the same for both axes, all strengths
and doing nothing, and every curve is read anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import torch
from scipy.special import stdtrit
from torch import Tensor

from mia_lightning.metrics.intervals.differences import (
    EQUAL,
    FEWEST_TARGETS,
    TOO_FEW_TARGETS,
    Measured,
    difference_of_recipes,
)
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.remedies.measuring import Way
from mia_lightning.remedies.schema import Difference, EqualUtility, Leakage
from mia_lightning.seeds import generator

NUM_DRAWS = 1000


@dataclass(frozen=True, eq=False, kw_only=True)
class Against:
    """What a remedy at one strength does, against doing nothing.

    Attributes:
        utility, auc: with the difference; the AUC is that of the strongest attack.
        p: of no difference in AUC; None without an interval.
        tpr: by false-positive rate.
    """

    utility: Difference
    auc: Leakage
    p: float | None
    tpr: Mapping[str, Leakage]


def against(remedy: Way, nothing: Way) -> Against:
    """A remedy at one strength against doing nothing."""
    utility, _ = _compared([remedy.utility], [nothing.utility])
    auc, p = _leakage(remedy.auc, nothing.auc)
    tpr = {rate: _leakage(parts, nothing.tpr[rate])[0] for rate, parts in remedy.tpr.items()}
    return Against(utility=utility, auc=auc, p=p, tpr=tpr)


def alone(parts: Mapping[str, Measured]) -> Leakage:
    """The figure of the strongest attack; without a value where one of the attacks has none."""
    missing = next((each.figure.reason for each in parts.values() if each.figure.value is None), None)
    if missing is not None:
        return Leakage(value=None, reason=missing)
    attack = max(parts, key=lambda name: _value(parts[name]))
    return Leakage(value=_value(parts[attack]), attack=attack)


def _leakage(remedy: Mapping[str, Measured], nothing: Mapping[str, Measured]) -> tuple[Leakage, float | None]:
    """With the difference to doing nothing, and its p-value."""
    of_remedy, of_nothing = alone(remedy), alone(nothing)
    for each in (of_remedy, of_nothing):
        if each.value is None:
            return each, None
    found, p = _compared(list(remedy.values()), list(nothing.values()))
    return of_remedy.model_copy(update={"difference": found}), p


def _compared(remedy: Sequence[Measured], nothing: Sequence[Measured]) -> tuple[Difference, float | None]:
    change = difference_of_recipes(remedy, nothing, same_targets=True)
    if change.method == EQUAL and change.value == 0:  # such as the accuracy behind a defence that keeps the labels
        return Difference(value=0.0, low=0.0, high=0.0), 1.0
    low, high = change.limits()
    if low is None or high is None:
        return Difference(value=change.value, reason=change.method.removeprefix("none: ")), None
    return Difference(value=change.value, low=low, high=high), change.p


def at_equal_utility(nothing: Way, strengths: Sequence[tuple[str, Way]], *, give_up: float, seed: int) -> EqualUtility:
    """The least AUC that a remedy reaches at the utility of doing nothing less `give_up`, or above.

    Args:
        strengths: the measured ones, the weakest first, each with what it is.
        seed: of the replicates, which are the same for all remedies.
    """
    points = [nothing, *(each for _, each in strengths)]
    T, N = nothing.utility.influence.part_TN.shape
    once = torch.ones(1, T, dtype=torch.float64), torch.ones(1, N, dtype=torch.float64)
    auc_1, place_1, before_1 = _read(points, once, give_up)
    value, place = float(auc_1[0] - before_1[0]), float(place_1[0])
    names = ["nothing", *(name for name, _ in strengths)]
    difference = Difference(value=value, reason=TOO_FEW_TARGETS.removeprefix("none: "))
    if T >= FEWEST_TARGETS:
        auc_R, _, before_R = _read(points, _weights(T, N, seed), give_up)
        # Student's t over targets times the deviation of the replicates.
        error = float(stdtrit(T - 1, 1 - TAIL)) * sqrt(T / (T - 1)) * float((auc_R - before_R).std())
        difference = Difference(value=value, low=value - error, high=value + error)
    return EqualUtility(
        auc=float(auc_1[0]),
        difference=difference,
        strength=names[ceil(place)],
        is_between=place != round(place),
    )


def _read(points: Sequence[Way], weights: tuple[Tensor, Tensor], give_up: float) -> tuple[Tensor, Tensor, Tensor]:
    """In each replicate the AUC at equal utility, its place on the curve, and the AUC of doing nothing, `[R]`.

    Args:
        weights: of targets and of records; see `_weights`.
    """
    utility_PRT = torch.stack([redrawn(each.utility, weights[1]) for each in points])
    auc_PRT = torch.stack([_of_strongest(each, weights) for each in points])
    share_RT = weights[0] / weights[0].shape[1]
    utility_RP, auc_RP = ((each_PRT * share_RT).sum(2).T for each_PRT in (utility_PRT, auc_PRT))
    floor_R = utility_RP[:, 0] - give_up
    _, place_R = least(utility_RP, auc_RP, floor_R)
    auc_RT = within(utility_PRT, auc_PRT, utility_PRT[0] - give_up, _sides(utility_RP, floor_R, place_R))
    return (share_RT * auc_RT).sum(1), place_R, auc_RP[:, 0]


def _of_strongest(way: Way, weights: tuple[Tensor, Tensor]) -> Tensor:
    """The AUC `[R, T]` of the attack that is strongest on average, in each replicate."""
    auc_ART = torch.stack([redrawn(part, weights[1]) for part in way.auc.values()])
    best_R = (auc_ART * weights[0]).sum(2).argmax(0)
    return auc_ART[best_R, torch.arange(len(best_R))]


def _sides(utility_RP: Tensor, floor_R: Tensor, place_R: Tensor) -> tuple[Tensor, Tensor]:
    """The points on either side of a place, `[R]`: one of enough utility, and the other; a point twice for itself."""
    before_R, behind_R = place_R.floor().long(), place_R.ceil().long()
    is_enough_R = utility_RP.gather(1, before_R[:, None])[:, 0] >= floor_R
    return before_R.where(is_enough_R, behind_R), behind_R.where(is_enough_R, before_R)


def _weights(num_targets: int, num_records: int, seed: int) -> tuple[Tensor, Tensor]:
    """How often each target, and each record, is drawn in each replicate: float64 `[R, T]`, `[R, N]`."""
    draws = generator(seed, "remedies", "replicates")
    drawn = []
    for size in (num_targets, num_records):
        place_RM = torch.randint(size, (NUM_DRAWS, size), generator=draws)
        ones_RM = torch.ones(place_RM.shape, dtype=torch.float64)
        drawn.append(torch.zeros_like(ones_RM).scatter_add_(1, place_RM, ones_RM))
    return drawn[0], drawn[1]


def redrawn(found: Measured, weight_RN: Tensor) -> Tensor:
    """A figure of each target in each replicate, to first order in the weights of records, float64 `[R, T]`."""
    change_RT: Tensor = (weight_RN - 1) @ found.influence.part_TN.T
    return found.influence.value_T + change_RT


def within(utility_PRT: Tensor, auc_PRT: Tensor, floor_RT: Tensor, sides: tuple[Tensor, Tensor]) -> Tensor:
    """The AUC `[R, T]` of each target on its line between two points, as far from the first as its utility is enough.

    That is at the second where it is enough there, and at the first where it is not even there.

    Args:
        utility_PRT, auc_PRT: the points of each target's curve.
        floor_RT: the utility that is enough.
        sides: the numbers of the two points, `[R]`.
    """
    r = torch.arange(len(floor_RT))
    (near_RT, far_RT), (near_auc_RT, far_auc_RT) = (
        [each_PRT[side_R, r] for side_R in sides] for each_PRT in (utility_PRT, auc_PRT)
    )
    passes_RT = (near_RT >= floor_RT) & (far_RT < floor_RT)
    share_RT = (near_RT - floor_RT) / (near_RT - far_RT).where(passes_RT, 1.0)
    share_RT = share_RT.where(passes_RT, (far_RT >= floor_RT).double())
    return near_auc_RT + share_RT * (far_auc_RT - near_auc_RT)


def least(utility_RP: Tensor, auc_RP: Tensor, floor_R: Tensor) -> tuple[Tensor, Tensor]:
    """The least AUC along each of R curves at a utility of at least the floor, and where on each curve it is.

    Args:
        utility_RP, auc_RP: the points of the curves in order, the first of which is not below its floor.
        floor_R: of the utility.

    Returns:
        The AUC `[R]`, and its place `[R]`: p for point p, between p and p + 1 for a point between them.
    """
    candidates, places = [], []
    for p in range(utility_RP.shape[1]):
        is_enough_R = utility_RP[:, p] >= floor_R
        candidates.append(auc_RP[:, p].where(is_enough_R, torch.inf))
        places.append(float(p))
        if p + 1 == utility_RP.shape[1]:
            break
        crosses_R = is_enough_R != (utility_RP[:, p + 1] >= floor_R)
        apart_R = (utility_RP[:, p + 1] - utility_RP[:, p]).where(crosses_R, 1.0)
        share_R = (floor_R - utility_RP[:, p]) / apart_R
        between_R = auc_RP[:, p] + share_R * (auc_RP[:, p + 1] - auc_RP[:, p])
        candidates.append(between_R.where(crosses_R, torch.inf))
        places.append(p + 0.5)
    found = torch.stack(candidates).min(0)
    return found.values, torch.tensor(places)[found.indices]


def _value(found: Measured) -> float:
    assert found.figure.value is not None
    return found.figure.value
