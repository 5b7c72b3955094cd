"""Attacks on an accelerator: they score where the signals lie, and as on the host."""

from dataclasses import replace

import pytest
import torch
from far_device import FAR, FarDevice, numbers_of
from quick import slow_but
from shadow_cases import ENGINE, EVERY, LIRA, RMIA, name_of, random_case
from torch import Tensor

from mia_lightning.attacks.attack_p import AttackP
from mia_lightning.attacks.attack_r import AttackR
from mia_lightning.attacks.calibrated_loss import CalibratedLoss
from mia_lightning.attacks.gap import Gap
from mia_lightning.attacks.interface import Attack, Evidence, FittedReference
from mia_lightning.attacks.label_only import AugmentationLabelOnly, BoundaryLabelOnly
from mia_lightning.attacks.leave_one_out import score_each
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.thresholds import (
    ClassConfidence,
    ClassEntropy,
    ClassModifiedEntropy,
    Confidence,
    Entropy,
    ModifiedEntropy,
)
from mia_lightning.metrics.roc import roc
from mia_lightning.seeds import generator
from mia_lightning.tasks import Task
from mia_lightning.tasks.multilabel import Multilabel
from mia_lightning.tasks.regression import Regression
from mia_lightning.training.signals import Signals, ViewSignals

MEANT = {
    "mia_lightning.attacks.attack_p.FittedAttackP.score": "which records are the population",
    "mia_lightning.attacks.rmia._scores": "that the population is observed",
    "mia_lightning.attacks.ratio.Ratio.compared": "that the population is observed",
    "mia_lightning.attacks.ratio.LogMeans.log_offline": "the logarithms of the constants of its line",
    "mia_lightning.attacks.thresholds.FittedByClass.score": "the thresholds of the classes",
    "mia_lightning.attacks.label_only.correct_views": "which of the views that were asked about",
    "mia_lightning.attacks.label_only.BoundaryLabelOnly.statistic": "the scales of the noise",
}
"""What a fitted attack reads from the device, or copies there, beside its scores."""

LABEL_ONLY = [AugmentationLabelOnly(image_shape=(2, 2)), BoundaryLabelOnly(scales=[0.1, 0.4], draws=2)]
PLAIN: list[Attack] = [Gap(), Loss(), Confidence(), Entropy(), ModifiedEntropy(), AttackP()]
BY_CLASS: list[Attack] = [ClassConfidence(), ClassEntropy(), ClassModifiedEntropy()]


def moved(shadows: Evidence) -> Evidence:
    """As `evidence_of` gives it where the signals lie on an accelerator; the records themselves stay."""
    names = ("member_KN", "scored_KN", "block_K", "label_N", "target_scored_N", "population_N")
    tensors = {name: getattr(shadows, name).to(FAR) for name in names}
    return replace(shadows, signals=shadows.signals.to(FAR), **tensors)


def seen(signals: Signals, attack: Attack) -> Signals:
    """The signals with random answers for the views that the attack needs."""
    names = tuple(view.name for view in attack.needs.views)
    if not names:
        return signals
    K, _, N, _ = signals.log_probability_KANC.shape
    phi_KAN = torch.randn(K, len(names), N, generator=torch.Generator().manual_seed(K))
    return replace(signals, views=ViewSignals(names=names, scaled_logit_KAN=phi_KAN, is_correct_KAN=phi_KAN > 0))


def scores(attack: Attack, shadows: Evidence, target: Signals, far: FarDevice) -> list[Tensor]:
    """Of a target, of shadow models that are compared with the others, and of each by the folds of all."""
    shadows = shadows.in_units_of()
    target = replace(target, unit_D=shadows.signals.unit_D)
    fitted = attack.fit(shadows, ENGINE)
    with far.strictly():
        found = [fitted.score(target, shadows.label_N)]
    if isinstance(fitted, FittedReference):
        found.append(fitted.score_left_out(shadows, torch.arange(0, 4, 3, device=shadows.block_K.device)))
    scored = score_each(attack, shadows, shadows.signals, ENGINE, folds=3)
    return [*found, scored.score_TN, scored.threshold_T, torch.tensor(float(fitted.threshold))]


EACH = [*PLAIN, *BY_CLASS, *EVERY, *LABEL_ONLY]


@pytest.mark.costly
@pytest.mark.parametrize("attack", slow_but([Loss(), ClassEntropy()], EACH), ids=name_of)
def test_scores_are_those_of_the_host_and_stay_on_the_device(attack: Attack) -> None:
    _same_on_both(attack, *random_case(12, 60))


@pytest.mark.slow
@pytest.mark.parametrize("task", [Regression(), Multilabel()], ids=lambda task: task.name)
@pytest.mark.parametrize("attack", [Loss(), CalibratedLoss(), AttackR(), AttackP(), *LIRA[:2], *RMIA[:1]], ids=name_of)
def test_so_are_those_of_other_tasks(attack: Attack, task: Task) -> None:
    shadows, target = random_case(12, 60, num_classes=2)
    random = generator(0, "labels")
    is_number = task.outputs == "numbers"
    label_NX = torch.randn(60, 2, generator=random) if is_number else torch.randint(2, (60, 2), generator=random)
    shadows = replace(shadows, label_N=label_NX, signals=replace(shadows.signals, task=task))
    _same_on_both(attack, shadows, replace(target, task=task))


def _same_on_both(attack: Attack, shadows: Evidence, target: Signals) -> None:
    shadows, target = replace(shadows, signals=seen(shadows.signals, attack)), seen(target, attack)
    with FarDevice(MEANT) as far:
        here = scores(attack, shadows, target, far)
        there = scores(attack, moved(shadows), target.to(FAR), far)
        assert [each.device for each in there[:-1]] == [FAR] * (len(there) - 1)
        found = [numbers_of(each) for each in there]
    assert far.refused == []
    for one, other in zip(found, here, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_curve_of_scores_is_made_where_they_are() -> None:
    score_N = torch.randint(50, (1000,), generator=torch.Generator().manual_seed(0)).double()
    is_member_N = torch.arange(1000) % 2 == 0
    here = roc(score_N, is_member_N)
    with FarDevice() as far:
        there = roc(score_N.to(FAR), is_member_N.to(FAR))
        assert there.threshold_F.device == FAR
        found = numbers_of(there.threshold_F)
    assert far.refused == []
    assert torch.equal(found, here.threshold_F)
