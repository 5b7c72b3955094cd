"""Intervals over records of what an attack achieves, and of differences between two audits.

Every figure is represented by draws from its sampling distribution, so that differences need no formula of their own.
Their estimand: these trained models, on other records of the same population. Where two audits share records, the draws
of their figures are matched to the correlation over these.
"""

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from mia_lightning.comparison.schema import Variant, VariantAttack
from mia_lightning.metrics.figures import THESE_MODELS
from mia_lightning.seeds import derive

Numbers = NDArray[np.float64]
Correlation = Callable[[Variant, Variant, str, str], float]
"""Of a figure of two variants over the records that they share: of the attack of this name, the figure of this name."""
NUM_DRAWS = 10_000
LEVEL = 0.95
ESTIMAND = f"95 % intervals over records: {THESE_MODELS}"


def rates_to(figure: str, tpr: Numbers, fpr: Numbers, num_members: int, num_nonmembers: int) -> Numbers:
    """Precision, recall or accuracy from the rates of true and false positives."""
    found, alarms = tpr * num_members, fpr * num_nonmembers
    if figure == "precision":
        return found / (found + alarms)
    if figure == "recall":
        return tpr
    return (found + num_nonmembers - alarms) / (num_members + num_nonmembers)


def draws(attack: VariantAttack, figure: str, *name: str | int) -> Numbers:
    """`NUM_DRAWS` draws of a figure, seeded by name.

    Both rates are drawn from the posterior of a binomial share under Jeffreys' prior, which keeps a width where a count
    is 0 or complete; the AUC from a normal distribution on the logit scale (DeLong's variance). Where it is 1 or 0,
    members and non-members being separated, it is u^(1/m), or 1 less that, u being uniform and m the smaller number of
    the two: a share `tail` of these is beyond the bound of `areas.auc_interval`.
    """
    generator = np.random.default_rng(derive(0, "interval", *name, attack.name, figure))
    if figure == "auc":
        value, error = attack.auc.value, attack.auc_logit_error
        if value in (0.0, 1.0):
            order: Numbers = generator.random(NUM_DRAWS) ** (1 / min(attack.num_members, attack.num_nonmembers))
            return order if value else 1 - order
        if value is None or error is None:
            return np.full(NUM_DRAWS, np.nan if value is None else value)
        drawn: Numbers = expit(generator.normal(logit(value), error, NUM_DRAWS))
        return drawn
    n1, n0 = attack.num_members, attack.num_nonmembers
    tpr = generator.beta(attack.true_positives + 0.5, n1 - attack.true_positives + 0.5, NUM_DRAWS)
    fpr = generator.beta(attack.false_positives + 0.5, n0 - attack.false_positives + 0.5, NUM_DRAWS)
    return rates_to(figure, tpr, fpr, n1, n0)


def independent(one: Variant, other: Variant, attack: str, figure: str) -> float:
    """The correlation of variants of which nothing is known that they share."""
    return 0.0


def matched(first: Numbers, second: Numbers, correlation: float) -> Numbers:
    """The draws `second` in an order in which they go with those of `first`; as they are without a correlation.

    Both keep their distributions, with the ranks of normal numbers with this correlation (Iman and Conover 1982).

    Args:
        first, second: as many of each.
        correlation: in (-1, 1).
    """
    if correlation == 0.0:
        return second
    generator = np.random.default_rng(derive(0, "matched draws"))
    leading, own = (np.sort(generator.normal(size=len(first))), generator.normal(size=len(first)))
    leading = leading[first.argsort(kind="stable").argsort()]
    following = correlation * leading + sqrt(1 - correlation**2) * own
    ordered: Numbers = np.sort(second)[following.argsort(kind="stable").argsort()]
    return ordered


def limits(values: Numbers, level: float = LEVEL) -> tuple[float, float]:
    """The central share `level` of the draws."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
