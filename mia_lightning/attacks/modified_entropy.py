"""The modified entropy threshold of Song and Mittal, "Systematic evaluation of privacy risks" (2021)."""

from dataclasses import dataclass

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.one_statistic import FittedStatistic, fit_threshold, minus_modified_entropy
from mia_lightning.training.engine import Engine


@dataclass(frozen=True, kw_only=True)
class ModifiedEntropy:
    """Score a record by minus its modified entropy, and flag it above the best threshold on shadow models.

    Unlike the entropy it is 0 for a confident right answer, and large for a confident mistake.
    """

    name: str = "modified_entropy"

    @property
    def description(self) -> str:
        return "Minus the modified entropy, which knows the true class; one threshold, the best on the shadow models."

    @property
    def needs(self) -> Needs:
        return Needs()

    def fit(self, shadows: Evidence, engine: Engine) -> FittedStatistic:
        return fit_threshold(self.name, minus_modified_entropy, shadows)
