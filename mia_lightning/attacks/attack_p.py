"""Attack-P of Ye et al., "Enhanced membership inference attacks against machine learning models" (2022)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mia_lightning.attacks.decisions import POPULATION, LearntThreshold
from mia_lightning.attacks.interface import DoesNotApplyError, Evidence, Needs
from mia_lightning.attacks.ordered import ENDS, interpolated
from mia_lightning.attacks.references import finite_log_confidence
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AttackName, Between0And1
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals


@settings("attack.{name}")
class AttackP:
    """Score: minus the quantile of a record's loss among the target's losses on records that are nobody's members.

    The quantile is linear between neighbouring losses, and between the outermost ones and two ends, 0 and 1,000 nats,
    as in the code published with the paper. So records are ranked as by their loss.

    Attributes:
        alpha: the false-positive rate of the operating point: flagged is a record of at most this quantile.
    """

    name: AttackName = "attack_p"
    alpha: Between0And1 = 0.1

    @property
    def description(self) -> str:
        return (
            "Minus the share of population records on which the target's loss is as small, linear between their "
            f"losses; flags where it is at most {self.alpha:g}, which is known in advance."
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
        remarks: tuple[str, ...] = ()
        if self.alpha * (size + 1) < 1:
            remarks = (
                f"`attack.{self.name}.alpha` is {self.alpha:g}, a share that the {size} population records are too few "
                "to show: only losses below all of theirs are flagged.",
            )
        threshold = LearntThreshold(-self.alpha, POPULATION)
        return FittedAttackP(population_N=shadows.population_N, threshold=threshold, remarks=remarks)


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedAttackP:
    """Which records are the population, bool, and the operating point."""

    population_N: Tensor
    threshold: float
    remarks: tuple[str, ...] = ()

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """Minus the quantile of the record's loss among the population's, `[T, N]` in [-1, 0], float64.

        Larger for members. Equal losses share the largest of their quantiles, so that ties are never flagged beyond
        `alpha`.
        """
        value_TN = finite_log_confidence(signals, label_N)
        known_TP = value_TN[:, self.population_N[: value_TN.shape[1]].to(value_TN.device)]
        end_TE = value_TN.new_tensor(ENDS).expand(len(value_TN), -1)
        sorted_TM = torch.cat([known_TP, end_TE], dim=1).sort(dim=1).values
        last = sorted_TM.shape[1] - 1
        num_below_TN = torch.searchsorted(sorted_TM, value_TN)
        place_TN = interpolated(value_TN, num_below_TN, lambda place_TN: sorted_TM.gather(1, place_TN), last + 1)
        return (place_TN - last) / last


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
