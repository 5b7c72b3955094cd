"""The loss threshold of Yeom et al., "Privacy Risk in Machine Learning" (2018), section III-B."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.threshold import balanced_accuracy_threshold
from mia_lightning.training.fit import Engine
from mia_lightning.training.signals import Signals


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Score a record by minus its loss, and flag it above the threshold that is best on the shadow models."""

    name: str = "loss"

    @property
    def description(self) -> str:
        return "Minus the cross-entropy loss of the record; one threshold, the best on the shadow models."

    def fit(self, shadows: Evidence, engine: Engine) -> "FittedLoss":
        score_KN = minus_loss(shadows.signals, shadows.label_N)
        scored_KN = shadows.scored_KN
        return FittedLoss(threshold=balanced_accuracy_threshold(score_KN[scored_KN], shadows.member_KN[scored_KN]))


@dataclass(frozen=True, kw_only=True)
class FittedLoss:
    """The learnt threshold, in nats of minus the loss."""

    threshold: float
    remarks: tuple[str, ...] = ()

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """Minus the loss `[T, N]`, float64, at most 0."""
        return minus_loss(signals, label_N)


def minus_loss(signals: Signals, label_N: Tensor) -> Tensor:
    """log p of the true class, `[K, N]` in float64: the mean over views."""
    log_probability_KANC = signals.log_probability_KANC
    index = label_N.to(log_probability_KANC.device).expand(log_probability_KANC.shape[:3]).unsqueeze(-1)
    score_KN: Tensor = log_probability_KANC.gather(-1, index).squeeze(-1).to(torch.float64).mean(1)
    return score_KN
