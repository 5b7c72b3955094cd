"""Intervals of a mean over several targets that share records and shadow models.

A mean over targets varies with the records, each of which is evidence about many targets, and with the trainings, each
of which is a target on many records. So neither the targets nor their records are independent observations. The crossed
bootstrap redraws both: the weight of record n for target t is w_n · w_t, with multinomial weights on either axis. Its
variance is taken in closed form here, from the contribution of each record to the figure of each target.
"""

from math import sqrt

import torch
from scipy.special import expit, logit, stdtrit
from torch import Tensor

from mia_lightning.metrics.figures import Interval
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.metrics.roc import in_order

FEWEST_TARGETS = 16
CROSSED = "crossed bootstrap over records and targets, its variance in closed form, on the logit scale"
_ROUNDING = 1e-14  # of a share, relative: a deviation that is no larger is none
TOO_FEW = f"none: with fewer than {FEWEST_TARGETS} targets the interval was found to cover less than it says"


def crossed_interval(
    value_T: Tensor, contribution_TN: Tensor, *, records: float | None = None, tail: float = TAIL
) -> Interval:
    """Of the mean of a share over targets, for new records and new trainings on them.

    Args:
        value_T: the figure of each target, float64 in [0, 1].
        contribution_TN: how much the figure of target t changes with the weight of record n, to first order: 0 for
            records that are no evidence about the target, and of sum 0 for each target.
        records: by how many records the contributions vary, for the degrees of freedom; None says N.
        tail: of each side.

    Let A_t be the figure of target t, Ā their mean and Z_tn the contribution of record n to A_t. A replicate is
    (1/T) Σ_t w_t (A_t + Σ_n w_n Z_tn), where the w_t are multinomial with mean 1, variance 1 - 1/T and covariance -1/T,
    the w_n likewise with N. Given the w_t its mean is (1/T) Σ_t w_t A_t, since Σ_n Z_tn = 0, with the variance

        Σ_t (A_t - Ā)² / T²,

    and its variance is Σ_n x_n² / T² with x_n = Σ_t w_t Z_tn, since Σ_n x_n = 0. By E[x_n²] = (Σ_t Z_tn)² + Var(x_n)
    and Var(x_n) = Σ_t Z_tn² - (Σ_t Z_tn)² / T the expectation of that is

        [(1 - 1/T) Σ_n (Σ_t Z_tn)² + Σ_tn Z_tn²] / T².

    The sum of the two is the variance of the replicates. The noise of single answers is in each of the three terms, so
    that the interval is conservative where it dominates. The first term is divided by 1 - 1/T, which makes it the
    sample variance over T.

    The limits are normal on the logit scale, with a quantile of Student's t, since trainings may be few. With the
    variances v_1 of trainings and v_2 of records, T - 1 and N - 1 degrees of freedom, its own are
    (v_1 + v_2)² / (v_1² / (T - 1) + v_2² / (N - 1)).

    Source: Owen, "The pigeonhole bootstrap" (2007), for the variance; Satterthwaite, "An approximate distribution of
        estimates of variance components" (1946), for the degrees of freedom.
    """
    T, N = contribution_TN.shape
    if T < FEWEST_TARGETS:
        return Interval(None, None, TOO_FEW)
    mean = float(value_T.mean())
    trainings = float((value_T - mean).square().sum()) / (T * (T - 1))
    answers = float(contribution_TN.sum(0).square().sum()) * (1 - 1 / T) / T**2
    answers += float(contribution_TN.square().sum()) / T**2
    variance = trainings + answers
    if not 0.0 < mean < 1.0 or variance <= (_ROUNDING * mean) ** 2:
        return Interval(None, None, "none: the figure is the same on all targets and records")
    freedom = variance**2 / (trainings**2 / (T - 1) + answers**2 / max((N if records is None else records) - 1, 0.1))
    reach = float(stdtrit(freedom, 1 - tail)) * sqrt(variance) / (mean * (1 - mean))
    return Interval(float(expit(logit(mean) - reach)), float(expit(logit(mean) + reach)), CROSSED)


