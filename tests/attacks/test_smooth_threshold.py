"""The smooth threshold against a curve that is smoothed by plain convolution, and the laws that it must keep."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from mia_lightning.attacks.decisions import FIXED, LEARNT, OWN_WAY, TIED_SCORES, LearntThreshold, decision_of
from mia_lightning.attacks.operating_point import balanced_accuracy_threshold, learnt_threshold
from mia_lightning.attacks.smooth_threshold import PRIOR, WIDTH


def observations(
    members: int, others: int, shift: float, seed: int, share: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal scores; a share of the members is shifted."""
    random = np.random.default_rng([members, others, seed])
    score = random.normal(size=members + others)
    is_member = np.arange(members + others) < members
    score[: round(share * members)] += shift
    return torch.from_numpy(score), torch.from_numpy(is_member)


def shares(score_M: torch.Tensor, is_member_M: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """From the highest score down: u, the mean of TPR and FPR, and D = TPR - FPR."""
    is_member = is_member_M.numpy()[np.argsort(-score_M.numpy(), kind="stable")]
    tpr, fpr = is_member.cumsum() / is_member.sum(), (~is_member).cumsum() / (~is_member).sum()
    return np.r_[0, (tpr + fpr) / 2], np.r_[0, tpr - fpr]


@pytest.mark.parametrize(
    ("members", "others", "shift", "share"),
    [(100, 100, 1.0, 1.0), (3000, 3000, 0.3, 1.0), (3000, 500, 2.0, 0.2), (200, 5000, 4.0, 1.0), (500, 500, 0.0, 1.0)],
)
def test_the_threshold_is_the_maximum_of_a_curve_smoothed_by_convolution(
    members: int, others: int, shift: float, share: float
) -> None:
    score_M, is_member_M = observations(members, others, shift, 0, share)
    u, gain = shares(score_M, is_member_M)
    grid = np.linspace(-1, 2, 6001)  # D is continued to be odd at both ends
    curve = np.where(grid < 0, -1, 1) * np.where(grid > 1, -1, 1) * np.interp(1 - np.abs(1 - np.abs(grid)), u, gain)
    kernel = norm.pdf(np.linspace(-1, 1, 4001), scale=WIDTH) / 2000
    middle = np.linspace(0, 1, 2001)
    smoothed = np.convolve(curve, kernel, "same")[2000:4001] / kernel.sum()
    smoothed += PRIOR * np.sqrt(1 / members + 1 / others) * np.sin(np.pi * middle)
    found = learnt_threshold(score_M, is_member_M)
    assert found.decision == LEARNT
    flagged = [float((score_M[side] >= found).double().mean()) for side in (is_member_M, ~is_member_M)]
    one = max(1 / members, 1 / others, 1 / 1000)
    assert np.mean(flagged) == pytest.approx(middle[smoothed.argmax()], abs=0.004 + one)
    assert np.interp(np.mean(flagged), middle, smoothed) > smoothed.max() - 1e-3


def test_the_scale_the_order_the_shape_and_the_type_of_scores_do_not_matter() -> None:
    score_M, is_member_M = observations(400, 400, 1.0, 1)
    found = learnt_threshold(score_M, is_member_M)
    flagged_M = score_M >= found
    order = torch.randperm(800, generator=torch.Generator().manual_seed(0))
    assert learnt_threshold(score_M[order].view(8, 100), is_member_M[order].view(8, 100)) == found
    for mapped_M in (3 * score_M - 7, score_M.exp(), score_M**3, score_M.float()):
        at = learnt_threshold(mapped_M, is_member_M)
        assert torch.equal(mapped_M >= at, flagged_M)


def test_infinite_scores_do_not_matter_beyond_their_place() -> None:
    score_M, is_member_M = observations(400, 400, 1.0, 2)
    flagged_M = score_M >= learnt_threshold(score_M, is_member_M)
    ends_M = torch.where(score_M > score_M.sort().values[-6], torch.inf, score_M)
    ends_M = ends_M.where(score_M > score_M.sort().values[5], -torch.inf)
    found = learnt_threshold(ends_M, is_member_M)
    assert np.isfinite(found)
    assert float(((ends_M >= found) != flagged_M).double().mean()) < 0.005


def test_at_chance_the_threshold_is_near_the_median_and_a_leak_moves_it() -> None:
    at = []
    for seed in range(40):
        score_M, is_member_M = observations(2000, 2000, 0.0, seed)
        at.append(float((score_M >= learnt_threshold(score_M, is_member_M)).double().mean()))
    assert np.std(at) < 0.12
    score_M, is_member_M = observations(2000, 2000, 3.0, 0, share=0.3)
    found = learnt_threshold(score_M, is_member_M)
    assert float((score_M >= found).double().mean()) < 0.35


def test_it_varies_less_than_the_best_of_the_scores_and_is_as_accurate() -> None:
    fresh_M, is_fresh_M = observations(20000, 20000, 0.3, 999)

    def advantage(threshold: float) -> float:
        tpr, fpr = (float((fresh_M[side] >= threshold).double().mean()) for side in (is_fresh_M, ~is_fresh_M))
        return tpr - fpr

    smooth, best = [], []
    for seed in range(100):
        observed = observations(1000, 1000, 0.3, seed)
        smooth.append(float(learnt_threshold(*observed)))
        best.append(balanced_accuracy_threshold(*observed))
    assert np.std(smooth) < 0.6 * np.std(best)
    assert np.mean([advantage(each) for each in smooth]) > np.mean([advantage(each) for each in best]) - 0.001


@pytest.mark.parametrize("levels", [2, 5, 20])
def test_tied_scores_take_the_best_of_the_scores_and_say_so(levels: int) -> None:
    score_M, is_member_M = observations(500, 500, 1.0, 3)
    score_M = (score_M.clamp(-2, 3) * levels / 5).round()
    found = learnt_threshold(score_M, is_member_M)
    assert found == balanced_accuracy_threshold(score_M, is_member_M)
    assert found.decision == TIED_SCORES


def test_fewer_than_fifty_scores_are_tied_ones() -> None:
    found = learnt_threshold(*small())
    assert (found.decision, float(found)) == (TIED_SCORES, balanced_accuracy_threshold(*small()))
    assert learnt_threshold(torch.arange(50.0), torch.arange(50) % 3 == 0).decision == LEARNT


def small() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(49.0), torch.arange(49) % 3 == 0


def test_ties_away_from_the_threshold_are_no_matter() -> None:
    score_M, is_member_M = observations(500, 500, 1.0, 4)
    assert learnt_threshold(score_M.clamp(-1, 3), is_member_M).decision == LEARNT


def test_the_decision_of_several_fits() -> None:
    learnt, other, reason = LearntThreshold(0.1), LearntThreshold(0.2), LearntThreshold(0.5, "none: some reason")
    assert decision_of([0.5, 0.5]) == FIXED
    assert decision_of([0.5, 0.4]) == OWN_WAY
    assert decision_of([learnt, other, learnt]) == LEARNT
    assert decision_of([learnt, 0.5]) == OWN_WAY
    assert decision_of([learnt, reason]) == "none: some reason"
    assert decision_of([reason, reason]) == "none: some reason"
