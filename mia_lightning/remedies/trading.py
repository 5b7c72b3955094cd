"""Leakage against utility: what each strength of a remedy does, paired with doing nothing, and curves at equal utility.

The curve of a remedy goes from doing nothing over its strengths, the weakest first, straight from point to point. Read
at a utility u, the least AUC on its points with a utility of at least u is what the remedy can do for that price. Doing
nothing is on every curve, so that all curves overlap at its own utility and, as far as they reach, below. Intervals are
of the crossed bootstrap: whole targets and whole records are drawn, the same for both axes, all strengths and doing
nothing, and every curve is read anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

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
    utility_P = torch.tensor([_value(each.utility) for each in points], dtype=torch.float64)
    auc_P = torch.tensor([max(map(_value, each.auc.values())) for each in points], dtype=torch.float64)
    auc_1, place = least(utility_P[None], auc_P[None], utility_P[:1] - give_up)
    value = float(auc_1[0] - auc_P[0])
    names = ["nothing", *(name for name, _ in strengths)]
    difference = Difference(value=value, reason=TOO_FEW_TARGETS.removeprefix("none: "))
    if nothing.num_targets >= FEWEST_TARGETS:
        error = _error(points, give_up, seed)
        difference = Difference(value=value, low=value - error, high=value + error)
    return EqualUtility(
        auc=float(auc_1[0]),
        difference=difference,
        strength=names[int(place.ceil())],
        is_between=bool(place != place.round()),
    )


def _error(points: Sequence[Way], give_up: float, seed: int) -> float:
    """How far the limits are from the value: Student's t over targets times the deviation of the replicates."""
    T, N = points[0].utility.influence.part_TN.shape
    weights = _weights(T, N, seed)
    utility_RP = torch.stack([drawn(each.utility, weights) for each in points], 1)
    auc_RP = torch.stack(
        [torch.stack([drawn(part, weights) for part in each.auc.values()]).amax(0) for each in points], 1
    )
    change_R = least(utility_RP, auc_RP, utility_RP[:, 0] - give_up)[0] - auc_RP[:, 0]
    return float(stdtrit(T - 1, 1 - TAIL)) * sqrt(T / (T - 1)) * float(change_R.std())


def _weights(num_targets: int, num_records: int, seed: int) -> tuple[Tensor, Tensor]:
    """How often each target, and each record, is drawn in each replicate: float64 `[R, T]`, `[R, N]`."""
    draws = generator(seed, "remedies", "replicates")
    drawn = []
    for size in (num_targets, num_records):
        place_RM = torch.randint(size, (NUM_DRAWS, size), generator=draws)
        ones_RM = torch.ones(place_RM.shape, dtype=torch.float64)
        drawn.append(torch.zeros_like(ones_RM).scatter_add_(1, place_RM, ones_RM))
    return drawn[0], drawn[1]


def drawn(found: Measured, weights: tuple[Tensor, Tensor]) -> Tensor:
    """The mean of a figure over targets in each replicate, to first order in the weights of records, float64 `[R]`."""
    (weight_RT, weight_RN), of = weights, found.influence
    mean_R: Tensor = (weight_RT * (of.value_T + (weight_RN - 1) @ of.part_TN.T)).sum(1) / len(of.value_T)
    return mean_R


def least(utility_RP: Tensor, auc_RP: Tensor, floor_R: Tensor) -> tuple[Tensor, Tensor]:
    """The least AUC along each of R curves at a utility of at least the floor, and where on the first curve it is.

    Args:
        utility_RP, auc_RP: the points of the curves in order, the first of which is not below its floor.
        floor_R: of the utility.

    Returns:
        The AUC `[R]`, and the place on the first curve: p for point p, between p and p + 1 for a point between them.
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
    return found.values, torch.tensor(places)[found.indices[0]]


def _value(found: Measured) -> float:
    assert found.figure.value is not None
    return found.figure.value
