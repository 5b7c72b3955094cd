"""Intervals of rates at thresholds that are learnt on the scores of several targets.

A threshold at which one kind of records has a given rate moves with each of these records, and with it the rate of the
other kind. Let R_1(t) and R_0(t) be the shares of members and of non-members above t, R̂ their estimates, and t̂ the
threshold with R̂_0(t̂) = α = R_0(t). To first order R_0'(t) (t̂ - t) = -(R̂_0(t) - α), and so

    R̂_1(t̂) = R_1(t) + (R̂_1(t) - R_1(t)) - b (R̂_0(t) - α),     b = R_1'(t) / R_0'(t),

where b is the slope of the ROC at α. So the contribution of a record to the TPR at a fixed FPR is that to the TPR less
b times that to the FPR, both at the threshold that was found; these go to `crossed_interval`. Slopes are taken over all
targets together, since that of one target would be mostly noise.

If a few records make the false positives of many targets, the interval has the degrees of freedom of their number and
is wide. If scores are tied at the threshold, the ROC has no slope there, and there is no interval.

Source: Hsieh and Turnbull, "Nonparametric and semiparametric estimation of the receiver operating characteristic curve"
    (1996), theorem 2.2.
"""

from collections.abc import Callable, Sequence
from math import log
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mia_lightning.metrics.figures import Interval
from mia_lightning.metrics.intervals.bootstrap import FEWEST, members_for
from mia_lightning.metrics.intervals.crossed import CROSSED, crossed_interval, share_contributions
from mia_lightning.metrics.roc import allowed_false_positives

RELEARNT = f"{CROSSED}, the threshold learnt anew"
FEW_FALSE_POSITIVES = "none: the threshold allows {} false positives in all; it takes {}, and one for every two targets"
FEW_ALLOWED = "none: with fewer than {} false positives allowed to a target its threshold is too uncertain"
FEW_RANKS = "none: it takes {} members on either side of the threshold of each target"
ALL_FLAGGED = "none: every record is flagged"
LACKING = "none: a target has no members or no non-members"
NO_ALARM = "none: no false positive on any target"
NOTHING_FOUND = "none: no member above the threshold of any target"
TIED = "none: scores are tied at the threshold"
BOUNDED = f"{RELEARNT}; false positives are too few for an upper limit below 1"
# False positives that each target's own threshold must allow.
FEWEST_ALLOWED = 4
# False positives in all at the wider of the two thresholds that give the slope.
FEWEST_ALARMS = 40
# The rate of the threshold is halved and doubled for the slope.
_FACTOR = 2.0
# The rate at which records are counted for a threshold of all targets, in rates of the threshold.
_WIDER = 10.0
# Share of the records above a threshold that may be tied with it.
_TIED_SHARE = 0.1


class _Slope(NamedTuple):
    """Of the logarithm of a TPR by that of the FPR, and by the FPR itself."""

    power: float
    plain: float


def mean_tpr_interval(score_TN: Tensor, member_TN: Tensor, scored_TN: Tensor, max_fpr: float) -> Interval:
    """Of the mean over targets of each one's TPR at FPR.

    With k of n_0 non-members allowed the threshold is the (k + 1)-th highest non-member, so that its FPR in the
    population is a Beta(k + 1, n_0 - k) number X, whose mean (k + 1) / (n_0 + 1) is above k / n_0. If the ROC is
    proportional to the power b of the FPR near α, the TPR is too high on average by the factor

        E[X^b] / α^b,     E[X^b] = Γ(k + 1 + b) Γ(n_0 + 1) / (Γ(k + 1) Γ(n_0 + 1 + b)).

    It does not average out over targets, so that the interval is that of the mean of TPRs divided by it. b comes from
    the TPRs at half and at twice the allowed number.

    Args:
        score_TN: higher means more likely a member.
        member_TN, scored_TN: bool; each target must have members and at least 1 / `max_fpr` non-members.
        max_fpr: in (0, 1).
    """
    found = _at_fpr(score_TN, member_TN, scored_TN, max_fpr)
    if isinstance(found, str):
        return _none(found)
    return _relearnt(found.tpr_T / found.bias_T, found.part_TN, found.records)


