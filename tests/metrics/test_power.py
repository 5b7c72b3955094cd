"""What it takes to see a difference, against simulations and closed forms."""

from math import sqrt

import numpy as np
import pytest
from scipy.stats import norm

import mia_lightning as mia
from mia_lightning.metrics.intervals.power import members_needed, targets_needed, variance_of_one_member


@pytest.mark.parametrize("area", [0.5, 0.6, 0.8, 0.95])
def test_the_variance_of_the_auc_is_that_of_normal_scores(area: float) -> None:
    """Over members at quantiles: Var of the placements Φ(y), twice, since both kinds have the same."""
    shift = sqrt(2) * norm.ppf(area)
    quantile = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    assert variance_of_one_member("auc", area) == pytest.approx(2 * float(np.var(norm.cdf(quantile + shift))), rel=1e-3)


def test_variances_of_rates() -> None:
    r, rate = 0.3, 0.01
    slope = norm.pdf(norm.isf(r)) / norm.pdf(norm.isf(rate))
    assert variance_of_one_member("tpr_at_fpr_0.01", r) == pytest.approx(r * 0.7 + slope**2 * rate * 0.99)
    assert variance_of_one_member("advantage", 0.4) == pytest.approx(2 * 0.7 * 0.3)
    # By the delta method: ∂P/∂r = f and ∂P/∂f = −r where r + f = 1.
    assert variance_of_one_member("precision_balanced", 0.7) == pytest.approx(0.21 * (0.3**2 + 0.7**2))


@pytest.mark.parametrize(("figure", "value"), [("recall", 0.5), ("auc", 0.4), ("auc", 1.0), ("tpr_at_fpr_0.01", 0.001)])
def test_what_is_not_planned_for(figure: str, value: float) -> None:
    with pytest.raises(mia.InputError, match="figure" if figure == "recall" else "value"):
        variance_of_one_member(figure, value)


def power_of(difference: float, error: float) -> float:
    """The probability that the 95 % interval of a normal difference with this standard error excludes 0."""
    reach = norm.isf(0.025)
    return float(norm.cdf(difference / error - reach) + norm.cdf(-difference / error - reach))


def test_as_many_members_as_needed_give_the_power() -> None:
    need = members_needed(0.03, of_member=0.16, correlation=0.5, training=0.0, targets=1)
    assert need.members is not None
    error = sqrt(2 * 0.5 * 0.16 / need.members)
    assert power_of(0.03, error) == pytest.approx(0.8, abs=0.002)
    assert power_of(0.0, error) == pytest.approx(0.05)


def test_trainings_that_vary_take_targets_whatever_the_records() -> None:
    few = members_needed(0.02, of_member=0.16, correlation=0.0, training=0.02, targets=4)
    many = members_needed(0.02, of_member=0.16, correlation=0.0, training=0.02, targets=64)
    assert few.members is None
    assert many.members is not None
    needed = targets_needed(0.02, training=0.02)
    assert needed is not None
    assert members_needed(0.02, of_member=1e-9, correlation=0.0, training=0.02, targets=needed).members is not None
    assert members_needed(0.02, of_member=1e-9, correlation=0.0, training=0.02, targets=needed - 1).members is None
    assert targets_needed(1e-5, training=0.02) is None
