"""Evidence for attacks, made by hand: what is not about the attack under test is filled in."""

from dataclasses import replace

import torch
from torch import Tensor

from mia_lightning.attacks.interface import Attack, Evidence
from mia_lightning.datasets.population import Population
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals
from mia_lightning.training.trainer import TrainerSettings


def make_evidence(
    *,
    signals: Signals,
    member_KN: Tensor,
    scored_KN: Tensor,
    label_N: Tensor,
    num_classes: int,
    population_N: Tensor | None = None,
    population: Population | None = None,
) -> Evidence:
    """Evidence on records of one feature, their number, without a population, every model a block of its own."""
    N = len(label_N)
    if population is None:
        population = Population(
            name="toy",
            x_N=torch.arange(N, dtype=torch.float32)[:, None],
            label_N=label_N,
            class_names=tuple(map(str, range(num_classes))),
        )
    return Evidence(
        signals=signals,
        member_KN=member_KN,
        scored_KN=scored_KN,
        block_K=torch.arange(len(member_KN)),
        label_N=label_N,
        num_classes=num_classes,
        target_scored_N=torch.ones(N, dtype=torch.bool),
        population_N=torch.zeros(N, dtype=torch.bool) if population_N is None else population_N,
        population=population,
    )


def cpu_engine(seed: int = 0) -> Engine:
    return Engine(seed=seed, settings=TrainerSettings(accelerator="cpu"))


def memorising(
    *, models: int = 4, records: int = 400, classes: int = 3, seed: int = 0, excess: float = 5.0
) -> tuple[Evidence, Signals, Tensor]:
    """Shadow models, and a target, whose logit of the true class is higher by `excess` on records they trained on.

    A fifth of the records are the population. Every class is predicted right about as often.

    Returns:
        the evidence of the shadow models, the signals of the target `[1, 1, N, C]` and its members, bool `[N]`.
    """
    random = torch.Generator().manual_seed(seed)
    label_N = torch.arange(records) % classes
    population_N = torch.arange(records) % 5 == 4
    member_KN = (torch.rand(models + 1, records, generator=random) < 0.5) & ~population_N
    logits_KNC = torch.randn(models + 1, records, classes, generator=random)
    logits_KNC[:, torch.arange(records), label_N] += excess * member_KN
    log_probability_KANC = logits_KNC.log_softmax(-1).unsqueeze(1)
    shadows = make_evidence(
        signals=Signals(log_probability_KANC=log_probability_KANC[1:]),
        member_KN=member_KN[1:],
        scored_KN=(~population_N).expand(models, -1),
        label_N=label_N,
        num_classes=classes,
        population_N=population_N,
        population=Population(
            name="toy",
            x_N=torch.randn(records, 6, generator=random),
            label_N=label_N,
            class_names=tuple(map(str, range(classes))),
        ),
    )
    return shadows, Signals(log_probability_KANC=log_probability_KANC[:1]), member_KN[0]


def reordered(shadows: Evidence, order_N: Tensor) -> Evidence:
    """The same evidence with the records in another order."""
    return replace(
        shadows,
        signals=in_order(shadows.signals, order_N),
        member_KN=shadows.member_KN[:, order_N],
        scored_KN=shadows.scored_KN[:, order_N],
        label_N=shadows.label_N[order_N],
        target_scored_N=shadows.target_scored_N[order_N],
        population_N=shadows.population_N[order_N],
        population=replace(
            shadows.population, x_N=shadows.population.x_N[order_N], label_N=shadows.population.label_N[order_N]
        ),
    )


def in_order(signals: Signals, order_N: Tensor) -> Signals:
    """The same signals with the records in another order."""
    views = signals.views
    if views is not None:
        views = replace(
            views,
            scaled_logit_KAN=views.scaled_logit_KAN[:, :, order_N],
            is_correct_KAN=views.is_correct_KAN[:, :, order_N],
        )
    return replace(signals, log_probability_KANC=signals.log_probability_KANC[:, :, order_N], views=views)


def scores_of(attack: Attack, shadows: Evidence, target: Signals) -> tuple[Tensor, Tensor]:
    """Scores of the first target, and which records are flagged, `[N]` each."""
    fitted = attack.fit(shadows, cpu_engine())
    (score_N,) = fitted.score(target, shadows.label_N)
    assert score_N.dtype == torch.float64
    return score_N, score_N >= fitted.threshold
