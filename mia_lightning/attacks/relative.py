"""The likelihood ratios that RMIA compares: of a record, and of the records of a population.

A ratio is p(x given θ) / p(x): what the target gives the true class of x, over what models in general give it. The
constants of the attack are given, or chosen: those that rank members best where shadow models attack each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn.functional import pad

from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.references import Others, record_slices

# What `a` is chosen from where it is `auto`.
TRIED_A = tuple(step / 10 for step in range(11))
# What `gamma` is chosen from where it is `auto`: the paper's value, then others by their distance from it. Below 1 a
# record would exceed a z that the target favours more. Online the ratio of x is at most 2 / mean in, about 2 for a
# record that is memorised, so that with more than 4 it exceeds only z that get less than half of what they usually get.
TRIED_GAMMA = (2.0, 1.5, 1.25, 1.1, 1.0, 3.0, 4.0)
# The most shadow models that are attacked to choose.
_MOST_ATTACKED = 16
# Decimals of a mean AUC: the order of the models must not decide between equals.
_DECIMALS = 12
# Numbers of one matrix [targets of a slice, N].
_SLICE_NUMBERS = 2**22
# Of log ratios: rounding must not part what is equal.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Relative:
    """The constants of the attack.

    Attributes:
        a: in [0, 1]; the mean of p(x given θ) over in-models is taken for a mean_out + 1 − a where it is not known.
        gamma: above 0; how many times as large as that of z the ratio of x must be.
    """

    a: float
    gamma: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Averages:
    """Mean probability of the true class over the shadow models that each target is compared with.

    Attributes:
        inside_TN: float64, over those that trained on the record; None where only out-models are used.
        outside_TN: float64, over those that did not.
        is_known_TN: bool; whether there is a model on every side that is used.
    """

    inside_TN: Tensor | None
    outside_TN: Tensor
    is_known_TN: Tensor

    @classmethod
    def of(cls, log_p_KN: Tensor, shadows: Evidence, others: Others, *, online: bool) -> "Averages":
        """Of both sides `online`, else of out-models alone."""
        member_KN = shadows.member_KN.to(log_p_KN.device)
        means: dict[bool, list[Tensor]] = {True: [], False: []}
        known = []
        for columns in record_slices(*log_p_KN.shape):
            p_Kn = log_p_KN[:, columns].exp()
            counts = []
            for side in (True, False) if online else (False,):
                side_Kn = member_KN[:, columns] == side
                counts.append(others.sum(side_Kn))
                means[side].append(others.sum(p_Kn.where(side_Kn, 0.0)) / counts[-1].clamp(min=1.0))
            known.append(torch.stack(counts).amin(0) > 0)
        return cls(
            inside_TN=torch.cat(means[True], dim=1) if online else None,
            outside_TN=torch.cat(means[False], dim=1),
            is_known_TN=torch.cat(known, dim=1),
        )

    def of_population(self, index_Z: Tensor) -> "Averages":
        """Of the records of the population: no model trained on them, so that out-models are all there is."""
        return Averages(
            inside_TN=None, outside_TN=self.outside_TN[:, index_Z], is_known_TN=self.is_known_TN[:, index_Z]
        )

    def log_marginal(self, a: float) -> Tensor:
        """log p(x), `[T, N]`: ½ (mean in + mean out), or ½ ((1 + a) mean out + 1 − a).

        Never the mean over all shadow models, whose weights are the numbers of in- and out-models and give away by
        counting what a model that was left out has trained on.
        """
        if self.inside_TN is None:
            p_TN = ((1 + a) * self.outside_TN + 1 - a) / 2
        else:
            p_TN = (self.inside_TN + self.outside_TN) / 2
        return p_TN.clamp_(min=torch.finfo(torch.float64).tiny).log_()  # ratios stay finite


def relative_scores(
    log_p_TN: Tensor, log_marginal_TN: Tensor, log_p_TZ: Tensor, log_marginal_TZ: Tensor, gamma: float
) -> Tensor:
    """Share of z with [p(x given θ) / p(x)] / [p(z given θ) / p(z)] ≥ gamma, float64 `[T, N]` in [0, 1].

    By sorting the z: O((N + Z) log Z) for a target. A share takes at most Z + 1 values.
    """
    ratio_TZ = (log_p_TZ - log_marginal_TZ).sort(1).values
    score_TN = log_p_TN - log_marginal_TN
    width = max(1, _SLICE_NUMBERS // max(1, score_TN.shape[1]))
    for score_tN, ratio_tZ in zip(score_TN.split(width), ratio_TZ.split(width), strict=True):
        num_exceeded = torch.searchsorted(ratio_tZ, score_tN - log_factor(gamma), right=True)
        score_tN.copy_(num_exceeded).div_(ratio_TZ.shape[1])
    return score_TN


def log_factor(gamma: float) -> float:
    """By how much the log ratio of x must at least be above that of z, in nats."""
    return log(gamma) - _ROUNDING


def choose(
    log_p_KN: Tensor,
    shadows: Evidence,
    population_Z: Tensor,
    tried_a: Sequence[float],
    tried_gamma: Sequence[float],
    *,
    online: bool,
) -> Relative:
    """The pair with the largest mean AUC on shadow models that are evenly spaced among all, each against the others.

    Of equals the first gamma is taken, and of its equals the first a. Only the models of `shadows` have a say.
    """
    num_attacked = min(shadows.num_models, _MOST_ATTACKED)
    row_T = torch.linspace(0, shadows.num_models - 1, num_attacked).round().long().to(log_p_KN.device)
    averages = Averages.of(log_p_KN, shadows, Others.of(shadows, row_T), online=online)
    of_population = averages.of_population(population_Z)
    log_p_TN = log_p_KN[row_T]
    member_TN, scored_TN = (matrix.to(row_T.device)[row_T] for matrix in (shadows.member_KN, shadows.scored_KN))
    usable_TN = scored_TN & averages.is_known_TN
    ranked: Ranked | None = None
    mean_auc = {}
    for a in tried_a:
        if ranked is None or not online:  # online no record's ratio depends on `a`, those of the population alone do
            ranked = Ranked.of(log_p_TN - averages.log_marginal(a), member_TN, usable_TN)
        ratio_TZ = (log_p_TN[:, population_Z] - of_population.log_marginal(a)).sort(1).values
        for gamma in tried_gamma:
            mean_auc[a, gamma] = round(ranked.mean_auc(ratio_TZ, gamma), _DECIMALS)
    pairs = [(a, gamma) for gamma in tried_gamma for a in tried_a]
    a, gamma = max(pairs, key=lambda pair: mean_auc[pair])
    return Relative(a=a, gamma=gamma)


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranked:
    """The records of T targets in the order of their log ratios, for the AUC of any gamma without the scores.

    Attributes:
        ratio_TN: float64, ascending; −inf for records that do not count.
        below_STM: int64 `[2, T, N + 1]`; non-members and members among the first 0, 1, ..., N.
    """

    ratio_TN: Tensor
    below_STM: Tensor

    @classmethod
    def of(cls, ratio_TN: Tensor, member_TN: Tensor, usable_TN: Tensor) -> "Ranked":
        ratio_TN, order_TN = ratio_TN.masked_fill(~usable_TN, -torch.inf).sort(1)
        side_STN = torch.stack([usable_TN & ~member_TN, usable_TN & member_TN])
        below_STN = side_STN.gather(2, order_TN.expand_as(side_STN)).cumsum(2)
        return cls(ratio_TN=ratio_TN, below_STM=pad(below_STN, (1, 0)))

    def mean_auc(self, ratio_TZ: Tensor, gamma: float) -> float:
        """Mean AUC of `relative_scores` over targets, ties counted half, from the ascending log ratios of the z.

        A target without members or without non-members is passed over; 0.5 where all are.
        """
        # Records tie that exceed as many z: those between the first that exceeds one z and the first that exceeds the
        # next.
        first_TZ = torch.searchsorted(self.ratio_TN, ratio_TZ + log_factor(gamma))
        cut_TV = pad(pad(first_TZ, (1, 0)), (0, 1), value=self.ratio_TN.shape[1])
        outside_TV, inside_TV = self.below_STM.gather(2, cut_TV.expand(2, -1, -1))
        won_T = (inside_TV.diff(dim=1) * (outside_TV[:, :-1] + outside_TV[:, 1:])).sum(1).double() / 2
        pairs_T = inside_TV[:, -1] * outside_TV[:, -1]
        is_judged_T = pairs_T > 0
        return float((won_T / pairs_T)[is_judged_T].mean()) if bool(is_judged_T.any()) else 0.5
