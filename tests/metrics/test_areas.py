"""The interval of the AUC: against a slow loop, where the variance vanishes, and its laws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from mia_lightning.metrics.intervals.areas import (
    DELONG,
    DELONG_FEW,
    SEPARATED,
    TIED,
    TOO_FEW,
    auc_interval,
    delong,
    separated_average_precision,
)
from mia_lightning.metrics.roc import roc


def sample(n1: int, n0: int, shift: float, seed: int = 0, digits: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal scores of members `shift` above those of non-members, rounded."""
    is_member = np.arange(n1 + n0) < n1
    score = np.random.default_rng(seed).normal(size=n1 + n0) + shift * is_member
    return torch.from_numpy(score.round(digits)), torch.from_numpy(is_member)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 1000), st.integers(0, 2))
def test_delong_is_the_slow_loop_with_ties(n1: int, n0: int, seed: int, digits: int) -> None:
    score_N, is_member_N = sample(n1, n0, 1.0, seed, digits)
    members, others = score_N[is_member_N].tolist(), score_N[~is_member_N].tolist()
    wins = np.array([[(a > b) + 0.5 * (a == b) for b in others] for a in members])
    expected = wins.mean(1).var(ddof=1) / n1 + wins.mean(0).var(ddof=1) / n0
    assert delong(roc(score_N, is_member_N)) == pytest.approx(expected, abs=1e-14)


def test_the_interval_is_normal_on_the_logit_scale() -> None:
    curve = roc(*sample(150, 200, 1.0))
    area, error = curve.auc, np.sqrt(delong(curve))
    reach = norm.ppf(0.975) * error / (area * (1 - area))
    low, high, method = auc_interval(curve)
    assert method == DELONG
    assert [np.log(low / (1 - low)), np.log(high / (1 - high))] == pytest.approx(
        [np.log(area / (1 - area)) - reach, np.log(area / (1 - area)) + reach]
    )
    wider = auc_interval(curve, tail=0.025 / 30)
    assert wider.low < low < high < wider.high
    assert auc_interval(roc(*sample(50, 200, 1.0))).method == DELONG_FEW
    assert auc_interval(roc(*sample(200, 200, 3.0))).method == DELONG_FEW


def test_perfect_separation_leaves_a_one_sided_bound() -> None:
    score_N = torch.arange(50.0)
    is_member_N = score_N >= 30
    assert auc_interval(roc(score_N, is_member_N)) == (pytest.approx(0.025 ** (1 / 20)), 1.0, SEPARATED)
    assert auc_interval(roc(-score_N, is_member_N)) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)), SEPARATED)


def test_the_bound_at_perfect_separation_is_not_passed_too_often() -> None:
    """Scores at which 20 members and 20 non-members are separated in 2.5 of 100 cases have an AUC above the bound."""
    random = np.random.default_rng(0)
    bound = 0.025 ** (1 / 20)
    shift = np.sqrt(2) * norm.ppf(bound)
    scores = random.normal(size=(20_000, 40))
    separated = (scores[:, :20] + shift).min(1) > scores[:, 20:].max(1)
    assert separated.mean() <= 0.025


def test_tied_scores_have_an_interval_around_one_half() -> None:
    low, high, method = auc_interval(roc(torch.zeros(300), torch.arange(300) < 100))
    assert method == TIED
    assert (low, high) == (pytest.approx(0.025**0.01 / 2), pytest.approx(1 - 0.025**0.01 / 2))


@pytest.mark.parametrize(("n1", "n0"), [(1, 50), (50, 1)])
def test_a_single_record_of_a_kind_has_no_interval(n1: int, n0: int) -> None:
    assert auc_interval(roc(*sample(n1, n0, 1.0))) == (None, None, TOO_FEW)


@pytest.mark.parametrize(("n1", "n0"), [(400, 400), (200, 600)])
def test_the_bound_of_average_precision_is_that_of_the_worst_ranking(n1: int, n0: int) -> None:
    """Non-members above all members, as many as the AUC allows, and no other ranking of the same AUC, come near it."""
    low, high, method = separated_average_precision(n1, n0, tail=0.025)
    assert (high, method) == (1.0, SEPARATED)
    mistaken = (1 - 0.025 ** (1 / min(n1, n0))) * n0
    above = round(50 * mistaken)  # of fifty times as many records
    is_member_N = torch.cat([torch.zeros(above), torch.ones(50 * n1), torch.zeros(50 * n0 - above)]).bool()
    score_N = -torch.arange(50.0 * (n1 + n0), dtype=torch.float64)
    worst = roc(score_N, is_member_N).average_precision
    assert low == pytest.approx(worst, abs=2e-4)
    # The same number of misplaced pairs, by twice as many non-members in the middle of the members.
    half = 25 * n1
    middle = torch.cat([torch.ones(half), torch.zeros(2 * above), torch.ones(half), torch.zeros(50 * n0 - 2 * above)])
    assert roc(score_N, middle.bool()).average_precision > worst


def test_the_area_of_a_large_population_costs_no_square() -> None:
    """A million records: a loop over pairs would be 2.5e11 steps."""
    curve = roc(*sample(500_000, 500_000, 1.0))
    low, high, _ = auc_interval(curve)
    assert low < norm.cdf(1 / np.sqrt(2)) < high
    assert high - low < 0.002
