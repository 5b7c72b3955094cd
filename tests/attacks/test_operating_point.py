"""The operating point against a search over all thresholds."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from mia_lightning.attacks.operating_point import balanced_accuracy_threshold


def best_threshold(scores: list[float], is_member: list[bool]) -> float:
    """The highest score among those with the largest TPR - FPR, in exact fractions."""
    members = [s for s, inside in zip(scores, is_member, strict=True) if inside]
    nonmembers = [s for s, inside in zip(scores, is_member, strict=True) if not inside]

    def gain(threshold: float) -> Fraction:
        tpr = Fraction(sum(s >= threshold for s in members), len(members))
        return tpr - Fraction(sum(s >= threshold for s in nonmembers), len(nonmembers))

    return max(set(scores), key=lambda t: (gain(t), t))


BOTH_SIDES = st.lists(st.booleans(), min_size=2, max_size=40).filter(lambda sides: len(set(sides)) == 2)


@settings(deadline=None, max_examples=300)
@given(BOTH_SIDES, st.integers(0, 2**31), st.sampled_from([2, 4, 12, 10**6]))
def test_threshold_is_the_best_of_all(is_member: list[bool], seed: int, distinct: int) -> None:
    scores = np.random.default_rng(seed).integers(-distinct, distinct, len(is_member)).astype(float).tolist()
    found = balanced_accuracy_threshold(torch.tensor(scores), torch.tensor(is_member))
    assert found == best_threshold(scores, is_member)


def test_equal_rates_of_unequal_counts_are_a_tie() -> None:
    """TPR - FPR is 3/10 at both scores, but 0.7 - 0.4 < 0.3 in binary fractions, and 0.8 - 0.5 > 0.3."""
    for tpr, fpr in ((7, 4), (8, 5), (9, 6), (10, 7)):
        scores = [2.0] * 3 + [1.0] * (tpr - 3 + fpr) + [0.0] * (20 - tpr - fpr)
        is_member = [True] * 3 + [True] * (tpr - 3) + [False] * fpr + [True] * (10 - tpr) + [False] * (10 - fpr)
        assert balanced_accuracy_threshold(torch.tensor(scores), torch.tensor(is_member)) == 2.0


def test_threshold_reaches_the_maximum_of_scikit_learns_roc() -> None:
    random = np.random.default_rng(0)
    is_member = random.random(5000) < 0.3
    score = random.normal(size=5000) + 0.5 * is_member
    found = balanced_accuracy_threshold(torch.from_numpy(score), torch.from_numpy(is_member))
    fpr, tpr, _ = roc_curve(is_member, score)
    reached = (score[is_member] >= found).mean() - (score[~is_member] >= found).mean()
    assert reached == pytest.approx((tpr - fpr).max(), abs=1e-12)


def test_the_shape_order_and_type_of_scores_do_not_matter() -> None:
    random = torch.Generator().manual_seed(0)
    score_KN, is_member_KN = torch.randn(6, 50, generator=random), torch.rand(6, 50, generator=random) < 0.5
    found = balanced_accuracy_threshold(score_KN, is_member_KN)
    order = torch.randperm(300, generator=random)
    assert balanced_accuracy_threshold(score_KN.flatten()[order].double(), is_member_KN.flatten()[order]) == found
    assert found in score_KN.flatten().double().tolist()


def test_scores_that_only_float64_tells_apart() -> None:
    score_N = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert balanced_accuracy_threshold(score_N, torch.tensor([False, True])) == 1.0 + 1e-12