def tpr_contributions(
    score_TN: Tensor, member_TN: Tensor, scored_TN: Tensor, max_fpr: float
) -> tuple[Tensor, Tensor, str]:
    """Each target's TPR at FPR `[T]`, the contributions `[T, N]` of its records, and "" or why there are none.

    Args:
        score_TN, member_TN, scored_TN, max_fpr: as for `mean_tpr_interval`.
    """
    found = _at_fpr(score_TN, member_TN, scored_TN, max_fpr)
    if not isinstance(found, str):
        return found.tpr_T, found.part_TN, ""
    nothing_TN = torch.zeros(score_TN.shape, dtype=torch.float64, device=score_TN.device)
    return nothing_TN[:, 0] + torch.nan, nothing_TN, found


class _AtFpr(NamedTuple):
    """TPRs at FPR, the contributions of records, by how much the TPRs are too high, and the records behind them."""

    tpr_T: Tensor
    part_TN: Tensor
    bias_T: Tensor
    records: float


def _at_fpr(score_TN: Tensor, member_TN: Tensor, scored_TN: Tensor, max_fpr: float) -> _AtFpr | str:
    """What `mean_tpr_interval` is made of, or "none: " and a reason."""
    member_TN, other_TN = member_TN & scored_TN, ~member_TN & scored_TN
    T, n1_T, n0_T = len(score_TN), member_TN.sum(1), other_TN.sum(1)
    allowed_T = _each(lambda n0: allowed_false_positives(max_fpr, n0), n0_T)
    if int(allowed_T.min()) < FEWEST_ALLOWED:
        return FEW_ALLOWED.format(FEWEST_ALLOWED)
    if bool((allowed_T >= n0_T).any()):
        return ALL_FLAGGED
    descending_TN = _descending(score_TN, other_TN)
    threshold_T = _of_rank(descending_TN, allowed_T + 1)
    above_TN, alarm_TN = _flags(score_TN, member_TN, other_TN, threshold_T)
    missing = _no_slope(above_TN) or _tied(score_TN, other_TN, threshold_T, int(allowed_T.sum()), T)
    if missing:
        return missing
    fewer_T, more_T = (allowed_T / _FACTOR).long(), torch.minimum((allowed_T * _FACTOR).long(), n0_T - 1)
    rates = []
    for rank_T in (fewer_T, more_T):
        flagged_TN = score_TN > _of_rank(descending_TN, rank_T + 1)[:, None]
        rates.append(float(((flagged_TN & member_TN).sum(1) / n1_T).mean()))
    tpr_T, tpr_TN = share_contributions(above_TN, member_TN)
    fpr = float(((allowed_T + 1) / (n0_T + 1)).mean())
    slope = _slope(
        rates, [float(((each_T + 1) / n0_T).mean()) for each_T in (fewer_T, more_T)], float(tpr_T.mean()), fpr
    )
    bias_T = _mean_of_power(allowed_T + 1, n0_T, slope.power) / max_fpr**slope.power
    _, fpr_TN = share_contributions(alarm_TN, other_TN)
    return _AtFpr(tpr_T, tpr_TN - slope.plain * fpr_TN, bias_T, _behind(above_TN, alarm_TN))


def pooled_tpr_interval(score_TN: Tensor, member_TN: Tensor, scored_TN: Tensor, max_fpr: float) -> Interval:
    """Of the TPR at FPR with one threshold for the scores of all targets; arguments as for `mean_tpr_interval`.

    With m_t members of target t the TPR is Σ_t m_t TPR_t / Σ_t m_t, and the FPR likewise: each target counts by its
    share of the records of either kind. So the value of target t is, to first order, TPR + (m_t T / Σ m) (TPR_t - TPR)
    less b times the same of the FPR; the mean of these over targets is the TPR.

    Few records may bring the false positives of many targets. Their number, for the degrees of freedom, is also taken
    at a threshold of ten times the rate, and scaled down.
    """
    member_TN, other_TN = member_TN & scored_TN, ~member_TN & scored_TN
    T, n1, n0 = len(score_TN), int(member_TN.sum()), int(other_TN.sum())
    if not bool((member_TN.any(1) & other_TN.any(1)).all()):
        return _none(LACKING)
    allowed = allowed_false_positives(max_fpr, n0)
    if allowed < max(FEWEST, T / 2):
        return _none(FEW_FALSE_POSITIVES.format(allowed, FEWEST))
    if allowed >= n0:
        return _none(ALL_FLAGGED)
    fewer, more, wider = (min(int(allowed * factor), n0 - 1) for factor in (1 / _FACTOR, _FACTOR, _WIDER))
    highest = score_TN[other_TN].topk(wider + 1).values
    threshold_T = highest[allowed].expand(T)
    above_TN, alarm_TN = _flags(score_TN, member_TN, other_TN, threshold_T)
    missing = _no_slope(above_TN) or _tied(score_TN, other_TN, threshold_T, allowed, 1)
    if missing:
        return _none(missing)
    rates = [int(((score_TN > highest[rank]) & member_TN).sum()) / n1 for rank in (fewer, more)]
    tpr = int(above_TN.sum()) / n1
    slope = _slope(rates, [fewer / n0, more / n0], tpr, allowed / n0).plain
    # Each target counts by its numbers of records.
    weight_1_T, weight_0_T = (T * kind_TN.sum(1) / total for kind_TN, total in ((member_TN, n1), (other_TN, n0)))
    tpr_T, tpr_TN = share_contributions(above_TN, member_TN)
    fpr_T, fpr_TN = share_contributions(alarm_TN, other_TN)
    fpr = int(alarm_TN.sum()) / n0
    value_T = tpr + weight_1_T * (tpr_T - tpr) - slope * weight_0_T * (fpr_T - fpr)
    # Chance lets the records at the threshold itself look many; those at a wider one are in proportion to their rate.
    wider_TN = (score_TN >= highest[wider]) & other_TN
    records = min(_behind(above_TN, alarm_TN), _records(wider_TN) * allowed / wider)
    return _relearnt(value_T, weight_1_T[:, None] * tpr_TN - slope * weight_0_T[:, None] * fpr_TN, records)


