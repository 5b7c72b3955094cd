"""How many records and trainings it takes to see a difference of a given size, before anything is trained.

A difference is seen with probability `POWER` if it is as large as its standard error times the sum of two quantiles:
that of the two-sided interval and that of the power.
"""

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from scipy.special import ndtri, stdtrit
from scipy.stats import multivariate_normal, norm

from mia_lightning.errors import InputError
from mia_lightning.metrics.intervals.differences import ERROR, FEWEST_TARGETS

POWER = 0.8
PLANNED_TARGETS = (4, 8, 16, 32, 64)
_MOST_TARGETS = 4096


@dataclass(frozen=True, kw_only=True)
class Need:
    """What it takes.

    Attributes:
        targets: models of each recipe; 1 for these two models alone.
        members: of each model, and as many non-members; None where no number of records would do.
    """

    targets: int
    members: int | None


def variance_of_one_member(figure: str, value: float) -> float:
    """The variance of a figure times n, with n members and n non-members whose scores are normal with equal variance.

    With members d above non-members and X, X′ two non-members, Y a member: the AUC is A = Φ(d / √2) and n times its
    variance 2 (P(X < Y, X′ < Y) − A²), by DeLong. A TPR r at a fixed FPR α has r (1 − r) + b² α (1 − α), b the slope of
    the ROC there. Advantage and precision at 1:1 are those of the middle threshold, where r = 1 − FPR.

    Args:
        figure: `auc`, `advantage`, `precision_balanced` or `tpr_at_fpr_<rate>`.
        value: of the figure, above chance and below 1.

    Raises:
        InputError: another figure or value.
    """
    rate = float(figure.removeprefix("tpr_at_fpr_")) if figure.startswith("tpr_at_fpr_") else None
    chance = {"auc": 0.5, "advantage": 0.0, "precision_balanced": 0.5}.get(figure, rate)
    if chance is None:
        raise InputError(
            f"`figure` is {figure!r}; plan for auc, advantage, precision_balanced, tpr_at_fpr_0.01 or tpr_at_fpr_0.001."
        )
    if not chance <= value < 1:
        raise InputError(f"`value` is {value:g}; the {figure} lies from {chance:g}, what guessing gives, to below 1.")
    if figure == "auc":
        place = float(ndtri(value))
        both = float(multivariate_normal(mean=[0, 0], cov=[[1, 0.5], [0.5, 1]]).cdf([place, place]))
        return 2 * (both - value**2)
    if rate is not None:
        slope = float(norm.pdf(ndtri(value)) / norm.pdf(ndtri(rate)))
        return value * (1 - value) + slope**2 * rate * (1 - rate)
    share = (1 + value) / 2 if figure == "advantage" else value
    of_rates = share * (1 - share)  # of the TPR, and of the FPR
    return 2 * of_rates if figure == "advantage" else of_rates * (share**2 + (1 - share) ** 2)


def members_needed(difference: float, *, of_member: float, correlation: float, training: float, targets: int) -> Need:
    """The members that it takes to see a difference between two recipes, or two models.

    The variance of the difference is 2 (1 − ρ) v / n over records, which targets share, and 2 s² / T over trainings.

    Args:
        difference: to be seen, above 0.
        of_member: v, see `variance_of_one_member`.
        correlation: ρ of the two figures over records; 0 where they share none.
        training: s, the standard deviation of the figure over trainings.
        targets: T; 1 asks about two models alone, whatever s.
    """
    if targets == 1:
        quantiles, over_trainings = float(-ndtri(ERROR / 2) + ndtri(POWER)), 0.0
    else:
        quantiles, over_trainings = _quantiles(targets), 2 * training**2 / targets
    left = (difference / quantiles) ** 2 - over_trainings
    return Need(targets=targets, members=None if left <= 0 else ceil(2 * (1 - correlation) * of_member / left))


def targets_needed(difference: float, *, training: float) -> int | None:
    """The models of each recipe that it takes with as many records as one likes; None for more than 4,096."""
    for targets in range(FEWEST_TARGETS, _MOST_TARGETS + 1):
        if _quantiles(targets) * sqrt(2 * training**2 / targets) <= difference:
            return targets
    return None


def _quantiles(targets: int) -> float:
    freedom = targets - 1
    return float(np.sum(stdtrit(freedom, [1 - ERROR / 2, POWER])))
