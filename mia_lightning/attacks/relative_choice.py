"""Which constants of RMIA rank members best where shadow models are attacked with each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.references import Others
from mia_lightning.attacks.relative import Averages, Relative, log_factor

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
