"""Leakage against utility: what each strength of a remedy does, paired with doing nothing, and curves at equal utility.

The curve of a remedy goes from doing nothing over its strengths, the weakest first, straight from point to point. Read
at a utility u, the least AUC on its points with a utility of at least u is what the remedy can do for that price. Doing
nothing is on every curve, so that all curves overlap at its own utility and, as far as they reach, below. Intervals are
of the crossed bootstrap: whole targets and whole groups of records are drawn, the same for both axes, all strengths and
doing nothing, and every curve is read anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

from mia_lightning.metrics.intervals.crossed import FEWEST_TARGETS
from mia_lightning.metrics.intervals.paired import (
    TAIL,
    Limits,
    Part,
    crossed_draws,
    difference,
    worst_difference,
)
from mia_lightning.remedies.measuring import Measured
from mia_lightning.remedies.schema import Difference, EqualUtility, Leakage
from mia_lightning.seeds import generator

NUM_DRAWS = 2000
NO_INTERVAL = f"no interval: it takes at least {FEWEST_TARGETS} models (`shadow.count`)"


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


def against(remedy: Measured, nothing: Measured) -> Against:
    """A remedy at one strength against doing nothing."""
    found = worst_difference(remedy.auc, nothing.auc)
    return Against(
        utility=_as_difference(difference(remedy.utility, nothing.utility)),
        auc=_leakage(remedy.auc, found),
        p=found.p,
        tpr={rate: _rate(rate, remedy, nothing) for rate in remedy.tpr},
    )


def alone(nothing: Measured) -> tuple[Leakage, dict[str, Leakage]]:
    """The figures of doing nothing: AUC, and TPR by false-positive rate."""
    rates = {
        rate: _leakage(parts) if parts and rate not in nothing.missing else _unknown(nothing.missing[rate])
        for rate, parts in nothing.tpr.items()
    }
    return _leakage(nothing.auc), rates


def _rate(rate: str, remedy: Measured, nothing: Measured) -> Leakage:
    reason = remedy.missing.get(rate) or nothing.missing.get(rate)
    if reason is not None:
        return _unknown(reason)
    return _leakage(remedy.tpr[rate], worst_difference(remedy.tpr[rate], nothing.tpr[rate]))


def _leakage(parts: Mapping[str, Part], found: Limits | None = None) -> Leakage:
    attack = max(parts, key=lambda name: parts[name].mean)
    return Leakage(value=parts[attack].mean, attack=attack, difference=None if found is None else _as_difference(found))


def _unknown(reason: str) -> Leakage:
    return Leakage(value=None, reason=reason)


def _as_difference(found: Limits) -> Difference:
    return Difference(
        value=found.value, low=found.low, high=found.high, reason=NO_INTERVAL if found.low is None else None
    )


def at_equal_utility(
    nothing: Measured, strengths: Sequence[tuple[str, Measured]], *, give_up: float, seed: int
) -> EqualUtility:
    """The least AUC that a remedy reaches at the utility of doing nothing less `give_up`, or above.

    Args:
        strengths: the measured ones, the weakest first, each with what it is.
        seed: of the replicates, which are the same for all remedies.
    """
    points = [nothing, *(each for _, each in strengths)]
    utility_P = torch.tensor([each.utility.mean for each in points], dtype=torch.float64)
    auc_P = torch.tensor([max(part.mean for part in each.auc.values()) for each in points], dtype=torch.float64)
    auc_1, place = least(utility_P[None], auc_P[None], utility_P[:1] - give_up)
    value = float(auc_1[0] - auc_P[0])
    low = high = None
    num_targets, num_groups = nothing.utility.part_TG.shape
    if num_targets >= FEWEST_TARGETS:
        weights = crossed_draws(num_targets, num_groups, NUM_DRAWS, generator(seed, "remedies", "replicates"))
        utility_RP = torch.stack([each.utility.drawn(*weights) for each in points], 1)
        auc_RP = torch.stack(
            [torch.stack([part.drawn(*weights) for part in each.auc.values()]).amax(0) for each in points], 1
        )
        drawn_R = least(utility_RP, auc_RP, utility_RP[:, 0] - give_up)[0] - auc_RP[:, 0]
        reach = float(stdtrit(num_targets - 1, 1 - TAIL)) * float(drawn_R.std())
        low, high = value - reach, value + reach
    names = ["nothing", *(name for name, _ in strengths)]
    return EqualUtility(
        auc=float(auc_1[0]),
        difference=Difference(value=value, low=low, high=high, reason=NO_INTERVAL if low is None else None),
        strength=names[int(place.ceil())],
        is_between=bool(place != place.round()),
    )


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
