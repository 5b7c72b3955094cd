"""A report with synthetic scores, made by the real metrics, and its parts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mia_lightning.metrics.figures import limited
from mia_lightning.metrics.intervals.areas import auc_interval
from mia_lightning.metrics.intervals.bootstrap import Bootstrap
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.metrics.leakage import attack_figures
from mia_lightning.metrics.roc import roc
from mia_lightning.reports.run_section import RunSection
from mia_lightning.reports.schema import (
    AttackSection,
    AuditReport,
    ClassFigures,
    DatasetSection,
    MembershipSection,
    ShadowSection,
    TargetClass,
    TargetSection,
)
from mia_lightning.reports.scores import Scores, TrainingCurves
from mia_lightning.seeds import generator

ReportMaker = Callable[..., AuditReport]


@pytest.fixture(scope="session")
def make_report() -> ReportMaker:
    """`make_report(class_names=…, per_class=…, num_targets=…, shift=…)`."""
    return build_report


@pytest.fixture(scope="session")
def report() -> AuditReport:
    """Four classes, the last without members, one named like a script; two attacks, one target."""
    return build_report()


@dataclass(frozen=True)
class _Signals:
    label: torch.Tensor
    is_member: torch.Tensor
    score: torch.Tensor
    is_flagged: torch.Tensor


def build_report(
    *,
    class_names: tuple[str, ...] = ("cat", "dog", "<script>alert(1)</script>", "no_members"),
    per_class: int = 120,
    num_targets: int = 1,
    shift: float = 1.5,
    config: dict[str, object] | None = None,
    seed: int = 0,
) -> AuditReport:
    """Scores N(shift · strength of the class, 1) of members against N(0, 1) of non-members."""
    names = ("shokri", "loss")
    signals = {name: _signals(len(class_names), per_class, shift / (1 + place), seed, name)
               for place, name in enumerate(names)}  # fmt: skip
    attacks = tuple(_attack(name, class_names, signals[name], num_targets) for name in names)
    accuracies = [(1.0, 0.6 + 0.3 * c / len(class_names)) for c in range(len(class_names))]
    groups = attacks[0].per_class
    target_classes = tuple(
        TargetClass(
            class_index=c,
            class_name=name,
            num_members=groups[c].num_members,
            num_nonmembers=groups[c].num_nonmembers,
            train_accuracy=train if groups[c].num_members else None,
            test_accuracy=test,
            generalization_gap=train - test if groups[c].num_members else None,
        )
        for c, (name, (train, test)) in enumerate(zip(class_names, accuracies, strict=True))
    )
    counts = attacks[0].overall
    return AuditReport(
        run=RunSection(
            created="2026-11-30T12:34:56+00:00",
            seed=seed,
            device="cpu",
            precision="32",
            versions={"python": "3.11.7", "mia_lightning": "0.1.0", "torch": "2.14.1"},
            seconds={"target": 1.25, "shadows": 20.5, "attack/shokri": 3.0, "total": 25.0},
            config={"seed": seed, "dataset": {"name": "made-up"}} if config is None else config,
        ),
        dataset=DatasetSection(
            name="made-up",
            num_records=1234,
            num_classes=len(class_names),
            class_names=class_names,
            input_shape=(8, 8),
            fingerprint="ab" * 32,
        ),
        membership=MembershipSection(
            plan="disjoint",
            num_members=counts.num_members // num_targets,
            num_nonmembers=counts.num_nonmembers // num_targets,
            shadow_train_size=200,
            num_validation=0,
            duplicates_across_boundary=0,
        ),
        target=TargetSection(
            architecture="MLP",
            num_parameters=12345,
            num_targets=num_targets,
            train_accuracy=1.0,
            test_accuracy=0.71875,
            generalization_gap=0.28125,
            per_class=target_classes,
        ),
        shadow=ShadowSection(
            source="real", architecture="MLP", count=16, left_out=(3,), train_accuracy=1.0, test_accuracy=0.7
        ),
        attacks=attacks,
        warnings=("The shadow models train on half as many records as the target.",),
        scores=_scores(signals, num_targets),
        training_curves={"target": _training(1, seed), "shadow": _training(16, seed, validation=True)},
    )


def _signals(num_classes: int, per_class: int, shift: float, seed: int, name: str) -> _Signals:
    draw = generator(seed, "test_report", name)
    label = torch.arange(num_classes).repeat_interleave(per_class)
    is_member = torch.arange(len(label)) % 2 == 0
    is_member &= (label != num_classes - 1) | (num_classes == 1)
    strength = 1 - 0.8 * label / num_classes
    score = torch.randn(len(label), generator=draw, dtype=torch.float64) + shift * strength * is_member
    score = (score * 50).round() / 50  # ties
    return _Signals(label, is_member, score, score > shift / 2)


def _attack(name: str, class_names: tuple[str, ...], signals: _Signals, num_targets: int) -> AttackSection:
    per_class = []
    for c, class_name in enumerate(class_names):
        rows = signals.label == c
        figures = attack_figures(signals.score[rows], signals.is_flagged[rows], signals.is_member[rows])
        at_once = figures.auc
        if at_once.value is not None:
            interval = auc_interval(roc(signals.score[rows], signals.is_member[rows]), tail=TAIL / len(class_names))
            at_once = limited(at_once, interval)
        of_class = {"class_index": c, "class_name": class_name, "auc_simultaneous": at_once}
        per_class.append(ClassFigures(**of_class, **dict(figures)))
    return AttackSection(
        name=name,
        description=f"A synthetic attack named {name}.",
        num_targets=num_targets,
        overall=attack_figures(
            signals.score, signals.is_flagged, signals.is_member, bootstrap=Bootstrap(seed=0, attack=name)
        ),
        per_class=tuple(per_class),
    )


def _scores(signals: dict[str, _Signals], num_targets: int) -> Scores:
    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name).numpy() for part in signals.values()])

    rows = [len(part.label) for part in signals.values()]
    return Scores(
        attack=np.repeat(list(signals), rows),
        target=np.concatenate([np.arange(n) % num_targets for n in rows]),
        record=np.concatenate([np.arange(n) for n in rows]),
        label=column("label"),
        is_member=column("is_member"),
        score=column("score"),
        is_flagged=column("is_flagged"),
    )


def _training(models: int, seed: int, *, validation: bool = False) -> TrainingCurves:
    noise = torch.rand(20, models, generator=generator(seed, "test_curves", models), dtype=torch.float64)
    loss_EK = np.exp(-np.arange(20) / 6)[:, None] * (0.8 + 0.4 * noise.numpy())
    loss_EK[15:, -1] = np.nan
    return TrainingCurves(train_loss_EK=loss_EK, validation_loss_EK=loss_EK + 0.3 if validation else None)
