"""The likelihood ratios that RMIA compares: of a record, and of the records of a population.

A ratio is p(x given θ) / p(x): what the target gives the true class of x, over what models in general give it. The
constants of the attack are given, or chosen: those that rank members best where shadow models attack each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor
from torch.nn.functional import pad

from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.references import Others, finite, record_slices
from mia_lightning.attacks.statistics import tempered_log_confidence
from mia_lightning.training.signals import Signals

# What `a` is chosen from where it is `auto`.
TRIED_A = tuple(step / 10 for step in range(11))
# What `temperature` is chosen from where it is `auto`: the paper's value, then others by their distance from it.
TRIED_TEMPERATURE = (2.0, 1.5, 1.0, 3.0, 4.0, 6.0)
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
# Of a model in a mean whose weights sum to 1: less is rounding.
_SMALLEST_WEIGHT = 1e-12


@dataclass(frozen=True, kw_only=True)
class Relative:
    """The constants of the attack.

    Attributes:
        a: in [0, 1]; the mean of p(x given θ) over in-models is taken for a mean_out + 1 − a where it is not known.
        gamma: above 0; how many times as large as that of z the ratio of x must be.
        temperature, soft_margin: of p(x given θ) (`tempered_log_confidence`).
        trim: below 0.5; the share of the shadow models that a mean leaves out at either end.
    """

    a: float
    gamma: float
    temperature: float
    soft_margin: float
    trim: float

    def log_p(self, signals: Signals, label_N: Tensor) -> Tensor:
        """log p(x given θ), finite, `[K, N]` float64."""
        temperature, soft_margin = self.temperature, self.soft_margin
        return finite(tempered_log_confidence(signals, label_N, temperature=temperature, soft_margin=soft_margin))


@dataclass(frozen=True, eq=False, kw_only=True)
class Averages:
    """Mean probability of the true class over the shadow models that each target is compared with.

    Attributes:
        both_TN: float64, half the mean over models that trained on the record plus half that over those that did not;
            None where only the latter are used.
        outside_TN: float64, over those that did not.
        is_known_TN: bool; whether there is a model on every side that is used.
    """

    both_TN: Tensor | None
    outside_TN: Tensor
    is_known_TN: Tensor

    @classmethod
    def of(cls, log_p_KN: Tensor, shadows: Evidence, others: Others, *, online: bool, trim: float = 0.0) -> "Averages":
        """Of both sides `online`, else of out-models alone.

        Args:
            trim: below 0.5; the share of the models that is left out at either end of the probabilities, rounded down
                to whole models. Of both sides together that is a share of the weight, half of which each side has.
        """
        member_KN = shadows.member_KN.to(log_p_KN.device)
        num_targets = 1 if others.own_T is None else len(others.own_T)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for columns in record_slices(len(log_p_KN) * (num_targets if trim else 1), log_p_KN.shape[1]):
            p_Kn, inside_Kn = log_p_KN[:, columns].exp(), member_KN[:, columns]
            sides = (inside_Kn, ~inside_Kn) if online else (~inside_Kn,)
            count_STn = torch.stack([others.sum(side_Kn) for side_Kn in sides])
            if trim:
                both_Tn = outside_Tn = _trimmed(p_Kn, sides[-1:], count_STn[-1:], others, trim)
                if online:
                    both_Tn = _trimmed(p_Kn, sides, count_STn, others, trim)
            else:
                total_STn = torch.stack([others.sum(p_Kn.where(side_Kn, 0.0)) for side_Kn in sides])
                mean_STn = total_STn / count_STn.clamp(min=1.0)
                both_Tn, outside_Tn = mean_STn.mean(0), mean_STn[-1]
            parts.append((both_Tn, outside_Tn, count_STn.amin(0) > 0))
        both_TN, outside_TN, is_known_TN = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
        return cls(both_TN=both_TN if online else None, outside_TN=outside_TN, is_known_TN=is_known_TN)

    def of_population(self, index_Z: Tensor) -> "Averages":
        """Of the records of the population: no model trained on them, so that out-models are all there is."""
        return Averages(both_TN=None, outside_TN=self.outside_TN[:, index_Z], is_known_TN=self.is_known_TN[:, index_Z])

    def log_marginal(self, a: float) -> Tensor:
        """log p(x), `[T, N]`: ½ (mean in + mean out), or ½ ((1 + a) mean out + 1 − a).

        Never the mean over all shadow models, whose weights are the numbers of in- and out-models and give away by
        counting what a model that was left out has trained on.
        """
        p_TN = ((1 + a) * self.outside_TN + 1 - a) / 2 if self.both_TN is None else self.both_TN.clone()
        return p_TN.clamp_(min=torch.finfo(torch.float64).tiny).log_()  # ratios stay finite


def _trimmed(p_Kn: Tensor, sides: Sequence[Tensor], count_STn: Tensor, others: Others, trim: float) -> Tensor:
    """The mean of what lies between the `trim` and the 1 − `trim` quantile, `[T, n]`.

    Args:
        sides: bool `[K, n]` each; they have equal weights, whatever the numbers of their models.
    """
    block_of_T = others.block_K.new_zeros(1) - 1 if others.own_T is None else others.own_T
    own_B, place_T = block_of_T.unique(return_inverse=True)  # targets of one block leave out the same models
    target_B = torch.zeros_like(own_B).scatter_(0, place_T, torch.arange(len(place_T), device=place_T.device))
    is_other_BK1 = (own_B[:, None] != others.block_K)[..., None]
    weight_BKn = p_Kn.new_zeros(len(own_B), *p_Kn.shape)
    for side_Kn, count_Tn in zip(sides, count_STn, strict=True):
        weight_BKn += (side_Kn & is_other_BK1) / (len(sides) * count_Tn[target_B].clamp(min=1.0))[:, None]
    p_Kn, order_Kn = p_Kn.sort(0)
    weight_BKn = weight_BKn.gather(1, order_Kn.expand(weight_BKn.shape))
    count_Bn = count_STn.sum(0)[target_B]
    cut_B1n = ((trim * count_Bn).floor() / count_Bn.clamp(min=1.0))[:, None]
    end_BKn = weight_BKn.cumsum(1)
    kept_BKn = torch.minimum(end_BKn, 1 - cut_B1n) - torch.maximum(end_BKn - weight_BKn, cut_B1n)
    kept_BKn = kept_BKn.where(kept_BKn > _SMALLEST_WEIGHT, 0.0)
    mean_Bn: Tensor = (kept_BKn * p_Kn).sum(1) / kept_BKn.sum(1).clamp(min=_SMALLEST_WEIGHT)
    return mean_Bn[place_T]


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


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What the constants are chosen from; of equals the first is taken, the temperature before gamma before a."""

    temperature: Sequence[float]
    gamma: Sequence[float]
    a: Sequence[float]

    @property
    def size(self) -> int:
        return len(self.temperature) * len(self.gamma) * len(self.a)

    def preference(self, relative: Relative) -> tuple[int, int, int]:
        """Smaller for what is taken of equals."""
        return (
            self.temperature.index(relative.temperature),
            self.gamma.index(relative.gamma),
            self.a.index(relative.a),
        )


