"""Evidence with and without a planted difference of members, for the attack networks of each class."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from attack_toys import make_evidence
from torch import Tensor

from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.shokri import Shokri
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.signals import Signals
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings


def engine(seed: int = 0, precision: str = "32") -> Engine:
    return Engine(seed=seed, settings=TrainerSettings(accelerator="cpu", precision=precision))


def attack(epochs: int = 6, lr: float = 0.02, **settings: object) -> Shokri:
    training = Recipe(epochs=epochs, batches_per_epoch=5, optimizer=partial(torch.optim.Adam, lr=lr))
    return Shokri(hidden=(8,), training=training, **settings)


def halves(num_models: int, num_records: int, random: torch.Generator) -> Tensor:
    pairs = []
    for _ in range(num_models // 2):
        row_N = torch.zeros(num_records, dtype=torch.bool)
        row_N[torch.randperm(num_records, generator=random)[: num_records // 2]] = True
        pairs += [row_N, ~row_N]
    return torch.stack(pairs)


def simulate(
    confidence: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    num_records: int = 300,
    num_classes: int = 2,
    num_models: int = 4,
    views: int = 1,
    seed: int = 0,
) -> tuple[Evidence, Evidence]:
    """Shadow models and one target whose true-class logit is `confidence(member, label, noise)`, each [K, 1, N]."""
    random = torch.Generator().manual_seed(seed)
    label_N = torch.randint(num_classes, (num_records,), generator=random)

    def observe(member_KN: Tensor) -> Evidence:
        logits = torch.randn(len(member_KN), views, num_records, num_classes, generator=random) * 0.1
        noise = torch.randn(len(member_KN), views, num_records, generator=random)
        logits[..., torch.arange(num_records), label_N] = confidence(member_KN[:, None], label_N, noise)
        return make_evidence(
            signals=Signals(log_probability_KANC=logits.log_softmax(-1)),
            member_KN=member_KN,
            scored_KN=torch.ones_like(member_KN),
            label_N=label_N,
            num_classes=num_classes,
        )

    return observe(halves(num_models, num_records, random)), observe(halves(2, num_records, random)[:1])


def noise_alone(member: Tensor, label_N: Tensor, noise: Tensor) -> Tensor:
    return noise


def planted(member: Tensor, label_N: Tensor, noise: Tensor) -> Tensor:
    """Members of class 0 are more confident than non-members by 2, members of class 1 less, by as much."""
    return 2.0 * (member == (label_N == 0)) + 0.7 * noise


class Recording(Engine):
    """An engine that keeps the job that it was given."""

    def run(self, job: TrainingJob) -> TrainedStack:
        object.__setattr__(self, "job", job)
        return super().run(job)


def without(shadows: Evidence, c: int, *, how: str) -> Evidence:
    """The same, with a class that shadow models have only members of, or only non-members, or none."""
    of_class_N = shadows.label_N == c
    if how == "members":
        return replace(shadows, member_KN=shadows.member_KN | of_class_N)
    member_KN = shadows.member_KN & ~of_class_N
    if how == "non-members":
        return replace(shadows, member_KN=member_KN)
    return replace(shadows, member_KN=member_KN, scored_KN=shadows.scored_KN & ~of_class_N)
