"""Attack-P of Ye et al., "Enhanced membership inference attacks against machine learning models" (2022)."""

from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor

from mia_lightning.attacks.interface import DoesNotApplyError, Evidence, Needs
from mia_lightning.attacks.operating_point import POPULATION, LearntThreshold
from mia_lightning.attacks.statistics import log_confidence
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AttackName, Between0And1
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals


@settings("attack.{name}")
class AttackP:
    """Score: minus the quantile of a record's loss among the target's losses on records that are nobody's members.

    Attributes:
        alpha: the false-positive rate of the operating point: flagged is a record whose loss is such that at most this
            share of the population's losses are as small.
    """

    name: AttackName = "attack_p"
    alpha: Between0And1 = 0.1

    @property
    def description(self) -> str:
        return (
            "Minus the share of population records on which the target's loss is as small; flags where it is at most "
            f"{self.alpha:g}, which is known in advance."
        )

    @property
    def needs(self) -> Needs:
        return Needs(shadows=False, population=True)

    def fit(self, shadows: Evidence, engine: Engine) -> "FittedAttackP":
        """Nothing is learnt: the evidence says which records are the population.

        Raises:
            DoesNotApplyError: there are none.
        """
        check_population(self.name, shadows)
        size = int(shadows.population_N.sum())
        num_below = floor(self.alpha * size + 1e-9)  # the product of a share such as 0.29 and 100 may lie below 29
        remarks: tuple[str, ...] = ()
        if num_below == 0:
            remarks = (
                f"`attack.{self.name}.alpha` is {self.alpha:g}, a share that the {size} population records are too few "
                "to show: only losses below all of theirs are flagged.",
            )
        threshold = LearntThreshold(-num_below / size, POPULATION)
        return FittedAttackP(population_N=shadows.population_N, threshold=threshold, remarks=remarks)


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedAttackP:
    """Which records are the population, bool, and the operating point."""

    population_N: Tensor
    threshold: float
    remarks: tuple[str, ...] = ()

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """Minus the quantile of the record's loss among the population's, `[T, N]` in [-1, 0], float64.

        Larger for members. The quantile is the share of losses that are smaller or equal, less half a record where
        there are equal ones: the mid-rank where one loss ties, in its order where several do. So the scores from the
        threshold on are exactly those of which no more than `alpha` of the population's losses are smaller or equal.
        """
        loss_TN = -log_confidence(signals, label_N)
        population_N = self.population_N[: loss_TN.shape[1]].to(loss_TN.device)
        sorted_TP = loss_TN[:, population_N].sort(dim=1).values
        num_smaller_TN = torch.searchsorted(sorted_TP, loss_TN)
        num_at_most_TN = torch.searchsorted(sorted_TP, loss_TN, right=True)
        is_tied_TN = num_smaller_TN < num_at_most_TN
        return -(num_at_most_TN.double() - 0.5 * is_tied_TN) / sorted_TP.shape[1]


def check_population(name: str, shadows: Evidence, *, fewest: int = 1) -> None:
    """Refuse evidence with fewer population records than the attack needs.

    Raises:
        DoesNotApplyError: these are too few.
    """
    size = int(shadows.population_N.sum())
    if size < fewest:
        raise DoesNotApplyError(
            f"attack={name} compares with records that are evidence about no model, at least {fewest}, and there are "
            f"{size}; set `membership.population` to their number or share."
        )
