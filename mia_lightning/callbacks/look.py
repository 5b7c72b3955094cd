"""One look: how far a model's losses give its training records away, beside how far it overfits."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mia_lightning.attacks.statistics import log_confidence
from mia_lightning.metrics.figures import Figure, limited
from mia_lightning.metrics.intervals.areas import auc_interval
from mia_lightning.metrics.intervals.bootstrap import Bootstrap
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.metrics.operating_point import operating_point_figures
from mia_lightning.metrics.ranking import tpr_figures
from mia_lightning.metrics.roc import roc
from mia_lightning.tasks import Task
from mia_lightning.training.signals import Signals

MAX_FPR = 0.01
FEWEST_OF_A_CLASS = 5  # of either kind, for a class to have figures


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen after an epoch. Limits are those of 95 % intervals over records: this model, other records.

    Attributes:
        epoch: as Lightning counts, from 0.
        step: optimiser steps so far.
        num_members, num_nonmembers: that were looked at.
        train_accuracy, test_accuracy: on the members and on the non-members that were looked at; where there are no
            classes the utility of the task, such as R².
        gap, gap_low, gap_high: train accuracy − test accuracy: overfitting, and the advantage of the gap attack. Of
            another utility the limits are None.
        auc, auc_low, auc_high: of the loss attack; None where the module gave no numbers.
        tpr, tpr_low, tpr_high: of the loss attack at a false-positive rate of 1 %; None below 100 non-members.
        exposed_class: the class, label or range of values whose lower limit of the AUC is the largest; None where none
            has enough records.
        exposed_auc, exposed_low, exposed_high: of this class, with limits that hold for all classes at once.
        reason: why figures are missing; None where they are not.
    """

    epoch: int
    step: int
    num_members: int
    num_nonmembers: int
    train_accuracy: float | None = None
    test_accuracy: float | None = None
    gap: float | None = None
    gap_low: float | None = None
    gap_high: float | None = None
    auc: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None
    tpr: float | None = None
    tpr_low: float | None = None
    tpr_high: float | None = None
    exposed_class: int | None = None
    exposed_auc: float | None = None
    exposed_low: float | None = None
    exposed_high: float | None = None
    reason: str | None = None

    def row(self) -> dict[str, Any]:
        """The columns of a table: the attributes, the TPR under the report's name."""
        renamed = {"tpr": "tpr_at_fpr_0.01", "tpr_low": "tpr_at_fpr_0.01_low", "tpr_high": "tpr_at_fpr_0.01_high"}
        return {renamed.get(name, name): value for name, value in asdict(self).items()}

    def metrics(self, prefix: str) -> dict[str, float]:
        """What is logged, under names that read like those of a report; what is undefined is left out."""
        target = "target" if prefix == "leakage" else f"{prefix}/target"
        named = {
            f"{prefix}/loss/auc": self.auc,
            f"{prefix}/loss/auc_low": self.auc_low,
            f"{prefix}/loss/auc_high": self.auc_high,
            f"{prefix}/loss/tpr_at_fpr_0.01": self.tpr,
            f"{prefix}/loss/tpr_at_fpr_0.01_low": self.tpr_low,
            f"{prefix}/loss/tpr_at_fpr_0.01_high": self.tpr_high,
            f"{prefix}/gap": self.gap,
            f"{prefix}/gap_low": self.gap_low,
            f"{prefix}/gap_high": self.gap_high,
            f"{prefix}/most_exposed/class": self.exposed_class,
            f"{prefix}/most_exposed/auc": self.exposed_auc,
            f"{prefix}/most_exposed/auc_low": self.exposed_low,
            f"{prefix}/most_exposed/auc_high": self.exposed_high,
            f"{target}/train_accuracy": self.train_accuracy,
            f"{target}/test_accuracy": self.test_accuracy,
            f"{target}/generalization_gap": self.gap,
        }
        return {name: float(value) for name, value in named.items() if value is not None}


@dataclass(frozen=True, eq=False, kw_only=True)
class Seen:
    """What one look is at.

    Attributes:
        score_N: of the loss attack, higher for members; NaN where the module gave no finite number.
        is_member_N: bool.
        of_SN: bool, whether a record is of each part: a class, label or range of values.
        overfit: the attributes of a `Look` about overfitting.
    """

    score_N: Tensor
    is_member_N: Tensor
    of_SN: Tensor
    overfit: Mapping[str, Any]


