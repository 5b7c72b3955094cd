"""Leakage at equal utility, against slow loops and a truth that is known."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mia_lightning.metrics.equal_utility import PLACES, Strength, at_equal_utility, weighted_auc
from mia_lightning.metrics.intervals.influence import Observed


def recipe(
    leak: float, offset: float, random: np.random.Generator, T: int, n: int, hard_N: np.ndarray, member_TN: np.ndarray
) -> list[Strength]:
    """Strengths at which leakage rises with accuracy: AUC by leak × strength, accuracy by strength less `offset`."""
    strengths = []
    for strength in (0.2, 0.6, 1.0):
        score_TN = hard_N + random.normal(size=(T, n)) + leak * strength * member_TN
        right_TN = random.random((T, n)) < np.clip(0.5 + 0.4 * strength - offset, 0, 1)
        seen = Observed(
            torch.from_numpy(score_TN),
            torch.from_numpy(score_TN > 0),
            torch.from_numpy(member_TN),
            torch.ones(T, n, dtype=torch.bool),
        )
        strengths.append(Strength(seen, right_TN))
    return strengths


def two(seed: int, leaks: tuple[float, float], offset: float = 0.0, T: int = 4, n: int = 600) -> list[list[Strength]]:
    random = np.random.default_rng(seed)
    hard_N, member_TN = random.normal(size=n), random.random((T, n)) < 0.5
    return [recipe(leak, off, random, T, n, hard_N, member_TN) for leak, off in zip(leaks, (0.0, offset), strict=True)]


def test_weighted_areas_are_those_of_records_that_stand_so_often() -> None:
    random = np.random.default_rng(0)
    score, member = np.round(random.normal(size=80), 1), random.random(80) < 0.4
    weight_BN = random.multinomial(80, np.full(80, 1 / 80), 3)
    found = weighted_auc(score, member, ~member, weight_BN.astype(float))
    slow = [roc_auc_score(np.repeat(member, w), np.repeat(score, w)) for w in weight_BN]
    np.testing.assert_allclose(found, slow, rtol=1e-12)


def test_the_curves_of_each_target_are_read_at_the_same_utilities() -> None:
    sides = two(1, (2.0, 1.0))
    found = at_equal_utility(*sides, same_targets=True, replicates=20)
    curves = []
    for strengths in sides:
        of_targets = []
        for t in range(4):
            points = []
            for strength in strengths:
                member = strength.seen.member_TN[t].numpy()
                area = roc_auc_score(member, strength.seen.score_TN[t].numpy())
                points.append((strength.is_right_TN[t][~member].mean(), area))
            of_targets.append(sorted(points))
        curves.append(of_targets)
    low = max(min(u for u, _ in of) for side in curves for of in side)
    high = min(max(u for u, _ in of) for side in curves for of in side)
    np.testing.assert_allclose(found.utility_U, np.linspace(low, high, PLACES))
    means = [np.mean([np.interp(found.utility_U, *zip(*of, strict=True)) for of in side], axis=0) for side in curves]
    np.testing.assert_allclose(found.first_U, means[0])
    np.testing.assert_allclose(found.second_U, means[1])
    assert found.value == pytest.approx(float((means[0] - means[1]).mean()))
    assert found.low < found.value < found.high


def test_replicates_without_a_member_of_some_target_do_not_count() -> None:
    """Of ten records a replicate has no member, or no non-member, of some target time and again."""
    found = [at_equal_utility(*two(seed, (2.0, 1.0), T=3, n=10), same_targets=True, replicates=60) for seed in range(8)]
    read = [each for each in found if len(each.utility_U)]
    assert read
    for each in read:
        assert each.low < each.value < each.high
    no_other, both = weighted_auc(
        np.arange(3.0), np.arange(3) > 0, np.arange(3) < 1, np.array([[0.0, 1, 2], [1, 1, 1]])
    )
    assert np.isnan(no_other)
    assert both == 1.0


def test_curves_that_do_not_overlap_are_not_read() -> None:
    found = at_equal_utility(*two(2, (2.0, 1.0), offset=0.45), same_targets=True, replicates=20)
    assert len(found.utility_U) == 0
    assert np.isnan([found.value, found.low, found.high]).all()
    assert found.reach[0][0] > found.reach[1][1]


def test_the_order_of_strengths_and_targets_changes_nothing_but_the_draws() -> None:
    sides = two(3, (2.0, 1.0))
    turned = [side[::-1] for side in sides]
    plain, other = (at_equal_utility(*each, same_targets=True, replicates=20) for each in (sides, turned))
    assert (plain.value, plain.low, plain.high) == pytest.approx((other.value, other.low, other.high), rel=1e-12)


def test_one_target_each_is_judged_over_records_alone() -> None:
    found = at_equal_utility(*two(4, (2.0, 0.5), T=1, n=2000), same_targets=True, replicates=50)
    assert found.low > 0


@pytest.mark.slow
@pytest.mark.parametrize("same", [True, False])
def test_recipes_that_leak_alike_at_equal_utility_are_called_different_in_few_cases(same: bool) -> None:
    """One recipe is less accurate at each strength and leaks as much at each accuracy: the curve is the same line."""
    random = np.random.default_rng([17, same])
    wrong = 0
    for _ in range(150):
        hard_N = random.normal(size=300)
        member_TN = random.random((4, 300)) < 0.5
        other_TN = member_TN if same else random.random((4, 300)) < 0.5
        sides = [recipe(1.0, 0.0, random, 4, 300, hard_N, each) for each in (member_TN, other_TN)]
        found = at_equal_utility(*sides, same_targets=same, replicates=100)
        wrong += not found.low <= 0 <= found.high
    assert wrong / 150 <= 0.08, wrong
