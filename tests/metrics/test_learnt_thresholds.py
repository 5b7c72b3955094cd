"""The jackknife with thresholds learnt anew against plain loops, and where there is no interval."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from scipy.stats import t as student
from simulated_targets import leave_one_out_targets
from torch import Tensor

from mia_lightning.attacks.decisions import FIXED, TIED_SCORES
from mia_lightning.attacks.operating_point import learnt_threshold
from mia_lightning.metrics.intervals.crossed import CROSSED, TOO_FEW
from mia_lightning.metrics.intervals.learnt_thresholds import (
    JACKKNIFE,
    TOO_FEW_BLOCKS,
    TOO_FEW_RECORDS,
    Relearnt,
    blocks_of,
    rate_intervals,
    relearnt,
)
from mia_lightning.metrics.over_targets import NOT_KNOWN, target_figures

RATES = ("recall", "precision", "precision_balanced", "accuracy", "balanced_accuracy", "advantage")


def targets(num_models: int, num_records: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    score, member = leave_one_out_targets(num_models, num_records, 0.3, np.random.default_rng(seed))
    scored = np.random.default_rng(seed + 1).random(member.shape) < 0.9
    return torch.from_numpy(score), torch.from_numpy(member & scored), torch.from_numpy(scored)


def in_folds(score_TN: Tensor, member_TN: Tensor, scored_TN: Tensor, folds: int = 8) -> Tensor:
    """The threshold of each target, learnt from the models outside its fold of pairs."""
    fold_T = torch.arange(len(score_TN)) // 2 % folds
    return torch.tensor(
        [
            learnt_threshold(*(each[fold_T != fold][scored_TN[fold_T != fold]] for each in (score_TN, member_TN)))
            for fold in fold_T.tolist()
        ],
        dtype=torch.float64,
    )


def plain_figures(score_TN: Tensor, threshold_T: Tensor, member_TN: Tensor, scored_TN: Tensor) -> np.ndarray:
    """Recall, precision, precision at 1:1, accuracy, balanced accuracy, PPV at 10 %: of each target, then the means."""
    rows = []
    for score, threshold, member, scored in zip(score_TN, threshold_T, member_TN, scored_TN, strict=True):
        flagged, inside = (score >= threshold)[scored].numpy(), member[scored].numpy()
        tpr, fpr = flagged[inside].mean(), flagged[~inside].mean()
        accuracy = (flagged == inside).mean()
        rows.append([tpr, inside[flagged].mean(), tpr / (tpr + fpr), accuracy, (1 + tpr - fpr) / 2, fpr])
    means = np.mean(rows, 0)
    means[5] = 0.1 * means[0] / (0.1 * means[0] + 0.9 * means[5])
    return means


def plain_jackknife(whole: np.ndarray, parts: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    """Busing, Meijer and van der Leeden (1999), equations for groups of unequal size."""
    n, g = sum(sizes), len(sizes)
    estimate = g * whole - sum((1 - m / n) * part for part, m in zip(parts, sizes, strict=True))
    total = 0.0
    for part, m in zip(parts, sizes, strict=True):
        h = n / m
        total = total + (h * whole - (h - 1) * part - estimate) ** 2 / (h - 1)
    return total / g


@pytest.mark.parametrize(("num_models", "num_records"), [(16, 120), (32, 300)])
def test_limits_equal_those_of_plain_loops(num_models: int, num_records: int) -> None:
    score_TN, member_TN, scored_TN = targets(num_models, num_records)
    block_T = torch.arange(num_models) // 2
    threshold_T = in_folds(score_TN, member_TN, scored_TN)
    learnt = relearnt(score_TN, threshold_T, member_TN, scored_TN, block_T)
    assert isinstance(learnt, Relearnt)
    found = rate_intervals(score_TN, member_TN, scored_TN, learnt, [0.1])
    whole = plain_figures(score_TN, threshold_T, member_TN, scored_TN)
    groups = sorted(set(learnt.group_T.tolist()))
    assert groups == list(range(min(10, num_models // 2)))
    assert all(len(set(learnt.group_T[block_T == b].tolist())) == 1 for b in range(num_models // 2))
    parts, sizes = [], []
    for j in groups:
        kept = learnt.group_T != j
        moved = (score_TN, threshold_T + learnt.shift_J[j], member_TN, scored_TN)
        parts.append(plain_figures(*(each[kept] for each in moved)))
        sizes.append(int((~kept).sum()))
    rows = plain_jackknife(whole, parts, sizes)
    parts, sizes = [], []
    for r in range(20):
        kept = learnt.group_N != r
        parts.append(
            plain_figures(score_TN[:, kept], threshold_T + learnt.shift_R[r], member_TN[:, kept], scored_TN[:, kept])
        )
        sizes.append(int((~kept).sum()))
    columns = plain_jackknife(whole, parts, sizes)
    names = ("recall", "precision", "precision_balanced", "accuracy", "balanced_accuracy", "ppv 0.1")
    for i, name in enumerate(names):
        low, high, method = found[name]
        assert method == JACKKNIFE
        middle = expit((logit(low) + logit(high)) / 2)
        assert middle == pytest.approx(whole[i])
        scale = student.ppf(0.975, len(groups) - 1) / (whole[i] * (1 - whole[i]))
        variance = ((logit(high) - logit(low)) / 2 / scale) ** 2
        assert max(rows[i], columns[i]) <= variance * (1 + 1e-6), name
        assert variance <= (rows[i] + columns[i]) * (1 + 1e-6), name
    # The answers of a recall are independent coins: their variance is known.
    flags = [(score_TN[t] >= threshold_T[t])[member_TN[t]].double() for t in range(num_models)]
    cells = sum(float(each.mean() * (1 - each.mean())) / len(each) for each in flags) / num_models**2
    low, high, _ = found["recall"]
    scale = student.ppf(0.975, len(groups) - 1) / (whole[0] * (1 - whole[0]))
    expected = max(rows[0] + columns[0] - cells, rows[0], columns[0])
    assert ((logit(high) - logit(low)) / 2 / scale) ** 2 == pytest.approx(expected, rel=1e-6)


def test_shifts_are_those_of_thresholds_learnt_without_the_group() -> None:
    score_TN, member_TN, scored_TN = targets(20, 400)
    learnt = relearnt(score_TN, torch.zeros(20).double(), member_TN, scored_TN, torch.arange(20) // 2)
    assert isinstance(learnt, Relearnt)
    whole = learnt_threshold(score_TN[scored_TN], member_TN[scored_TN])
    for number, shifts, group in ((10, learnt.shift_J, learnt.group_T[:, None]), (20, learnt.shift_R, learnt.group_N)):
        assert len(shifts) == number
        for j in range(number):
            kept_TN = scored_TN & (group != j)
            again = learnt_threshold(score_TN[kept_TN], member_TN[kept_TN])
            # Bins are other ones, and so is the prior: a share of records tells how far apart the thresholds are.
            apart = scored_TN & ((score_TN >= again) != (score_TN >= whole + shifts[j]))
            assert int(apart.sum()) <= 0.004 * int(scored_TN.sum()), j


@pytest.mark.costly
@pytest.mark.parametrize("num_models", [16, 32])
def test_thresholds_that_differ_are_taken_for_learnt_ones(num_models: int) -> None:
    score_TN, member_TN, scored_TN = targets(num_models, 300)
    threshold_T = in_folds(score_TN, member_TN, scored_TN)
    flagged_TN = score_TN >= threshold_T[:, None]
    inferred = target_figures(score_TN, flagged_TN, member_TN, scored_TN)
    decision = relearnt(score_TN, threshold_T, member_TN, scored_TN, torch.arange(num_models) // 2)
    given = target_figures(score_TN, flagged_TN, member_TN, scored_TN, decision=decision)
    fixed = target_figures(score_TN, flagged_TN, member_TN, scored_TN, decision=FIXED)
    for name in RATES:
        figures = [getattr(each, name) for each in (inferred, given, fixed)]
        assert [each.interval for each in figures] == [JACKKNIFE, JACKKNIFE, CROSSED]
        assert len({(each.value, each.spread, each.n) for each in figures}) == 1
        width = figures[1].high - figures[1].low
        assert figures[0].low == pytest.approx(figures[1].low, abs=0.1 * width)
        assert figures[0].high == pytest.approx(figures[1].high, abs=0.1 * width)
    assert given.advantage.high == pytest.approx(2 * given.balanced_accuracy.high - 1)
    for name in ("auc", "average_precision", "tpr_at_fpr", "tpr_at_fpr_pooled", "precision_at_recall"):
        assert getattr(given, name) == getattr(fixed, name) == getattr(inferred, name)
    for prior, figure in given.ppv.items():
        assert figure.interval == JACKKNIFE
        assert figure.low < figure.value < figure.high
        assert figure.value == fixed.ppv[prior].value
    common = target_figures(score_TN, score_TN >= 0.5, member_TN, scored_TN)
    assert common == target_figures(score_TN, score_TN >= 0.5, member_TN, scored_TN, decision=FIXED)
    noise_TN = torch.rand(score_TN.shape, generator=torch.Generator().manual_seed(0)) < 0.5  # no threshold
    assert target_figures(score_TN, noise_TN, member_TN, scored_TN).recall.interval == CROSSED


def test_one_threshold_of_tied_scores_may_have_been_learnt() -> None:
    score_TN, member_TN, scored_TN = targets(16, 300)
    score_TN = score_TN.clamp(-3, 3).round()
    figures = target_figures(score_TN, score_TN >= 1, member_TN, scored_TN)
    assert (figures.recall.low, figures.recall.interval) == (None, NOT_KNOWN)
    known = target_figures(score_TN, score_TN >= 1, member_TN, scored_TN, decision=FIXED)
    assert known.recall.interval == CROSSED
    assert known.auc == figures.auc


def test_a_part_of_the_records_has_the_thresholds_of_all() -> None:
    score_TN, member_TN, scored_TN = targets(16, 400)
    threshold_T = in_folds(score_TN, member_TN, scored_TN)
    decision = relearnt(score_TN, threshold_T, member_TN, scored_TN, torch.arange(16) // 2)
    assert isinstance(decision, Relearnt)
    some_N = torch.arange(400) % 4 == 1
    part = [each[:, some_N] for each in (score_TN, score_TN >= threshold_T[:, None], member_TN, scored_TN)]
    figures = target_figures(*part, decision=decision.columns(some_N))
    whole = target_figures(score_TN, score_TN >= threshold_T[:, None], member_TN, scored_TN, decision=decision)
    for name in RATES:
        figure, of_all = getattr(figures, name), getattr(whole, name)
        assert figure.low < figure.value < figure.high
        assert figure.high - figure.low > of_all.high - of_all.low
    few = torch.arange(400) < 4
    limits = rate_intervals(*(each[:, few] for each in (score_TN, member_TN, scored_TN)), decision.columns(few), [0.1])
    assert limits["precision"] == (None, None, TOO_FEW_RECORDS)


def test_blocks_are_found_from_who_trained_on_what() -> None:
    halves = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1], [0, 1, 1, 0]]).bool()
    everything = torch.ones_like(halves)
    assert blocks_of(halves, everything).tolist() == [0, 0, 1, 1]
    thirds = torch.cat([torch.eye(3), torch.eye(3)]).bool()
    assert blocks_of(thirds, torch.ones_like(thirds)).tolist() == [0, 0, 0, 1, 1, 1]
    assert blocks_of(everything, everything).tolist() == [0, 1, 2, 3]


def test_where_there_is_no_interval_the_reason_is_given() -> None:
    score_TN, member_TN, scored_TN = targets(16, 200)
    threshold_T = in_folds(score_TN, member_TN, scored_TN)

    def reason(block_T: Tensor, score_TN: Tensor = score_TN, member_TN: Tensor = member_TN) -> Relearnt | str:
        T = len(block_T)
        return relearnt(score_TN[:T], threshold_T[:T], member_TN[:T], scored_TN[:T], block_T)

    pairs_T = torch.arange(16) // 2
    assert isinstance(reason(pairs_T), Relearnt)
    assert reason(pairs_T[:14]) == TOO_FEW
    assert reason(torch.arange(16) // 4) == TOO_FEW_BLOCKS
    assert reason(pairs_T, score_TN=score_TN.clamp(-3, 3).round()) == TIED_SCORES
    assert reason(pairs_T, member_TN=scored_TN) == TOO_FEW_RECORDS
    one_N = torch.zeros_like(member_TN)
    one_N[:, 7] = True
    assert reason(pairs_T, member_TN=one_N) == TOO_FEW_RECORDS
    sentence = "none: networks were learnt"
    figures = target_figures(score_TN, score_TN >= 0.5, member_TN, scored_TN, decision=sentence)
    for figure in (*(getattr(figures, name) for name in RATES), *figures.ppv.values()):
        assert (figure.low, figure.high, figure.interval) == (None, None, sentence)
        assert figure.value is not None
    assert figures.auc.low is not None


def test_records_and_models_in_another_order_change_limits_by_little() -> None:
    """Groups of records are drawn by their number, those of models by their block."""
    score_TN, member_TN, scored_TN = targets(32, 600)
    threshold_T = in_folds(score_TN, member_TN, scored_TN)
    order_N = torch.randperm(600, generator=torch.Generator().manual_seed(1))
    widths = []
    for columns in (torch.arange(600), order_N, order_N.flip(0)):
        observed = [each[:, columns] for each in (score_TN, member_TN, scored_TN)]
        learnt = relearnt(observed[0], threshold_T, *observed[1:], torch.arange(32) // 2)
        assert isinstance(learnt, Relearnt)
        low, high, _ = rate_intervals(*observed, learnt, [0.1])["recall"]
        assert low is not None
        assert high is not None
        widths.append(high - low)
    assert all(0.6 < a / b < 1.6 for a, b in pairwise(widths))
