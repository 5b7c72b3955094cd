"""A threshold that varies little with the models that it is learnt on: the best on a smoothed ROC.

The threshold of best balanced accuracy maximises a step function. Its error shrinks with the cube root of the number of
observations, and neither a jackknife nor a bootstrap tells how large it is (Kim and Pollard, "Cube root asymptotics",
1990). The maximum of a smoothed curve has a standard error in the usual sense (Horowitz, "A smoothed maximum score
estimator for the binary response model", 1992).
"""

from math import pi, sqrt

import numpy as np
import torch
from torch import Tensor

BINS = 1024
"""Scores are counted between so many of their quantiles."""

TERMS, WIDTH = 20, 0.05
"""Sines of the curve, and the standard deviation of the normal kernel, in shares of flagged records."""

PRIOR = 3.0
"""Standard errors of the TPR - FPR at chance that are added to the first sine."""

TIED = 0.02
"""The largest share of observations with one score at the threshold; with more there is nothing smooth."""

_TRIED = 1024


def quantile_bins(score_M: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending edges `[B + 1]` and the bin of each score, int64; bin b is [edge b, edge b + 1), the last one closed.

    Edges are quantiles of the scores, so that tied scores share a bin.
    """
    edge_B = _edges(ascending(score_M, torch.ones_like(score_M, dtype=torch.bool)))
    return edge_B, torch.bucketize(score_M.double(), edge_B[1:-1].contiguous(), right=True)


def ascending(score: Tensor, chosen: Tensor) -> Tensor:
    """The scores at the places that are chosen (bool, of the same shape), sorted: float64 `[M]`."""
    if score.device.type == "cpu":  # where numpy picks and sorts several times as fast
        return torch.from_numpy(np.sort(np.compress(chosen.flatten().numpy(), score.double().flatten().numpy())))
    return score[chosen].double().sort().values


def smooth_threshold(member_M: Tensor, other_M: Tensor) -> float | None:
    """The score t at which "flag where score >= t" has the largest smoothed TPR - FPR; None where scores tie there.

    Args:
        member_M, other_M: the scores of members and of non-members, at least one of each, ascending; higher means more
            likely a member.
    """
    sides = (member_M, other_M)
    ascending_M = _merged(*sides)
    edge_B = _edges(ascending_M)
    member_B, other_B = (_counts(side_M, edge_B) for side_M in sides)
    prior = prior_weight(*map(len, sides))
    threshold = float(smooth_thresholds(edge_B, member_B[None], other_B[None], prior)[0])
    return None if _is_tied(ascending_M, threshold) else threshold


def is_tied(score_M: Tensor, threshold: float) -> bool:
    """Whether more than the share `TIED` of the scores is equal to the next above the threshold, or below it.

    Fewer than 50 scores always are.
    """
    score_M = score_M.double()
    is_above_M = score_M >= threshold
    beside = (score_M.where(is_above_M, torch.inf).amin(), score_M.where(~is_above_M, -torch.inf).amax())
    return any(int((score_M == each).sum()) > TIED * len(score_M) for each in beside)


def _is_tied(ascending_M: Tensor, threshold: float) -> bool:
    above = int(torch.searchsorted(ascending_M, threshold))
    beside_2 = ascending_M[max(above - 1, 0) : above + 1]
    same_2 = torch.searchsorted(ascending_M, beside_2, right=True) - torch.searchsorted(ascending_M, beside_2)
    return bool((same_2 > TIED * len(ascending_M)).any())


def _merged(one_M: Tensor, other_M: Tensor) -> Tensor:
    """Both of two ascending rows in one."""
    both_M = torch.cat([one_M, other_M])
    if both_M.device.type == "cpu":  # where numpy merges such runs, and torch sorts them
        return torch.from_numpy(np.sort(both_M.numpy(), kind="stable"))
    return both_M.sort().values


def _edges(ascending_M: Tensor) -> Tensor:
    bins = min(BINS, len(ascending_M))
    place_B = torch.linspace(0, len(ascending_M) - 1, bins + 1, dtype=torch.float64).round().long()
    return ascending_M[place_B.to(ascending_M.device)]


def _counts(ascending_M: Tensor, edge_B: Tensor) -> Tensor:
    """How many of them are in each of the bins between the edges."""
    below_B = torch.searchsorted(ascending_M, edge_B[1:-1].contiguous())
    ends = below_B.new_tensor([0]), below_B.new_tensor([len(ascending_M)])
    return torch.cat([ends[0], below_B, ends[1]]).diff()


def prior_weight(num_members: float, num_nonmembers: float) -> float:
    """What is added to the curve at its middle: about what chance puts there, so that it fades with more records."""
    return PRIOR * sqrt(1 / num_members + 1 / num_nonmembers)


def smooth_thresholds(edge_B: Tensor, member_GB: Tensor, other_GB: Tensor, prior: float) -> Tensor:
    """For each of G sets of members and non-members the score t at which "flag where score >= t" is best, `[G]`.

    With u the share of observations that are flagged, members and non-members of equal weight, D(u) = TPR - FPR is 0 at
    both ends, hence a sum of sines, Σ_k d_k sin(kπu) with

        d_k = 2 ∫ D(u) sin(kπu) du = 2/(kπ) [mean over members of cos(kπU) - mean over non-members of cos(kπU)],

    U being the place of a score from the top. A normal kernel of standard deviation h multiplies d_k by
    exp(-(kπh)²/2). To d_1 the prior is added: at chance the threshold is then near the median, and not anywhere.
    The maximum does not depend on the scale of the scores.

    Args:
        edge_B: from `quantile_bins`.
        member_GB, other_GB: counts in each bin; each set has members and non-members.
        prior: see `prior_weight`.
    """
    share_GB, alarm_GB = (each.double() / each.sum(-1, keepdim=True) for each in (member_GB, other_GB))
    # From the top score downwards.
    weight_GB = ((share_GB + alarm_GB) / 2).flip(-1)
    flagged_GB = weight_GB.cumsum(-1)
    place_GB = flagged_GB - weight_GB / 2
    gain_GB = (share_GB - alarm_GB).flip(-1)
    order_H = torch.arange(1, TERMS + 1, dtype=torch.float64, device=edge_B.device)
    tried_F = torch.arange(1, _TRIED, dtype=torch.float64, device=edge_B.device) / _TRIED
    wave_GHB = (order_H[:, None] * pi * place_GB[:, None]).cos_().mul_(gain_GB[:, None])
    sine_GH = 2 / (order_H * pi) * wave_GHB.sum(-1)
    sine_GH *= torch.exp(-(order_H * pi * WIDTH).square() / 2)
    sine_GH[..., 0] += prior
    curve_GF = sine_GH @ torch.sin(pi * order_H[:, None] * tried_F)
    best_G = curve_GF.argmax(-1).clamp(1, len(tried_F) - 2)
    before_G, at_G, after_G = (curve_GF.gather(-1, (best_G + o)[:, None])[:, 0] for o in (-1, 0, 1))
    bend_G = before_G - 2 * at_G + after_G
    offset_G = torch.where(bend_G < 0, (before_G - after_G) / (2 * bend_G), 0.0).clamp(-1, 1)
    return _score_at(edge_B, flagged_GB, weight_GB, tried_F[best_G] + offset_G / _TRIED)


def _score_at(edge_B: Tensor, flagged_GB: Tensor, weight_GB: Tensor, share_G: Tensor) -> Tensor:
    """The score above which that share of the weight lies, linear between the edges of a bin."""
    bins = weight_GB.shape[-1]
    from_top_G = (flagged_GB < share_G[:, None]).sum(-1).clamp(max=bins - 1)[:, None]
    weight_G = weight_GB.gather(-1, from_top_G)[:, 0].clamp(min=1e-300)
    left_G = ((flagged_GB.gather(-1, from_top_G)[:, 0] - share_G) / weight_G).clamp(0, 1)
    low_G, high_G = edge_B[bins - 1 - from_top_G[:, 0]], edge_B[bins - from_top_G[:, 0]]
    between_G = left_G * high_G + (1 - left_G) * low_G
    finite_G = torch.where(low_G.isfinite(), low_G, high_G)
    return torch.where(low_G.isfinite() & high_G.isfinite(), between_G, finite_G)
