"""Intervals over targets of what an attack decides at a threshold that it learns from the other targets.

All targets share nearly the same shadow models, so that they share the error of the threshold, too; the crossed
bootstrap of `crossed` takes it for fixed. A jackknife that leaves out groups of models, and one that leaves out groups
of records, learn the threshold again each time. Models are not drawn with replacement: a copy of a target would be
among its own shadow models.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.special import expit, logit, stdtrit
from torch import Tensor

from mia_lightning.attacks.decisions import TIED_SCORES
from mia_lightning.attacks.smooth_threshold import BINS, is_tied, prior_weight, quantile_bins, smooth_thresholds
from mia_lightning.metrics.figures import Interval
from mia_lightning.metrics.intervals.crossed import FEWEST_TARGETS, TOO_FEW
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.seeds import counter_hash, derive

JACKKNIFE = "jackknife over groups of models and of records, the threshold learnt anew in each, on the logit scale"
SHARES = ("recall", "precision", "precision_balanced", "accuracy", "balanced_accuracy")
MODEL_GROUPS, RECORD_GROUPS = 10, 20
FEWEST_BLOCKS = 8
TOO_FEW_BLOCKS = f"none: the jackknife takes at least {FEWEST_BLOCKS} blocks of models"
TOO_FEW_RECORDS = "none: without some of the records a target has no members, no non-members, or none that it flags"


@dataclass(frozen=True, eq=False, kw_only=True)
class Relearnt:
    """How the threshold moves when groups of models, or of records, are left out.

    Attributes:
        threshold_T: of each target, in the units of the scores.
        shift_J, shift_R: what is added to it without the models of group j, or the records of group r.
        group_T, group_N: int64, the group of each target and record.
    """

    threshold_T: Tensor
    shift_J: Tensor
    shift_R: Tensor
    group_T: Tensor
    group_N: Tensor

    def columns(self, chosen: Tensor) -> "Relearnt":
        """Of some of the records (a mask, or their numbers); the thresholds are those of all records."""
        return replace(self, group_N=self.group_N[chosen])


def relearnt(
    score_TN: Tensor, threshold_T: Tensor, member_TN: Tensor, scored_TN: Tensor, block_T: Tensor
) -> Relearnt | str:
    """The thresholds that would be learnt without groups of targets and of records, or "none: " and a reason.

    The threshold of a target was learnt by `learnt_threshold` from the models outside its fold. How that would move is
    taken from the threshold of all models together.

    Args:
        score_TN, member_TN, scored_TN: as for `target_figures`.
        threshold_T: float64.
        block_T: int64; models of one block are left out together.
    """
    blocks, place_T = block_T.unique(return_inverse=True)
    if len(score_TN) < FEWEST_TARGETS:
        return TOO_FEW
    if len(blocks) < FEWEST_BLOCKS:
        return TOO_FEW_BLOCKS
    group_T = place_T % MODEL_GROUPS
    number_N = torch.arange(score_TN.shape[1], device=score_TN.device)
    # A hash, since the order of records may mean something.
    group_N = counter_hash(torch.tensor(derive(0, "jackknife"), device=score_TN.device), number_N) % RECORD_GROUPS
    usable_TN = scored_TN & (score_TN > -torch.inf)
    if not bool((usable_TN & member_TN).any()) or not bool((usable_TN & ~member_TN).any()):
        return TOO_FEW_RECORDS
    score_M = score_TN[usable_TN]
    edge_B, bin_M = quantile_bins(score_M)
    side_TN = (group_T[:, None] * RECORD_GROUPS + group_N) * 2 + member_TN
    cell_M = side_TN[usable_TN] * BINS + bin_M
    count = torch.bincount(cell_M, minlength=MODEL_GROUPS * RECORD_GROUPS * 2 * BINS)
    count_JRSB = count.view(MODEL_GROUPS, RECORD_GROUPS, 2, BINS)[..., : len(edge_B) - 1]
    total_SB = count_JRSB.sum((0, 1))
    left_GSB = torch.cat([total_SB[None], total_SB - count_JRSB.sum(1), total_SB - count_JRSB.sum(0)])
    if not bool((left_GSB.sum(-1) > 0).all()):
        return TOO_FEW_RECORDS
    prior = prior_weight(float(total_SB[1].sum()), float(total_SB[0].sum()))
    found_G = smooth_thresholds(edge_B, left_GSB[:, 1], left_GSB[:, 0], prior)
    if is_tied(score_M, float(found_G[0])):
        return TIED_SCORES
    shift_G = found_G[1:] - found_G[0]
    return Relearnt(
        threshold_T=threshold_T,
        shift_J=shift_G[:MODEL_GROUPS],
        shift_R=shift_G[MODEL_GROUPS:],
        group_T=group_T,
        group_N=group_N,
    )


def rate_intervals(
    score_TN: Tensor, member_TN: Tensor, scored_TN: Tensor, learnt: Relearnt, priors: Sequence[float]
) -> dict[str, Interval]:
    """Of recall, accuracies, precisions and PPV (`ppv 0.01`): new records and new trainings.

    With the value θ of all, θ_j without group j of m_j of the T models, and h_j = T / m_j, the jackknife over J groups
    of unequal size has the pseudo-values h_j θ - (h_j - 1) θ_j, of mean θ_J to first order, and the variance

        1/J Σ_j (h_j θ - (h_j - 1) θ_j - θ_J)² / (h_j - 1).

    That over records is likewise. What single answers add is in both, and is subtracted once, as is known of shares at
    a fixed threshold: rows + columns - cells, but no less than the larger of the two. What they add to the threshold is
    not subtracted, so that the interval is conservative where leakage is weak. Limits are normal on the logit scale,
    with a quantile of Student's t at J - 1 degrees of freedom.

    Source: Busing, Meijer and van der Leeden, "Delete-m jackknife for unequal m" (1999); Owen, "The pigeonhole
        bootstrap" (2007), for rows, columns and cells.
    """
    order_N = learnt.group_N.argsort(stable=True)
    size_R = torch.bincount(learnt.group_N, minlength=RECORD_GROUPS)
    end_R = size_R.cumsum(0).tolist()
    margin_TN = score_TN[:, order_N] - learnt.threshold_T[:, None]
    counted_TN = scored_TN[:, order_N]
    sides = [counted_TN & member_TN[:, order_N], counted_TN & ~member_TN[:, order_N]]
    whole = [side_TN.sum(1) for side_TN in sides]

    def counts(shift: float, left_out: slice) -> Tensor:
        """Flagged members and non-members, and all of them, of each target, `[4, T]`."""
        flagged_TN = margin_TN >= shift
        kinds = [side_TN & flagged_TN for side_TN in sides]
        numbers = [kind_TN.sum(1) for kind_TN in kinds] + whole
        without = [kind_TN[:, left_out].sum(1) for kind_TN in kinds + sides]
        return (torch.stack(numbers) - torch.stack(without)).double()

    whole_4T = counts(0.0, slice(0))
    value_V = _values(whole_4T, priors)
    size_J = torch.bincount(learnt.group_T, minlength=MODEL_GROUPS)
    without_JV = [
        _values(counts(shift, slice(0))[:, learnt.group_T != j], priors)
        for j, shift in enumerate(learnt.shift_J.tolist())
    ]
    without_R4T = [
        counts(shift, slice(end - size, end))
        for shift, size, end in zip(learnt.shift_R.tolist(), size_R.tolist(), end_R, strict=True)
    ]
    rows_V = _jackknife(value_V, torch.stack(without_JV), size_J)
    columns_V = _jackknife(value_V, _values(torch.stack(without_R4T, 1), priors), size_R)
    variance_V = (rows_V + columns_V - _cells(whole_4T, priors)).maximum(rows_V).maximum(columns_V)
    quantile = float(stdtrit(int((size_J > 0).sum()) - 1, 1 - TAIL))
    names = [*SHARES, *(f"ppv {prior:g}" for prior in priors)]
    return {
        name: _interval(value, variance**0.5 * quantile)
        for name, value, variance in zip(names, value_V.tolist(), variance_V.tolist(), strict=True)
    }


def blocks_of(member_TN: Tensor, scored_TN: Tensor) -> Tensor:
    """Blocks of consecutive targets no two of which have a member in common, int64 `[T]`."""
    block_T: list[int] = []
    held_N = torch.zeros_like(scored_TN[0])
    for inside_N in member_TN & scored_TN:
        if not block_T or bool((held_N & inside_N).any()):
            block_T.append(block_T[-1] + 1 if block_T else 0)
            held_N = inside_N
        else:
            block_T.append(block_T[-1])
            held_N = held_N | inside_N
    return torch.tensor(block_T, device=member_TN.device)


def _values(count_4T: Tensor, priors: Sequence[float]) -> Tensor:
    """The figures over targets, in the order of `rate_intervals`, `[..., V]` of `[4, ..., T]`; NaN where undefined."""
    found_T, alarms_T, members_T, others_T = count_4T
    tpr_T, fpr_T = found_T / members_T, alarms_T / others_T
    tpr, fpr = tpr_T.mean(-1), fpr_T.mean(-1)
    return torch.stack(
        [
            tpr,
            (found_T / (found_T + alarms_T)).mean(-1),
            (tpr_T / (tpr_T + fpr_T)).mean(-1),
            ((found_T + others_T - alarms_T) / (members_T + others_T)).mean(-1),
            (1 + tpr - fpr) / 2,
            *(tpr / (tpr + (1 - prior) / prior * fpr) for prior in priors),
        ],
        -1,
    )


def _jackknife(value_V: Tensor, without_GV: Tensor, size_G: Tensor) -> Tensor:
    """The variance of values from those without each group; groups of size 0 are left out."""
    ratio_G1 = (size_G.sum() / size_G[size_G > 0]).double()[:, None]
    pseudo_GV = ratio_G1 * value_V - (ratio_G1 - 1) * without_GV[size_G > 0]
    centre_V = (value_V - (1 - 1 / ratio_G1) * without_GV[size_G > 0]).sum(0)
    variance_V: Tensor = ((pseudo_GV - centre_V).square() / (ratio_G1 - 1)).mean(0)
    return variance_V


def _cells(count_4T: Tensor, priors: Sequence[float]) -> Tensor:
    """The variance that independent answers add to each figure at fixed thresholds, by the delta method."""
    found_T, alarms_T, members_T, others_T = count_4T
    T = len(members_T)
    tpr_T, fpr_T = found_T / members_T, alarms_T / others_T
    of_tpr_T, of_fpr_T = tpr_T * (1 - tpr_T) / members_T, fpr_T * (1 - fpr_T) / others_T
    share_T = members_T / (members_T + others_T)

    def ratio(odds: Tensor | float, tpr: Tensor, fpr: Tensor) -> Tensor:
        """Of TPR / (TPR + odds FPR)."""
        square = (tpr + odds * fpr).square()
        variance_T: Tensor = (odds * fpr / square).square() * of_tpr_T + (odds * tpr / square).square() * of_fpr_T
        return variance_T

    parts = [
        of_tpr_T,
        ratio(others_T / members_T, tpr_T, fpr_T),
        ratio(1.0, tpr_T, fpr_T),
        share_T.square() * of_tpr_T + (1 - share_T).square() * of_fpr_T,
        (of_tpr_T + of_fpr_T) / 4,
        *(ratio((1 - prior) / prior, tpr_T.mean(), fpr_T.mean()) for prior in priors),
    ]
    variance_V: Tensor = torch.stack([part_T.sum() for part_T in parts]) / T**2
    return variance_V


def _interval(value: float, reach: float) -> Interval:
    if not reach >= 0:  # NaN
        return Interval(None, None, TOO_FEW_RECORDS)
    if not 0.0 < value < 1.0 or reach == 0:
        return Interval(None, None, "none: the figure is the same on all targets and records")
    scaled = reach / (value * (1 - value))
    return Interval(float(expit(logit(value) - scaled)), float(expit(logit(value) + scaled)), JACKKNIFE)