def auc_contributions(score_TN: Tensor, member_TN: Tensor, scored_TN: Tensor) -> tuple[Tensor, Tensor]:
    """AUC `[T]` of each target and the contributions `[T, N]` of its records, float64.

    A member's contribution is its placement (the share of non-members below it, ties half) less the AUC, divided by the
    number of members, and that of a non-member likewise: the derivatives of the AUC by the weights of its records, of
    which `areas.delong` gives the variance. All targets are ranked in one sort.

    Args:
        score_TN: higher means more likely a member.
        member_TN: bool.
        scored_TN: bool; each target must have members and non-members among its scored records.

    Source: DeLong, DeLong and Clarke-Pearson (1988), as for `areas.delong`.
    """
    # Ascending, records that are no evidence last (NaN is sorted so).
    ascending_TN, order_TN = in_order(score_TN.double().masked_fill(~scored_TN, torch.nan))
    first_TN, last_TN = _ties(ascending_TN)
    inside_TN, outside_TN = member_TN & scored_TN, ~member_TN & scored_TN
    n1_T1, n0_T1 = inside_TN.sum(1, keepdim=True), outside_TN.sum(1, keepdim=True)
    # Shares of the other kind below each record, ties half, of integers up to one rounded division.
    is_inside_TN, is_outside_TN = (kind_TN.gather(1, order_TN) for kind_TN in (inside_TN, outside_TN))
    of_inside_TN = _twice_below(is_outside_TN, first_TN, last_TN).double() / (2 * n0_T1)
    of_outside_TN = 1 - _twice_below(is_inside_TN, first_TN, last_TN).double() / (2 * n1_T1)
    share_TN = torch.where(is_inside_TN, of_inside_TN, of_outside_TN)
    placement_TN = torch.zeros_like(share_TN).scatter_(1, order_TN, share_TN)
    value_T1 = placement_TN.where(inside_TN, 0.0).cumsum(1)[:, -1:] / n1_T1
    number_TN = torch.where(inside_TN, n1_T1, n0_T1)
    return value_T1[:, 0], ((placement_TN - value_T1) / number_TN).where(scored_TN, 0.0)


def share_contributions(is_hit_TN: Tensor, counted_TN: Tensor) -> tuple[Tensor, Tensor]:
    """The share `[T]` of hits among the counted records of each target, and the contributions `[T, N]`, float64.

    A share p = Σ w h / Σ w has the derivative (h - p) / Σ w by the weight of a record, h being 1 for a hit, else 0.

    Args:
        is_hit_TN, counted_TN: bool; at least one record of each target is counted.
    """
    count_T = counted_TN.sum(1)
    value_T = (is_hit_TN & counted_TN).sum(1).double() / count_T
    contribution_TN = (is_hit_TN.double() - value_T[:, None]) * counted_TN / count_T[:, None]
    return value_T, contribution_TN