def choose(
    shadows: Evidence, population_Z: Tensor, tried: Tried, *, online: bool, soft_margin: float, trim: float
) -> tuple[Relative, Tensor]:
    """The constants of the largest mean AUC on shadow models that are evenly spaced among all, each against the others;
    and log p(x given θ) of all shadow models by them.

    Only the models of `shadows` have a say.
    """
    num_attacked = min(shadows.num_models, _MOST_ATTACKED)
    row_T = torch.linspace(0, shadows.num_models - 1, num_attacked).round().long()
    row_T = row_T.to(shadows.signals.log_probability_KANC.device)
    others = Others.of(shadows, row_T)
    member_TN, scored_TN = (matrix.to(row_T.device)[row_T] for matrix in (shadows.member_KN, shadows.scored_KN))
    mean_auc: dict[Relative, float] = {}
    for temperature in tried.temperature:
        first = Relative(
            a=tried.a[0], gamma=tried.gamma[0], temperature=temperature, soft_margin=soft_margin, trim=trim
        )
        log_p_KN = first.log_p(shadows.signals, shadows.label_N)
        if tried.size == 1:
            return first, log_p_KN
        averages = Averages.of(log_p_KN, shadows, others, online=online, trim=trim)
        of_population = averages.of_population(population_Z)
        log_p_TN = log_p_KN[row_T]
        usable_TN = scored_TN & averages.is_known_TN
        ranked: Ranked | None = None
        for a in tried.a:
            if ranked is None or not online:  # online no record's ratio depends on `a`, those of the population do
                ranked = Ranked.of(log_p_TN - averages.log_marginal(a), member_TN, usable_TN)
            ratio_TZ = (log_p_TN[:, population_Z] - of_population.log_marginal(a)).sort(1).values
            for gamma in tried.gamma:
                mean_auc[replace(first, a=a, gamma=gamma)] = round(ranked.mean_auc(ratio_TZ, gamma), _DECIMALS)
    chosen = min(mean_auc, key=lambda each: (-mean_auc[each], *tried.preference(each)))
    is_last = chosen.temperature == tried.temperature[-1]
    return chosen, log_p_KN if is_last else chosen.log_p(shadows.signals, shadows.label_N)


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