def of_classes(score_N: Tensor, is_correct_N: Tensor, label_N: Tensor, is_member_N: Tensor) -> Seen:
    """Records of classes.

    Args:
        score_N: of the loss attack, higher for members.
        is_correct_N, is_member_N: bool.
        label_N: int64.
    """
    n1 = int(is_member_N.sum())
    n0 = len(is_member_N) - n1
    right, alarms = int((is_correct_N & is_member_N).sum()), int((is_correct_N & ~is_member_N).sum())
    gap = operating_point_figures(right, alarms, n1, n0)["advantage"]
    overfit = {
        "train_accuracy": right / n1,
        "test_accuracy": alarms / n0,
        "gap": gap.value,
        "gap_low": gap.low,
        "gap_high": gap.high,
    }
    return Seen(score_N=score_N, is_member_N=is_member_N, of_SN=_of_each(label_N), overfit=overfit)


def of_task(task: Task, answer_NC: Tensor, label_NX: Tensor, is_member_N: Tensor) -> Seen:
    """Records of a task without classes; arguments as of `scores_of`."""
    sides = [(answer_NC[side_N], label_NX[side_N]) for side_N in (is_member_N, ~is_member_N)]
    train, test = (_number(task.utility_of(*side)) for side in sides)
    names = tuple(map(str, range(label_NX.shape[1])))
    return Seen(
        score_N=scores_of(task, answer_NC, label_NX, is_member_N),
        is_member_N=is_member_N,
        of_SN=task.strata(label_NX, names).of_SN,
        overfit={
            "train_accuracy": train,
            "test_accuracy": test,
            "gap": None if train is None or test is None else train - test,
        },
    )


def scores_of(task: Task, answer_NC: Tensor, label_NX: Tensor, is_member_N: Tensor) -> Tensor:
    """The scores of the loss attack, float64 `[N]`, for a task without classes; NaN where an answer is not finite.

    Numbers are read in units of their residuals on the non-members.

    Args:
        answer_NC, label_NX: of the task, a column for each number or label.
    """
    unit_D = task.unit(answer_NC[None], label_NX, ~is_member_N[None])
    signals = Signals(log_probability_KANC=answer_NC[None, None], task=task, unit_D=unit_D)
    return log_confidence(signals, label_NX)[0].where(answer_NC.isfinite().all(1), torch.nan)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def look_at(seen: Seen, *, epoch: int = 0, step: int = 0, seed: int = 0) -> Look:
    """The figures of one look.

    The AUC and its interval are those that a report gives of the same scores; so is the TPR under the same seed.

    Args:
        seed: of the bootstrap.
    """
    score_N, is_member_N = seen.score_N, seen.is_member_N
    n1 = int(is_member_N.sum())
    n0 = len(is_member_N) - n1
    about: dict[str, Any] = {"epoch": epoch, "step": step, "num_members": n1, "num_nonmembers": n0}
    num_nan = int(score_N.isnan().sum())
    if num_nan:
        return Look(**about, reason=f"the module gave no finite numbers for {num_nan:,} of {len(score_N):,} records")
    curve = roc(score_N, is_member_N)
    low, high, _ = auc_interval(curve)
    tpr = tpr_figures(curve, [MAX_FPR])[f"{MAX_FPR:g}"]
    if tpr.value is not None:
        tpr = limited(tpr, Bootstrap(seed=seed, attack="loss").tpr_at_fpr(curve, MAX_FPR))
    exposed = _most_exposed(score_N, seen.of_SN, is_member_N)
    return Look(
        **about,
        **seen.overfit,
        auc=curve.auc,
        auc_low=low,
        auc_high=high,
        tpr=tpr.value,
        tpr_low=tpr.low,
        tpr_high=tpr.high,
        **({} if exposed is None else _of_class(*exposed)),
    )


def _of_each(label_N: Tensor) -> Tensor:
    """Bool `[C, N]`: whether a record is of each class up to the largest."""
    return label_N == torch.arange(int(label_N.max()) + 1)[:, None]


def _most_exposed(score_N: Tensor, of_SN: Tensor, is_member_N: Tensor) -> tuple[int, Figure] | None:
    """The part whose lower limit of the AUC is the largest, and its AUC; limits hold for all parts at once.

    Parts with fewer than five members or non-members are left out. None where all are.
    """
    counts = [(of_SN & kind_N).sum(1) for kind_N in (is_member_N, ~is_member_N)]
    compared = torch.minimum(*counts).ge(FEWEST_OF_A_CLASS).nonzero().squeeze(1).tolist()
    found = []
    for label in compared:
        own_N = of_SN[label]
        curve = roc(score_N[own_N], is_member_N[own_N])
        figure = Figure(value=curve.auc, n=int(own_N.sum()))
        found.append((label, limited(figure, auc_interval(curve, tail=TAIL / len(compared)))))
    return max(found, key=lambda each: (each[1].low or 0.0, each[1].value or 0.0), default=None)


def _of_class(label: int, figure: Figure) -> dict[str, Any]:
    return {
        "exposed_class": label,
        "exposed_auc": figure.value,
        "exposed_low": figure.low,
        "exposed_high": figure.high,
    }