def average_precision_contributions(score_TN: Tensor, member_TN: Tensor, scored_TN: Tensor) -> tuple[Tensor, Tensor]:
    """Average precision `[T]` of each target, less its bias, and the contributions `[T, N]` of its records, float64.

    With A_i members and B_i non-members at or above member i, the figure is the mean over the n_1 members of
    P_i = A_i / (A_i + B_i). Since ∂P_i/∂A_i = B_i / (A_i + B_i)² and ∂P_i/∂B_i = -A_i / (A_i + B_i)², its derivatives
    by the weights of records are, times n_1,

        P_j + Σ_i B_i / (A_i + B_i)²     for member j,          -Σ_i A_i / (A_i + B_i)²     for a non-member,

    over the members i at or below the record, whose A_i or B_i it counts in. From these their mean over the records of
    the kind is taken, for the numbers of members and non-members are given.

    Since member i counts among its own A_i the figure is too high on average, by a share that does not shrink with the
    number of targets. The values returned have (A_i - 1) / (A_i - 1 + B_i (n_1 - 1) / n_1) in the place of P_i: the
    precision at member i without it, scaled to as many members as there are.

    Args:
        score_TN, member_TN, scored_TN: as for `auc_contributions`.
    """
    # Ascending, records that are no evidence last (NaN is sorted so).
    ascending_TN, order_TN = score_TN.double().neg().masked_fill(~scored_TN, torch.nan).sort(1)
    scored_TN, member_TN = scored_TN.gather(1, order_TN), (member_TN & scored_TN).gather(1, order_TN)
    first_TN, last_TN = _ties(ascending_TN)
    found_TN = member_TN.cumsum(1).gather(1, last_TN).double()
    flagged_TN = scored_TN.cumsum(1).gather(1, last_TN).double().clamp(min=1)
    n1_T, n0_T = member_TN.sum(1, keepdim=True), (scored_TN & ~member_TN).sum(1, keepdim=True)
    precision_TN = found_TN / flagged_TN
    value_T = (precision_TN * member_TN).sum(1, keepdim=True) / n1_T
    gains = []
    for part_TN in ((flagged_TN - found_TN) / flagged_TN**2, -found_TN / flagged_TN**2):
        of_member_TN = part_TN * member_TN
        before_TN = of_member_TN.cumsum(1) - of_member_TN
        gains.append(of_member_TN.sum(1, keepdim=True) - before_TN.gather(1, first_TN))
    gain_TN = torch.where(member_TN, precision_TN + gains[0], gains[1]) / n1_T
    contribution_TN = torch.zeros_like(gain_TN)
    for kind_TN, number_T in ((member_TN, n1_T), (scored_TN & ~member_TN, n0_T)):
        mean_T = (gain_TN * kind_TN).sum(1, keepdim=True) / number_T
        contribution_TN += (gain_TN - mean_T) * kind_TN
    # Each precision without its own member, scaled to as many members as there are.
    others_TN, alarms_TN = found_TN - 1, (flagged_TN - found_TN) * ((n1_T - 1) / n1_T)
    apart_TN = torch.where(flagged_TN > 1, others_TN / (others_TN + alarms_TN), precision_TN)
    bias_T = ((precision_TN - apart_TN).masked_fill(~member_TN, 0).sum(1, keepdim=True)) / n1_T
    return (value_T - bias_T)[:, 0], torch.zeros_like(gain_TN).scatter_(1, order_TN, contribution_TN)


def average_precision_interval(score_TN: Tensor, member_TN: Tensor, scored_TN: Tensor) -> Interval:
    """Of the mean average precision over targets; arguments as for `auc_contributions`."""
    return crossed_interval(*average_precision_contributions(score_TN, member_TN, scored_TN))


def _twice_below(counted_TN: Tensor, first_TN: Tensor, last_TN: Tensor) -> Tensor:
    """Twice the number of those that count below each place, ties half; places of ties as of `_ties`."""
    below_TN = counted_TN.cumsum(1)
    return below_TN.gather(1, last_TN) + (below_TN - counted_TN.long()).gather(1, first_TN)


def _ties(ordered_TN: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the first and of the last record that share the score of each, int64 `[T, N]`."""
    N = ordered_TN.shape[1]
    place_N = torch.arange(N, device=ordered_TN.device)
    starts_TN = torch.ones_like(ordered_TN, dtype=torch.bool)
    starts_TN[:, 1:] = ordered_TN[:, 1:] != ordered_TN[:, :-1]
    first_TN = torch.where(starts_TN, place_N, 0).cummax(1).values
    ends_TN = starts_TN.roll(-1, dims=1)
    ends_TN[:, -1] = True
    last_TN = torch.where(ends_TN, place_N, N - 1).flip(1).cummin(1).values.flip(1)
    return first_TN, last_TN
