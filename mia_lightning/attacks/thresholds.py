"""The threshold attacks of Song and Mittal, "Systematic evaluation of privacy risks of machine learning models" (2021).

Each looks at one number of a record's prediction vector, and flags it at one threshold for all classes, or at one for
each class; both are learnt on the shadow models.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.attacks import statistics
from mia_lightning.attacks.decisions import CLASS_THRESHOLDS, LearntThreshold
from mia_lightning.attacks.interface import Evidence, FittedAttack
from mia_lightning.attacks.operating_point import OneThreshold, balanced_accuracy_threshold, best_of, check_both_sides
from mia_lightning.attacks.statistics import Statistic
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AttackName
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals


@settings("attack.{name}")
class Confidence(OneThreshold):
    """Score: the probability of the true class, in [0, 1]; larger for members. It ranks records as their loss does."""

    name: AttackName = "confidence"
    description: ClassVar[str] = "The probability of the true class; one threshold, the best on the shadow models."

    def statistic(self, signals: Signals, label_N: Tensor) -> Tensor:
        """The probability of the true class."""
        return statistics.confidence(signals, label_N)


@settings("attack.{name}")
class Entropy(OneThreshold):
    """Score: minus the entropy of the prediction vector, in nats, at most 0; larger for members.

    The true class is not used: confident mistakes look like members.
    """

    name: AttackName = "entropy"
    description: ClassVar[str] = (
        "Minus the entropy of the prediction vector; one threshold, the best on the shadow models."
    )

    def statistic(self, signals: Signals, label_N: Tensor) -> Tensor:
        """Minus the entropy."""
        return -statistics.entropy(signals, label_N)


@settings("attack.{name}")
class ModifiedEntropy(OneThreshold):
    """Score: minus the modified entropy, in nats, at most 0; larger for members.

    Unlike the entropy, the modified entropy is 0 for a confident right answer, and large for a confident mistake.
    """

    name: AttackName = "modified_entropy"
    description: ClassVar[str] = (
        "Minus the modified entropy, which knows the true class; one threshold, the best on the shadow models."
    )

    def statistic(self, signals: Signals, label_N: Tensor) -> Tensor:
        """Minus the modified entropy."""
        return -statistics.modified_entropy(signals, label_N)


class _ByClass(OneThreshold):
    """The score is the statistic less the best threshold for the record's class on the shadow models, flagged from 0.

    A class whose records are not both in and out of shadow models takes the best threshold of all classes.
    """

    def fit(self, shadows: Evidence, engine: Engine) -> FittedAttack:
        """Learn the thresholds.

        Raises:
            DoesNotApplyError: a class lacks members or non-members, and so do all classes together.
        """
        score_KN = self.statistic(shadows.signals, shadows.label_N)
        thresholds = []
        for c in range(shadows.num_classes):
            record_M = (shadows.label_N == c).nonzero().squeeze(1)
            columns = (each_KN[:, record_M] for each_KN in (score_KN, shadows.member_KN, shadows.scored_KN))
            thresholds.append(best_of(*columns))
        missing = [c for c, threshold in enumerate(thresholds) if threshold is None]
        overall = 0.0
        if missing:
            check_both_sides(self.name, shadows)
            scored_KN = shadows.scored_KN
            overall = balanced_accuracy_threshold(score_KN[scored_KN], shadows.member_KN[scored_KN])
        remark = (
            f"No shadow models have both members and non-members of the classes {missing}: these take the threshold "
            "of all classes together."
        )
        threshold_C = [overall if threshold is None else threshold for threshold in thresholds]
        return FittedByClass(
            statistic=self.statistic,
            threshold_C=torch.tensor(threshold_C, dtype=torch.float64),
            remarks=(remark,) if missing else (),
        )


@settings("attack.{name}")
class ClassConfidence(_ByClass, Confidence):
    """Score: the probability of the true class, less the threshold for that class; larger for members."""

    name: AttackName = "class_confidence"
    description: ClassVar[str] = (
        "The probability of the true class, less its class's threshold, the best on the shadow models."
    )


@settings("attack.{name}")
class ClassEntropy(_ByClass, Entropy):
    """Score: minus the entropy, in nats, less the threshold for the record's class; larger for members."""

    name: AttackName = "class_entropy"
    description: ClassVar[str] = (
        "Minus the entropy of the prediction vector, less its class's threshold, the best on the shadow models."
    )


@settings("attack.{name}")
class ClassModifiedEntropy(_ByClass, ModifiedEntropy):
    """Score: minus the modified entropy, in nats, less the threshold for the record's class; larger for members."""

    name: AttackName = "class_modified_entropy"
    description: ClassVar[str] = (
        "Minus the modified entropy, less its class's threshold, the best on the shadow models."
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedByClass:
    """The threshold of each class, `threshold_C` (float64), in the units of the statistic."""

    statistic: Statistic
    threshold_C: Tensor
    threshold: float = LearntThreshold(0.0, CLASS_THRESHOLDS)
    remarks: tuple[str, ...] = ()

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """The statistic minus the threshold of the record's class, `[T, N]`, float64; larger for members."""
        statistic_TN = self.statistic(signals, label_N)
        return statistic_TN - self.threshold_C.to(statistic_TN.device)[label_N.to(statistic_TN.device)]