def mean_precision_interval(score_TN: Tensor, member_TN: Tensor, scored_TN: Tensor, recall: float) -> Interval:
    """Of the mean over targets of the precision, at one member for each non-member, at a fixed recall.

    As in `mean_tpr_interval` with the kinds exchanged: the members set the threshold, and the FPR f moves with their
    recall r by the slope s of f over r. The precision P = r / (r + f) has the derivatives ∂P/∂r = f / (r + f)² and
    ∂P/∂f = -r / (r + f)²; at a fixed recall a record's contribution is ∂P/∂f times (its own to f, less s times that to
    r).

    The recall of the threshold in the population is a Beta(k, n_1 - k + 1) number, k members being needed. Its mean is
    k / (n_1 + 1), its variance about r (1 - r) / n_1, and f, of slope s and curvature c in r, has the mean and variance

        E[f] - f(r) = s (k / (n_1 + 1) - r) + c r (1 - r) / (2 n_1),     Var f = f (1 - f) / n_0 + s² r (1 - r) / n_1.

    To second order the mean precision is too high by [f (k / n_1 - r) - r (E[f] - f(r)) + P Var f] / (r + f)², which is
    taken off. Few false positives leave a lower limit alone.

    Args:
        score_TN, member_TN, scored_TN: as above; each target must have members and non-members.
        recall: in (0, 1).
    """
    member_TN, other_TN = member_TN & scored_TN, ~member_TN & scored_TN
    T, n1_T, n0_T = len(score_TN), member_TN.sum(1), other_TN.sum(1)
    needed_T = _each(lambda n1: members_for(recall, n1), n1_T)
    if int(torch.minimum(needed_T, n1_T - needed_T).min()) < FEWEST:
        return _none(FEW_RANKS.format(FEWEST))
    descending_TN = _descending(score_TN, member_TN)
    threshold_T = _of_rank(descending_TN, needed_T)
    flagged_TN = score_TN >= threshold_T[:, None]
    alarm_TN, found_TN = flagged_TN & other_TN, flagged_TN & member_TN
    missing = NO_ALARM if not bool(alarm_TN.any()) else _tied(score_TN, member_TN, threshold_T, int(needed_T.sum()), T)
    if missing:
        return _none(missing)
    reach_T = torch.minimum(needed_T, n1_T - needed_T) // 2
    fprs, recalls = [], []
    for rank_T in (needed_T - reach_T, needed_T, needed_T + reach_T):
        alarms_T = ((score_TN >= _of_rank(descending_TN, rank_T)[:, None]) & other_TN).sum(1)
        fprs.append(float((alarms_T / n0_T).mean()))
        recalls.append(float((rank_T / n1_T).mean()))
    width = (recalls[2] - recalls[0]) / 2
    slope = (fprs[2] - fprs[0]) / (2 * width)
    bend = (fprs[2] - 2 * fprs[1] + fprs[0]) / width**2
    fpr_T, fpr_TN = share_contributions(alarm_TN, other_TN)
    tpr_T, tpr_TN = share_contributions(found_TN, member_TN)
    precision_T, square_T = tpr_T / (tpr_T + fpr_T), (tpr_T + fpr_T).square()
    reached_T, spread = needed_T / (n1_T + 1), recall * (1 - recall) / n1_T
    excess_T = slope * (reached_T - recall) + bend * spread / 2  # of the FPR's mean
    variance_T = fpr_T * (1 - fpr_T) / n0_T + slope**2 * spread  # of the FPR
    bias_T = (fpr_T * (needed_T / n1_T - recall) - tpr_T * excess_T + precision_T * variance_T) / square_T
    interval = _relearnt(
        precision_T - bias_T, (tpr_T / square_T)[:, None] * (slope * tpr_TN - fpr_TN), _behind(found_TN, alarm_TN)
    )
    is_bounded = interval.low is not None and fprs[2] * int(n0_T.sum()) < FEWEST_ALARMS
    return Interval(interval.low, 1.0, BOUNDED) if is_bounded else interval


