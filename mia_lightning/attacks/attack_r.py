"""Attack R of Ye et al., "Enhanced Membership Inference Attacks against Machine Learning Models" (2022): where the loss
of a record stands among the losses of models that did not train on it.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.ordered import ENDS, Ordered
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
    """Score: the quantile of the target's loss among those of a record's out-models, counted from the highest.

    It is linear between neighbouring losses, and between the outermost ones and two ends, 0 and 1,000 nats, as in the
    code published with the paper. So a loss below those of all out-models still says how far below, and few out-models
    do not mean many ties.
    """

    name: AttackName = "attack_r"
    needs: ClassVar[Needs] = Needs(out_models=1, compares_shadows=True)
    description: ClassVar[str] = (
        "Share of the shadow models that did not train on the record whose loss is higher than the target's, linear "
        "between their losses; one threshold, the best on the shadow models."
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
        out_KN = ~shadows.member_KN.to(value_KN.device)
        return FittedAttackR(threshold=threshold, outside=_ordered(value_KN, out_KN, Others.of(shadows)))


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedAttackR:
    """Minus the losses of the out-models of each record and the two ends, sorted."""

    threshold: float
    outside: Ordered
    remarks: tuple[str, ...] = ()
    constants: ClassVar[tuple[()]] = ()

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
    num_losses_TN = outside.left_NT.T
    share_TN = outside.place_of(value_TN) / (num_losses_TN - 1)
    return share_TN.where(num_losses_TN > len(ENDS), -torch.inf)


def _compare(value_TN: Tensor, value_KN: Tensor, out_KN: Tensor, others: Others) -> Tensor:
    return _share(value_TN, _ordered(value_KN, out_KN, others))


def _ordered(value_KN: Tensor, out_KN: Tensor, others: Others) -> Ordered:
    """The out-models and the ends, as two models that did not train on any record and are nobody's block."""
    end_E = value_KN.new_tensor(ENDS)
    value_MN = torch.cat([value_KN, end_E[:, None].expand(-1, value_KN.shape[1])])
    out_MN = torch.cat([out_KN, out_KN.new_ones(len(ENDS), out_KN.shape[1])])
    own_M = torch.cat([others.block_K, others.block_K.max() + 1 + torch.arange(len(ENDS)).to(others.block_K)])
    return Ordered.of(value_MN, out_MN, replace(others, block_K=own_M))
