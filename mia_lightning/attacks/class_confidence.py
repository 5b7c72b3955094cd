"""The confidence thresholds by class of Song and Mittal, "Systematic evaluation of privacy risks" (2021)."""

from dataclasses import dataclass

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.one_statistic import FittedClassStatistic, fit_class_thresholds
from mia_lightning.attacks.statistics import confidence
from mia_lightning.training.engine import Engine


@dataclass(frozen=True, kw_only=True)
class ClassConfidence:
    """Score a record by the probability of its true class, less the best threshold for its class on shadow models.

    A class whose records are not both in and out of shadow models takes the best threshold of all classes.
    """

    name: str = "class_confidence"

    @property
    def description(self) -> str:
        return "The probability of the true class, less its class's threshold, the best on the shadow models."

    @property
    def needs(self) -> Needs:
        return Needs()

    def fit(self, shadows: Evidence, engine: Engine) -> FittedClassStatistic:
        return fit_class_thresholds(self.name, confidence, shadows)