def _slope(tprs: Sequence[float], fprs: Sequence[float], tpr: float, fpr: float) -> _Slope:
    """Of the ROC at (fpr, tpr), from a point at a lower and one at a higher FPR."""
    if tprs[0] > 0.0 and fprs[0] > 0.0:
        power = log(tprs[1] / tprs[0]) / log(fprs[1] / fprs[0])
        return _Slope(power, power * tpr / fpr)
    plain = (tprs[1] - tprs[0]) / (fprs[1] - fprs[0])
    return _Slope(plain * fpr / tpr, plain)


def _mean_of_power(rank_T: Tensor, total_T: Tensor, power: float) -> Tensor:
    """Of the `rank`-th smallest of `total` uniform numbers, taken to a power: float64."""
    rank_T, total_T = rank_T.double(), total_T.double() + 1
    log_mean_T = torch.lgamma(rank_T + power) - torch.lgamma(rank_T)
    return torch.exp(log_mean_T + torch.lgamma(total_T) - torch.lgamma(total_T + power))


def _descending(score_TN: Tensor, kind_TN: Tensor) -> Tensor:
    """Scores of the records of a kind, each target's own from the highest down."""
    kept_TN = score_TN.masked_fill(~kind_TN, -torch.inf)
    if kept_TN.device.type == "cpu":  # where numpy sorts several times as fast
        return torch.from_numpy(np.sort(kept_TN.numpy(), axis=1)).flip(1)
    return kept_TN.sort(1, descending=True).values


def _of_rank(descending_TN: Tensor, rank_T: Tensor) -> Tensor:
    """The score of each target's rank, from 1."""
    return descending_TN.gather(1, rank_T[:, None] - 1)[:, 0]


def _flags(score_TN: Tensor, member_TN: Tensor, other_TN: Tensor, threshold_T: Tensor) -> tuple[Tensor, Tensor]:
    """Members above the threshold; non-members at it too, since one of them sets it."""
    return (score_TN > threshold_T[:, None]) & member_TN, (score_TN >= threshold_T[:, None]) & other_TN


def _records(hit_TN: Tensor) -> float:
    """The number of records with hits, counted by how equally they share in them."""
    count_N = hit_TN.sum(0).double()
    return float(count_N.sum().square() / count_N.square().sum().clamp(min=1))


def _behind(found_TN: Tensor, alarm_TN: Tensor) -> float:
    """The number of records behind true or behind false positives, whichever is smaller."""
    return min(_records(found_TN), _records(alarm_TN))


def _no_slope(found_TN: Tensor) -> str:
    return "" if bool(found_TN.any()) else NOTHING_FOUND


def _tied(score_TN: Tensor, kind_TN: Tensor, threshold_T: Tensor, flagged: int, thresholds: int) -> str:
    """Whether, beside those that set thresholds, more than a tenth of those flagged of their kind are tied there."""
    at = int(((score_TN == threshold_T[:, None]) & kind_TN).sum())
    return TIED if at - thresholds > _TIED_SHARE * flagged else ""


def _each(count: Callable[[int], int], total_T: Tensor) -> Tensor:
    return torch.tensor([count(total) for total in total_T.tolist()], device=total_T.device)


def _none(reason: str) -> Interval:
    return Interval(None, None, reason)


def _relearnt(value_T: Tensor, contribution_TN: Tensor, records: float) -> Interval:
    interval = crossed_interval(value_T, contribution_TN, records=records)
    return interval if interval.low is None else interval._replace(method=RELEARNT)
