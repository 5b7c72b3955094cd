"""The confidence threshold of Song and Mittal, "Systematic evaluation of privacy risks" (2021)."""

from dataclasses import dataclass

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.one_statistic import FittedStatistic, fit_threshold
from mia_lightning.attacks.statistics import confidence
from mia_lightning.training.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """Score a record by the probability of its true class, and flag it above the best threshold on shadow models.

    It ranks records as their loss does.
    """

    name: str = "confidence"

    @property
    def description(self) -> str:
        return "The probability of the true class; one threshold, the best on the shadow models."

    @property
    def needs(self) -> Needs:
        return Needs()

    def fit(self, shadows: Evidence, engine: Engine) -> FittedStatistic:
        return fit_threshold(self.name, confidence, shadows)
