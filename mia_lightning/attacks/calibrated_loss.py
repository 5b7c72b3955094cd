"""The calibrated loss of Watson et al., "On the Importance of Difficulty Calibration in Membership Inference Attacks"
(2022): how much lower the target's loss on a record is than that of models that did not train on it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.references import (
    Moments,
    Others,
    check_references,
    finite_log_confidence,
    left_out_threshold,
    scores_left_out,
)
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AttackName
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals


@settings("attack.{name}")
class CalibratedLoss:
    """Score: minus the loss of a record, less the mean of that over the shadow models that did not train on it."""

    name: AttackName = "calibrated_loss"
    needs: ClassVar[Needs] = Needs(out_models=1, compares_shadows=True)
    description: ClassVar[str] = (
        "Minus the loss of the record, less the mean of that over shadow models that did not train on it; one "
        "threshold, the best on the shadow models."
    )

    def fit(self, shadows: Evidence, engine: Engine) -> "FittedCalibratedLoss":
        """Average over the out-models of each record.

        Raises:
            DoesNotApplyError: a record without out-models, or a single shadow model.
        """
        check_references(shadows, self.needs, self.name)
        value_KN = finite_log_confidence(shadows.signals, shadows.label_N)
        score_KN = scores_left_out(_compare, value_KN, shadows, torch.arange(shadows.num_models))
        outside = Moments.of(value_KN, ~shadows.member_KN.to(value_KN.device), Others.of(shadows))
        return FittedCalibratedLoss(
            threshold=left_out_threshold(score_KN, shadows, self.name),
            mean_out_N=outside.mean.squeeze(0),
            num_out_N=outside.count.squeeze(0),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedCalibratedLoss:
    """The mean of minus the loss over the out-models of each record, in nats, and their number."""

    threshold: float
    mean_out_N: Tensor
    num_out_N: Tensor
    remarks: tuple[str, ...] = ()
    constants: ClassVar[tuple[()]] = ()

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """In nats, `[T, N]`, float64; above 0 where the target fits a record better; −inf without out-models."""
        value_TN = finite_log_confidence(signals, label_N)
        columns = slice(value_TN.shape[1])
        return (value_TN - self.mean_out_N[columns]).where(self.num_out_N[columns] > 0, -torch.inf)

    def score_left_out(self, shadows: Evidence, row_T: Tensor, signals: Signals | None = None) -> Tensor:
        """As `score`, of shadow models that are each compared with the others."""
        value_KN = finite_log_confidence(shadows.signals, shadows.label_N)
        value_TN = None if signals is None else finite_log_confidence(signals, shadows.label_N)
        return scores_left_out(_compare, value_KN, shadows, row_T, value_TN)


def _compare(value_TN: Tensor, value_KN: Tensor, out_KN: Tensor, others: Others) -> Tensor:
    outside = Moments.of(value_KN, out_KN, others)
    return (value_TN - outside.mean).where(outside.count > 0, -torch.inf)
