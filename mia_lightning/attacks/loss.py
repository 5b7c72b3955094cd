"""The loss threshold of Yeom et al., "Privacy Risk in Machine Learning" (2018), section III-B."""

from dataclasses import dataclass

from torch import Tensor

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.statistics import log_confidence
from mia_lightning.attacks.threshold import balanced_accuracy_threshold
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Score a record by minus its loss, and flag it above the threshold that is best on the shadow models."""

    name: str = "loss"

    @property
    def needs(self) -> Needs:
        return Needs()

    @property
    def description(self) -> str:
        return "Minus the cross-entropy loss of the record; one threshold, the best on the shadow models."

    def fit(self, shadows: Evidence, engine: Engine) -> "FittedLoss":
        score_KN = log_confidence(shadows.signals, shadows.label_N)
        scored_KN = shadows.scored_KN
        return FittedLoss(threshold=balanced_accuracy_threshold(score_KN[scored_KN], shadows.member_KN[scored_KN]))


@dataclass(frozen=True, kw_only=True)
class FittedLoss:
    """The learnt threshold, in nats of minus the loss."""

    threshold: float
    remarks: tuple[str, ...] = ()

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """Minus the loss `[T, N]`, float64, at most 0."""
        return log_confidence(signals, label_N)
