"""Intervals over targets that share records: the closed form against crossed bootstraps that are carried out."""

import numpy as np
import pytest
import torch
from simulated_targets import leave_one_out_targets

from mia_lightning.metrics.figures import Interval
from mia_lightning.metrics.intervals.areas import TOO_FEW
from mia_lightning.metrics.intervals.crossed import (
    CROSSED,
    FEWEST_TARGETS,
    auc_contributions,
    crossed_interval,
    share_contributions,
)
from mia_lightning.metrics.leakage import attack_figures
from mia_lightning.metrics.over_targets import mean_auc_interval, target_figures
from mia_lightning.metrics.roc import roc


def targets(num_targets: int, num_records: int, seed: int = 0, digits: int = 9):  # type: ignore[no-untyped-def]
    """Scores of targets on shared records, not all of them evidence about each."""
    random = np.random.default_rng(seed)
    score, member = leave_one_out_targets(num_targets, num_records, 0.2, random)
    scored = random.random(score.shape) < 0.9
    return torch.from_numpy(score.round(digits)), torch.from_numpy(member), torch.from_numpy(scored)


@pytest.mark.parametrize("digits", [9, 0])
def test_contributions_to_the_auc_are_placements(digits: int) -> None:
    score_TN, member_TN, scored_TN = targets(4, 40, digits=digits)
    value_T, contribution_TN = auc_contributions(score_TN, member_TN, scored_TN)
    for t in range(4):
        members = [n for n in range(40) if scored_TN[t, n] and member_TN[t, n]]
        others = [n for n in range(40) if scored_TN[t, n] and not member_TN[t, n]]
        score = score_TN[t].tolist()
        wins = np.array([[(score[i] > score[j]) + 0.5 * (score[i] == score[j]) for j in others] for i in members])
        expected = np.zeros(40)
        expected[members] = (wins.mean(1) - wins.mean()) / len(members)
        expected[others] = (wins.mean(0) - wins.mean()) / len(others)
        np.testing.assert_allclose(contribution_TN[t], expected, atol=1e-14)
        assert float(value_T[t]) == pytest.approx(roc(score_TN[t][scored_TN[t]], member_TN[t][scored_TN[t]]).auc)


def test_contributions_to_a_share() -> None:
    is_hit_TN = torch.tensor([[True, False, True, True]])
    counted_TN = torch.tensor([[True, True, True, False]])
    value_T, contribution_TN = share_contributions(is_hit_TN, counted_TN)
    assert value_T.tolist() == pytest.approx([2 / 3])
    assert contribution_TN[0].tolist() == pytest.approx([1 / 9, -2 / 9, 1 / 9, 0])


def _weighted_auc(score, member, weight) -> float:  # type: ignore[no-untyped-def]
    wins = (score[member][:, None] > score[~member]) + 0.5 * (score[member][:, None] == score[~member])
    pair = weight[member][:, None] * weight[~member]
    return float((wins * pair).sum() / pair.sum())


@pytest.mark.slow
def test_the_variance_is_that_of_a_crossed_bootstrap() -> None:
    """2,000 replicates in which targets and records are redrawn and every AUC is computed anew."""
    T, N = 16, 80
    score_TN, member_TN, scored_TN = targets(T, N)
    random = np.random.default_rng(0)
    score, member, scored = score_TN.numpy(), member_TN.numpy(), scored_TN.numpy()
    replicates = []
    for _ in range(2000):
        of_record = np.bincount(random.integers(N, size=N), minlength=N)
        of_target = np.bincount(random.integers(T, size=T), minlength=T)
        areas = [_weighted_auc(score[t][scored[t]], member[t][scored[t]], of_record[scored[t]]) for t in range(T)]
        replicates.append(float(of_target @ areas) / T)
    value_T, contribution_TN = auc_contributions(score_TN, member_TN, scored_TN)
    trainings = float(((value_T - value_T.mean()) ** 2).sum()) / T**2
    records = float((contribution_TN.sum(0) ** 2).sum()) * (1 - 1 / T) / T**2 + float((contribution_TN**2).sum()) / T**2
    assert np.std(replicates) == pytest.approx(np.sqrt(trainings + records), rel=0.08)
    low, high, method = crossed_interval(value_T, contribution_TN)
    mean = float(value_T.mean())
    reach = np.log(high / (1 - high)) - np.log(mean / (1 - mean))
    assert reach == pytest.approx(np.log(mean / (1 - mean)) - np.log(low / (1 - low)))
    assert 1.96 < reach * mean * (1 - mean) / np.std(replicates) < 2.8  # Student's t, its variance unbiased
    assert method == CROSSED
    assert mean_auc_interval(score_TN, member_TN, scored_TN) == (low, high, method)


def test_few_targets_have_no_interval() -> None:
    score_TN, member_TN, scored_TN = targets(FEWEST_TARGETS - 2, 80)
    interval = mean_auc_interval(score_TN, member_TN, scored_TN)
    assert interval[:2] == (None, None)
    assert "fewer than 16 targets" in interval.method


