"""Every model of a stack is the target once, with the models outside its block as its shadow models.

Attacks in closed form compare each target with all models but its own block. What is learnt (attack networks,
thresholds, settings) is learnt once for each fold of whole blocks, from the models of the other folds, so that nothing
that scores a target has learnt from it or its complement. An attack that needs no shadow models is given none, and
scores all targets at once. Either way all networks of an attack are one stack.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mia_lightning.attacks.decisions import decision_of
from mia_lightning.attacks.interface import Attack, Evidence, FitsFolds, FittedAttack, FittedReference
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals


@dataclass(frozen=True, eq=False, kw_only=True)
class Scored:
    """The scores and decisions of an attack on T targets.

    Attributes:
        score_TN: float64, higher means more likely a member.
        is_flagged_TN: bool, the attack's own decision: a score of at least the threshold.
        threshold_T: float64.
        decision: of `decision_of`.
        remarks: sentences for the report, each once, with the number of folds where it is not that of all.
    """

    score_TN: Tensor
    is_flagged_TN: Tensor
    threshold_T: Tensor
    decision: str
    remarks: tuple[str, ...]


def score_each(attack: Attack, evidence: Evidence, signals: Signals, engine: Engine, *, folds: int) -> Scored:
    """Score every model of the evidence as a target.

    Args:
        signals: of the same K models, as the target shows them (through its defences).

    Raises:
        DoesNotApplyError: as `attack.fit`.
    """
    if not attack.needs.shadows:
        evidence = evidence.in_units_of()
        fitted = attack.fit(evidence.select(torch.zeros_like(evidence.block_K, dtype=torch.bool)), engine)
        score_TN = fitted.score(in_units(signals, evidence), evidence.label_N)
        return scored_at(score_TN, [fitted.threshold] * len(score_TN), fitted.remarks)
    K, N = evidence.member_KN.shape
    score_KN = torch.empty(K, N, dtype=torch.float64, device=evidence.member_KN.device)
    thresholds = [0.0] * K
    remarks: dict[str, int] = {}
    fold_FK = fold_masks(evidence.block_K, folds)
    others_F = [evidence.in_units_of(~fold_K) for fold_K in fold_FK]
    every_fitted = _fitted(attack, evidence, others_F, fold_FK, engine)
    together: dict[Hashable, tuple[FittedReference, Evidence, Tensor]] = {}
    for fold, (fold_K, others, fitted) in enumerate(zip(fold_FK, others_F, every_fitted, strict=True)):
        if isinstance(fitted, FittedReference):  # what learnt the same, in the same units, scores several folds at once
            learnt = fitted.constants, None if others is evidence else fold
            first, _, before_K = together.get(learnt, (fitted, others, torch.zeros_like(fold_K)))
            together[learnt] = first, others, before_K | fold_K
        else:
            score_KN[fold_K] = fitted.score(in_units(signals.select(fold_K), others), evidence.label_N)
        for k in fold_K.nonzero().flatten().tolist():
            thresholds[k] = fitted.threshold
        for remark in fitted.remarks:
            remarks[remark] = remarks.get(remark, 0) + 1
    for fitted, others, row_K in together.values():
        shown = None if signals is evidence.signals else in_units(signals.select(row_K), others)
        score_KN[row_K] = fitted.score_left_out(others, row_K.nonzero().squeeze(1), shown)
    count = len(fold_FK)
    told = tuple(each if times == count else f"{each} ({times} of {count} folds)" for each, times in remarks.items())
    return scored_at(score_KN, thresholds, told)


def in_units(signals: Signals, evidence: Evidence) -> Signals:
    """The signals of targets in the units of the evidence that an attack was fitted on."""
    unit_D = evidence.signals.unit_D
    return signals if unit_D is None else replace(signals, unit_D=unit_D.to(signals.log_probability_KANC.device))


def scored_at(score_TN: Tensor, threshold_T: Sequence[float], remarks: tuple[str, ...]) -> Scored:
    """The decisions that follow from the scores and the threshold of each target."""
    numbers_T = torch.tensor([float(each) for each in threshold_T], dtype=torch.float64, device=score_TN.device)
    return Scored(
        score_TN=score_TN,
        is_flagged_TN=score_TN >= numbers_T[:, None],
        threshold_T=numbers_T,
        decision=decision_of(threshold_T),
        remarks=remarks,
    )


def fold_masks(block_K: Tensor, folds: int) -> Tensor:
    """Bool masks `[F, K]` that divide the models into at most `folds` groups of whole blocks, as even as can be."""
    numbers, place_K = block_K.unique(return_inverse=True)
    folds = min(folds, len(numbers))
    fold_FK: Tensor = place_K % folds == torch.arange(folds, device=block_K.device)[:, None]
    return fold_FK


def _fitted(
    attack: Attack, evidence: Evidence, others_F: list[Evidence], fold_FK: Tensor, engine: Engine
) -> Iterable[FittedAttack]:
    """The attack fitted without the models of each fold: networks together, all else one after the other.

    Args:
        others_F: the evidence in the units of the models outside each fold.
    """
    if isinstance(attack, FitsFolds):
        return attack.fit_folds(evidence, fold_FK, engine)
    return (attack.fit(others.select(~fold_K), engine) for others, fold_K in zip(others_F, fold_FK, strict=True))
