"""Shadow models made up for tests of the attacks that compare a target with them record by record."""

from dataclasses import replace

import torch
from torch import Tensor

from mia_lightning.attacks.attack_r import AttackR
from mia_lightning.attacks.bavaria import Bavaria
from mia_lightning.attacks.calibrated_loss import CalibratedLoss
from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.lira import Lira
from mia_lightning.attacks.ratio import Ratio
from mia_lightning.attacks.rmia import Rmia
from mia_lightning.datasets.population import Population
from mia_lightning.seeds import generator
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals

ENGINE = Engine(seed=0)
LIRA = [
    Lira(online=online, variance=variance, published=published)
    for online in (True, False)
    for variance in ("record", "fixed")
    for published in (False, True)
]
RMIA = [
    Rmia(online=online, **constants)  # type: ignore[arg-type]
    for online in (True, False)
    for constants in (
        {"a": 0.3},
        {"a": 1.0, "gamma": 1.0, "temperature": 1.0},
        {"a": 0.5, "soft_margin": 0.6, "trim": 0.2, "temperature": 3.0},
    )
]
MODERATED = [Lira(), Lira(online=False), Bavaria()]
RATIO = [
    Ratio(online=online, **settings)  # type: ignore[arg-type]
    for online in (True, False)
    for settings in (
        {},
        {"population": "share", "a": 0.3, "weight": 1.0},
        {"population": "mean", "temperature": 3.0, "soft_margin": 0.6},
    )
]
ATTACKS = [CalibratedLoss(), AttackR(), *LIRA, *MODERATED, *RMIA, *RATIO]
CHOSEN = [Rmia(online=online, gamma=free, temperature=free) for online in (True, False) for free in (2.0, "auto")]
EVERY = [*ATTACKS, *CHOSEN]
AT_DEFAULTS = [
    *(CalibratedLoss(), AttackR(), Lira(), Lira(online=False), Bavaria()),
    *(Rmia(), Rmia(online=False), Ratio(), Ratio(online=False)),
]


def name_of(attack: object) -> str:
    """For parametrised tests: the settings, shortened."""
    return str(attack).replace("name=", "").replace("'", "").replace(", ", "-").partition("(")[2].rstrip(")")


def pairs(num_models: int, num_records: int, seed: int) -> Tensor:
    """`member_KN` of complementary pairs, rows 2j and 2j + 1."""
    rows = []
    for j in range(num_models // 2):
        row_N = torch.zeros(num_records, dtype=torch.bool)
        row_N[torch.randperm(num_records, generator=generator(seed, "pair", j))[: num_records // 2]] = True
        rows += [row_N, ~row_N]
    return torch.stack(rows)


def two_classes(phi_KN: Tensor) -> Signals:
    """Logits [φ, 0] with true class 0: the scaled logit is φ, to the precision of float32."""
    logits = torch.stack([phi_KN, torch.zeros_like(phi_KN)], dim=-1)
    return Signals(log_probability_KANC=logits.double().log_softmax(-1).float().unsqueeze(1))


def evidence(
    signals: Signals,
    member_KN: Tensor,
    *,
    label_N: Tensor | None = None,
    block_K: Tensor | None = None,
    num_population: int = 0,
    plan_name: str = "halves",
) -> Evidence:
    """Complementary pairs, of which the last records are the population: members of no model and never scored."""
    num_models, num_records = member_KN.shape
    population_N = torch.arange(num_records) >= num_records - num_population
    label_N = torch.zeros(num_records, dtype=torch.int64) if label_N is None else label_N
    num_classes = signals.log_probability_KANC.shape[-1]
    return Evidence(
        signals=signals,
        member_KN=member_KN & ~population_N,
        scored_KN=(~population_N).expand(num_models, -1).clone(),
        block_K=torch.arange(num_models) // 2 if block_K is None else block_K,
        label_N=label_N,
        num_classes=num_classes,
        target_scored_N=~population_N,
        population_N=population_N,
        population=Population(
            name="case",
            x_N=torch.zeros(num_records, 1),
            label_N=label_N,
            class_names=tuple(map(str, range(num_classes))),
            task=signals.task,
        ),
        plan_name=plan_name,
    )


def random_case(
    num_models: int, num_records: int, seed: int = 0, *, views: int = 1, num_classes: int = 3, effect: float = 1.5
) -> tuple[Evidence, Signals]:
    """Models that favour their members by `effect` logits, and two targets; a fifth of the records are population."""
    random = generator(seed, "case")
    member_KN = pairs(num_models, num_records, seed)
    num_population = num_records // 5
    label_N = torch.randint(num_classes, (num_records,), generator=random)
    logits = torch.randn(num_models + 2, views, num_records, num_classes, generator=random)
    logits += torch.randn(num_records, num_classes, generator=random)
    logits[:num_models, :, torch.arange(num_records), label_N] += effect * member_KN[:, None, :]
    signals = Signals(log_probability_KANC=logits.log_softmax(-1))
    is_shadow_K = torch.arange(num_models + 2) < num_models
    shadows = evidence(signals.select(is_shadow_K), member_KN, label_N=label_N, num_population=num_population)
    return shadows, signals.select(~is_shadow_K)


def from_a_pool(shadows: Evidence, first: int) -> Evidence:
    """As under membership=disjoint: models train on records from `first` on, and those before it are a target's."""
    in_pool_N = torch.arange(len(shadows.label_N)) >= first
    return replace(
        shadows,
        member_KN=shadows.member_KN & in_pool_N,
        scored_KN=shadows.scored_KN & in_pool_N,
        block_K=torch.arange(shadows.num_models),
        target_scored_N=~in_pool_N & ~shadows.population_N,
        plan_name="disjoint",
    )


def ragged_case(num_records: int, seed: int = 0) -> tuple[Evidence, Signals]:
    """Twelve models with independent memberships, in blocks of one to four.

    Records that lack two models on a side once some block is left out are no evidence about a target.
    """
    shadows, targets = random_case(12, num_records, seed)
    random = generator(seed, "ragged")
    member_KN = (torch.rand(12, num_records, generator=random) < 0.5) & ~shadows.population_N
    scored_KN = (torch.rand(12, num_records, generator=random) < 0.8) & ~shadows.population_N
    block_K = torch.tensor([7, 3, 3, 5, 9, 9, 5, 9, 9, 2, 1, 0])
    target_scored_N = ~shadows.population_N
    for block in block_K.unique():
        left_KN = member_KN[block_K != block]
        target_scored_N = target_scored_N & (left_KN.sum(0) >= 2) & ((~left_KN).sum(0) >= 2)
    assert target_scored_N.any()
    assert (~target_scored_N & ~shadows.population_N).any()
    ragged = replace(
        shadows, member_KN=member_KN, scored_KN=scored_KN, block_K=block_K, target_scored_N=target_scored_N
    )
    return ragged, targets


def reordered(shadows: Evidence, *, models: Tensor | None = None, records: Tensor | None = None) -> Evidence:
    """The same evidence with its models or its records in another order."""
    log_probability_KANC = shadows.signals.log_probability_KANC
    models = torch.arange(log_probability_KANC.shape[0]) if models is None else models
    records = torch.arange(log_probability_KANC.shape[2]) if records is None else records
    return replace(
        shadows,
        signals=Signals(log_probability_KANC=log_probability_KANC[models][:, :, records]),
        member_KN=shadows.member_KN[models][:, records],
        scored_KN=shadows.scored_KN[models][:, records],
        block_K=shadows.block_K[models],
        label_N=shadows.label_N[records],
        target_scored_N=shadows.target_scored_N[records],
        population_N=shadows.population_N[records],
    )
