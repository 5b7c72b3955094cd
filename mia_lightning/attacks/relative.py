"""The likelihood ratios that RMIA compares: of a record, and of the records of a population.

A ratio is p(x given θ) / p(x): what the target gives the true class of x, over what models in general give it.
"""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.references import Others, record_slices

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
