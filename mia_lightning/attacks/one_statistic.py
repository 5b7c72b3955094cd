"""What attacks that look at one number of a record share: a threshold learnt on shadow models, for all or by class."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mia_lightning.attacks.interface import DoesNotApplyError, Evidence
from mia_lightning.attacks.statistics import Statistic, entropy, modified_entropy
from mia_lightning.attacks.threshold import balanced_accuracy_threshold
from mia_lightning.training.signals import Signals


@dataclass(frozen=True, kw_only=True)
class FittedStatistic:
    """Score a record by a statistic `[K, N]`, float64, larger for members, and flag it at one threshold."""

    statistic: Statistic
    threshold: float
    remarks: tuple[str, ...] = ()

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """The statistic `[T, N]`, float64."""
        return self.statistic(signals, label_N)


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedClassStatistic:
    """Score a record by a statistic minus its class's threshold, `threshold_C` (float64), and flag it from 0 on."""

    statistic: Statistic
    threshold_C: Tensor
    threshold: float = 0.0
    remarks: tuple[str, ...] = ()

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """The statistic minus the threshold, `[T, N]`, float64."""
        statistic_TN = self.statistic(signals, label_N)
        return statistic_TN - self.threshold_C.to(statistic_TN.device)[label_N.to(statistic_TN.device)]


def fit_threshold(name: str, statistic: Statistic, shadows: Evidence) -> FittedStatistic:
    """The threshold of best balanced accuracy over all scored observations of all shadow models.

    Raises:
        DoesNotApplyError: the shadow models have no scored members, or no scored non-members.
    """
    score_KN = statistic(shadows.signals, shadows.label_N)
    return FittedStatistic(statistic=statistic, threshold=_best_of_all(name, score_KN, shadows))


def fit_class_thresholds(name: str, statistic: Statistic, shadows: Evidence) -> FittedClassStatistic:
    """The threshold of best balanced accuracy among the records of each class, or that of all where a class has none.

    Raises:
        DoesNotApplyError: as `fit_threshold`.
    """
    score_KN = statistic(shadows.signals, shadows.label_N)
    thresholds = []
    for c in range(shadows.num_classes):
        record_M = (shadows.label_N == c).nonzero().squeeze(1)
        columns = (each_KN[:, record_M] for each_KN in (score_KN, shadows.member_KN, shadows.scored_KN))
        thresholds.append(_best(*columns))
    missing = [c for c, threshold in enumerate(thresholds) if threshold is None]
    overall = 0.0
    remarks: tuple[str, ...] = ()
    if missing:
        overall = _best_of_all(name, score_KN, shadows)
        remarks = (
            f"No shadow models have both members and non-members of the classes {missing}: these take the threshold "
            "of all classes together.",
        )
    threshold_C = [overall if threshold is None else threshold for threshold in thresholds]
    return FittedClassStatistic(
        statistic=statistic, threshold_C=torch.tensor(threshold_C, dtype=torch.float64), remarks=remarks
    )


def minus_entropy(signals: Signals, label_N: Tensor) -> Tensor:
    """Minus the entropy `[K, N]`, so that it is larger for members."""
    return -entropy(signals, label_N)


def minus_modified_entropy(signals: Signals, label_N: Tensor) -> Tensor:
    """Minus the modified entropy `[K, N]`, so that it is larger for members."""
    return -modified_entropy(signals, label_N)


def _best_of_all(name: str, score_KN: Tensor, shadows: Evidence) -> float:
    threshold = _best(score_KN, shadows.member_KN, shadows.scored_KN)
    if threshold is None:
        raise DoesNotApplyError(
            f"attack={name} learns its threshold from members and non-members of shadow models, and the "
            f"{shadows.num_models} shadow models have not both; raise `shadow.count` or `dataset.train_size`."
        )
    return threshold


def _best(score_KN: Tensor, member_KN: Tensor, scored_KN: Tensor) -> float | None:
    """The best threshold over the scored observations; None where members or non-members are missing."""
    member_M = member_KN[scored_KN]
    if not bool(member_M.any()) or bool(member_M.all()):
        return None
    return balanced_accuracy_threshold(score_KN[scored_KN], member_M)
