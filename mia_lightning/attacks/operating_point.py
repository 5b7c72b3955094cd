"""Operating points: thresholds learnt on shadow models, and attacks that flag one number of a record by one of them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from mia_lightning.attacks.decisions import TIED_SCORES, LearntThreshold
from mia_lightning.attacks.interface import DoesNotApplyError, Evidence, FittedAttack, Needs
from mia_lightning.attacks.smooth_threshold import ascending, smooth_threshold
from mia_lightning.attacks.statistics import Statistic
from mia_lightning.settings.kinds import AttackName
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals


def learnt_threshold(score_N: Tensor, is_member_N: Tensor) -> LearntThreshold:
    """The threshold of best balanced accuracy on a smoothed ROC; where scores are tied at it, the best of the scores.

    Args:
        score_N, is_member_N: as for `balanced_accuracy_threshold`, of any equal shape.
    """
    return threshold_between(ascending(score_N, is_member_N), ascending(score_N, ~is_member_N))


def threshold_between(member_M: Tensor, other_M: Tensor) -> LearntThreshold:
    """`learnt_threshold` of the scores of members and of non-members, float64, at least one of each, ascending."""
    threshold = smooth_threshold(member_M, other_M)
    if threshold is None:
        both_N = torch.cat([member_M, other_M])
        is_member_N = torch.arange(len(both_N), device=both_N.device) < len(member_M)
        return LearntThreshold(balanced_accuracy_threshold(both_N, is_member_N), TIED_SCORES)
    return LearntThreshold(threshold)


def balanced_accuracy_threshold(score_N: Tensor, is_member_N: Tensor) -> float:
    """The score t that maximises TPR - FPR of "flag where score >= t", hence balanced accuracy.

    Args:
        score_N: real; higher means more likely a member; tied scores are flagged together.
        is_member_N: bool, with members and non-members.

    Of several best thresholds the highest is taken; the thresholds are the scores themselves.
    """
    score_N, order = score_N.double().flatten().sort(descending=True, stable=True)
    is_member_N = is_member_N.flatten()[order]
    # (TPR - FPR) n1 n0 in whole numbers: rounded rates would break ties at random.
    gain_N = is_member_N.cumsum(0) * (~is_member_N).sum() - (~is_member_N).cumsum(0) * is_member_N.sum()
    last_of_tie_N = torch.cat([score_N[1:] != score_N[:-1], score_N.new_ones(1, dtype=torch.bool)])
    gain_N = gain_N.masked_fill(~last_of_tie_N, torch.iinfo(torch.int64).min)
    best = (gain_N == gain_N.max()).nonzero()[0, 0]  # argmax does not promise the first
    return float(score_N[best])


@dataclass(frozen=True, kw_only=True)
class FittedStatistic:
    """Scores a record by a statistic `[K, N]`, float64, larger for members, and flags it at one threshold."""

    statistic: Statistic
    threshold: float
    remarks: tuple[str, ...] = ()

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """The statistic `[T, N]`, float64."""
        return self.statistic(signals, label_N)


class OneThreshold(ABC):
    """An attack whose score is one number of a record's class probabilities, flagged at one threshold, the best on the
    shadow models.
    """

    name: AttackName

    @property
    def needs(self) -> Needs:
        return Needs(classes=True)

    @abstractmethod
    def statistic(self, signals: Signals, label_N: Tensor) -> Tensor:
        """The score of each record under K models, `[K, N]`, float64; larger for members.

        Raises:
            DoesNotApplyError: something that it looks at was not observed.
        """

    def fit(self, shadows: Evidence, engine: Engine) -> FittedAttack:
        """Learn the threshold (`learnt_threshold`) from all scored observations of all shadow models.

        Raises:
            DoesNotApplyError: the shadow models have no scored members, or no scored non-members; or as `statistic`.
        """
        score_KN = self.statistic(shadows.signals, shadows.label_N)
        return FittedStatistic(statistic=self.statistic, threshold=best_of_all(self.name, score_KN, shadows))


def best_of_all(name: str, score_KN: Tensor, shadows: Evidence) -> LearntThreshold:
    """`learnt_threshold` over all scored observations.

    Args:
        name: of the attack, for messages.

    Raises:
        DoesNotApplyError: the shadow models have no scored members, or no scored non-members.
    """
    check_both_sides(name, shadows)
    scored_KN, member_KN = shadows.scored_KN, shadows.member_KN
    return threshold_between(ascending(score_KN, scored_KN & member_KN), ascending(score_KN, scored_KN & ~member_KN))


def check_both_sides(name: str, shadows: Evidence) -> None:
    """Refuse shadow models without scored members, or without scored non-members.

    Args:
        name: of the attack, for messages.

    Raises:
        DoesNotApplyError: one kind is missing.
    """
    scored_KN, member_KN = shadows.scored_KN, shadows.member_KN
    if not bool((scored_KN & member_KN).any()) or not bool((scored_KN & ~member_KN).any()):
        raise DoesNotApplyError(
            f"attack={name} learns its threshold from members and non-members of shadow models, and the "
            f"{shadows.num_models} shadow models have not both; raise `shadow.count` or `dataset.train_size`."
        )


def best_of(score_KN: Tensor, member_KN: Tensor, scored_KN: Tensor) -> float | None:
    """The threshold of best balanced accuracy over scored observations; None without members or non-members."""
    member_M = member_KN[scored_KN]
    if not bool(member_M.any()) or bool(member_M.all()):
        return None
    return balanced_accuracy_threshold(score_KN[scored_KN], member_M)
