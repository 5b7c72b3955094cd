"""The entropy threshold of Song and Mittal, "Systematic evaluation of privacy risks" (2021)."""

from dataclasses import dataclass

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.one_statistic import FittedStatistic, fit_threshold, minus_entropy
from mia_lightning.training.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Entropy:
    """Score a record by minus the entropy of its vector, and flag it above the best threshold on shadow models.

    The true class is not used: confident mistakes look like members.
    """

    name: str = "entropy"

    @property
    def description(self) -> str:
        return "Minus the entropy of the prediction vector; one threshold, the best on the shadow models."

    @property
    def needs(self) -> Needs:
        return Needs()

    def fit(self, shadows: Evidence, engine: Engine) -> FittedStatistic:
        return fit_threshold(self.name, minus_entropy, shadows)
