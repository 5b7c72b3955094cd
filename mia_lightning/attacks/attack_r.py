"""Attack R of Ye et al., "Enhanced Membership Inference Attacks against Machine Learning Models" (2022): where the loss
of a record stands among the losses of models that did not train on it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.ordered import Ordered
from mia_lightning.attacks.references import (
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
class AttackR:
    """Score: the share of a record's out-models that have a higher loss than the target, ties counted half."""

    name: AttackName = "attack_r"
    needs: ClassVar[Needs] = Needs(out_models=1)
    description: ClassVar[str] = (
        "Share of the shadow models that did not train on the record whose loss is higher than the target's; one "
        "threshold, the best on the shadow models."
    )

    def fit(self, shadows: Evidence, engine: Engine) -> "FittedAttackR":
        """Sort the out-models of each record.

        Raises:
            DoesNotApplyError: a record without out-models, or a single shadow model.
        """
        check_references(shadows, self.needs, self.name)
        value_KN = finite_log_confidence(shadows.signals, shadows.label_N)
        score_KN = scores_left_out(_compare, value_KN, shadows, torch.arange(shadows.num_models))
        threshold = left_out_threshold(score_KN, shadows, self.name)
        del score_KN
        outside = Ordered.of(value_KN, ~shadows.member_KN.to(value_KN.device), Others.of(shadows))
        most = int(outside.count_N.max())
        remark = (
            f"The score is a share of the out-models of a record, of which there are at most {most}: ties are common."
        )
        return FittedAttackR(threshold=threshold, outside=outside, remarks=(remark,))


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedAttackR:
    """Minus the losses of the out-models of each record, sorted."""

    threshold: float
    outside: Ordered
    remarks: tuple[str, ...] = ()

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """Share in [0, 1], `[T, N]`, float64, larger for members; −inf without out-models."""
        value_TN = finite_log_confidence(signals, label_N)
        return _share(value_TN, self.outside.columns(slice(value_TN.shape[1])))

    def score_left_out(self, shadows: Evidence, row_T: Tensor, signals: Signals | None = None) -> Tensor:
        """As `score`, of shadow models that are each compared with the others."""
        value_KN = finite_log_confidence(shadows.signals, shadows.label_N)
        value_TN = None if signals is None else finite_log_confidence(signals, shadows.label_N)
        return scores_left_out(_compare, value_KN, shadows, row_T, value_TN)


def _share(value_TN: Tensor, outside: Ordered) -> Tensor:
    return outside.share_below(value_TN).where(outside.left_NT.T > 0, -torch.inf)


def _compare(value_TN: Tensor, value_KN: Tensor, out_KN: Tensor, others: Others) -> Tensor:
    return _share(value_TN, Ordered.of(value_KN, out_KN, others))