def test_targets_without_two_records_of_a_kind_have_no_interval() -> None:
    score_TN, member_TN, scored_TN = targets(16, 80)
    scored_TN[3] &= ~member_TN[3]
    assert mean_auc_interval(score_TN, member_TN, scored_TN) == (None, None, TOO_FEW)


def test_figures_that_never_vary_have_no_interval() -> None:
    value_T, nothing_TN = torch.ones(16, dtype=torch.float64), torch.zeros(16, 20, dtype=torch.float64)
    expected = Interval(None, None, "none: the figure is the same on all targets and records")
    assert crossed_interval(value_T, nothing_TN) == expected
    assert crossed_interval(value_T / 2, nothing_TN) == expected
    assert crossed_interval(value_T / 10 + 1e-17 * torch.arange(16), nothing_TN + 1e-19) == expected  # but for rounding


def test_figures_of_a_single_target_are_its_own() -> None:
    score_TN, member_TN, scored_TN = (each[:1] for each in targets(4, 200))
    of_one = attack_figures(*(each[0][scored_TN[0]] for each in (score_TN, score_TN > 0, member_TN)))
    assert target_figures(score_TN, score_TN > 0, member_TN, scored_TN) == of_one


def test_figures_of_several_targets() -> None:
    T = FEWEST_TARGETS
    score_TN, member_TN, scored_TN = targets(T, 400)
    flagged_TN = score_TN > 0.5
    figures = target_figures(score_TN, flagged_TN, member_TN, scored_TN, max_fprs=(0.01, 0.001))
    tpr_T, fpr_T, precision_T, accuracy_T = (
        torch.stack([hit[t][kept[t]].double().mean() for t in range(T)])
        for hit, kept in (
            (flagged_TN, member_TN & scored_TN),
            (flagged_TN, ~member_TN & scored_TN),
            (member_TN, flagged_TN & scored_TN),
            (flagged_TN == member_TN, scored_TN),
        )
    )
    expected = {
        "recall": tpr_T,
        "advantage": tpr_T - fpr_T,
        "balanced_accuracy": (1 + tpr_T - fpr_T) / 2,
        "precision": precision_T,
        "precision_balanced": tpr_T / (tpr_T + fpr_T),
        "accuracy": accuracy_T,
        "auc": torch.tensor([roc(score_TN[t][scored_TN[t]], member_TN[t][scored_TN[t]]).auc for t in range(T)]),
    }
    for name, value_T in expected.items():
        figure = getattr(figures, name)
        assert figure.value == pytest.approx(float(value_T.mean())), name
        assert figure.spread == pytest.approx(float(value_T.std())), name
        assert figure.low < figure.value < figure.high, name
        assert figure.interval == CROSSED, name
    assert figures.advantage.low == pytest.approx(2 * figures.balanced_accuracy.low - 1)
    tpr, fpr = float(tpr_T.mean()), float(fpr_T.mean())
    for prior, figure in figures.ppv.items():
        share = float(prior)
        assert figure.value == pytest.approx(share * tpr / (share * tpr + (1 - share) * fpr))
        assert figure.low < figure.value < figure.high
    # One threshold for all targets allows a rate that is too small for each of them.
    pooled = roc(score_TN[scored_TN], member_TN[scored_TN])
    assert figures.tpr_at_fpr["0.001"].value is None
    for key, figure in figures.tpr_at_fpr_pooled.items():
        assert figure.value == pooled.tpr_at_fpr(float(key)).tpr
        assert figure.false_positives == pooled.tpr_at_fpr(float(key)).false_positives


def test_several_targets_that_flag_nothing_or_lack_a_kind() -> None:
    score_TN, member_TN, scored_TN = targets(16, 100)
    figures = target_figures(score_TN, torch.zeros_like(member_TN), member_TN, scored_TN)
    assert figures.precision.reason == figures.ppv["0.1"].reason == "the attack flagged no record"
    assert figures.recall.interval.startswith("none")
    flagged_TN = member_TN & (score_TN > 0)
    figure = target_figures(score_TN, flagged_TN, member_TN, scored_TN).ppv["0.1"]
    assert (figure.value, figure.reason) == (None, "no false positive on any target")
    scored_TN = scored_TN & member_TN
    figures = target_figures(score_TN, score_TN > 0, member_TN, scored_TN)
    assert figures.recall.value is not None
    assert figures.recall.low is None
    assert {figure.reason for figure in figures.tpr_at_fpr_pooled.values()} == {"the group has no non-members"}
    assert figures.ppv["0.1"].reason == "the group has no non-members"


def test_memory_is_not_that_of_pairs() -> None:
    """64 targets on 5,000 records: the pairs of members and non-members would be 4e8 numbers."""
    score_TN, member_TN, scored_TN = targets(64, 5000)
    low, high, _ = mean_auc_interval(score_TN, member_TN, scored_TN)
    assert 0.7 < low < high < 1.0
