"""How often intervals over targets hold the expectation where attacks learn their threshold from the other targets.

In each simulation records and trainings are new. The expectation is the mean over the simulations of a case, of which
the Monte-Carlo standard error at 95 % is 1.3 points.
"""

import numpy as np
import pytest
import torch
from simulated_targets import heterogeneous_signals

from mia_lightning.attacks.calibrated_loss import CalibratedLoss
from mia_lightning.attacks.decisions import LEARNT
from mia_lightning.attacks.interface import Attack, Evidence
from mia_lightning.attacks.leave_one_out import score_each
from mia_lightning.attacks.lira import Lira
from mia_lightning.attacks.loss import Loss
from mia_lightning.datasets.population import make_population
from mia_lightning.metrics.figures import Interval
from mia_lightning.metrics.intervals.learnt_thresholds import JACKKNIFE, Relearnt, rate_intervals, relearnt
from mia_lightning.metrics.operating_point import PRIORS
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals

SIMULATIONS = 300
ATTACKS = {
    "loss": Loss(),
    "calibrated_loss": CalibratedLoss(),
    "lira_online": Lira(),
    "lira_offline": Lira(online=False),
}


def evidence_of(signal: np.ndarray, member: np.ndarray) -> Evidence:
    """Two-class logits [S, 0] of class 0 make the scaled logit S."""
    signal_KN, member_KN = torch.from_numpy(signal), torch.from_numpy(member)
    K, N = member.shape
    log_probability_KNC = torch.stack([signal_KN, torch.zeros_like(signal_KN)], -1).log_softmax(-1).float()
    labels = np.zeros(N, np.int64)
    labels[0] = 1
    return Evidence(
        signals=Signals(log_probability_KANC=log_probability_KNC.unsqueeze(1)),
        member_KN=member_KN,
        scored_KN=torch.ones_like(member_KN),
        block_K=torch.arange(K) // 2,
        label_N=torch.zeros(N, dtype=torch.int64),
        num_classes=2,
        target_scored_N=torch.ones(N, dtype=torch.bool),
        population_N=torch.zeros(N, dtype=torch.bool),
        population=make_population(np.zeros((N, 1), np.float32), labels),
    )


def intervals_of(attack: Attack, evidence: Evidence) -> dict[str, Interval]:
    scored = score_each(attack, evidence, evidence.signals, Engine(seed=0), folds=8)
    assert scored.decision == LEARNT
    observed = (evidence.member_KN, evidence.scored_KN)
    learnt = relearnt(scored.score_TN, scored.threshold_T, *observed, evidence.block_K)
    assert isinstance(learnt, Relearnt)
    return rate_intervals(scored.score_TN, *observed, learnt, PRIORS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "num_models", "num_records", "leak"),
    [
        ("loss", 32, 200, 0.0),
        ("lira_online", 32, 200, 0.0),
        ("lira_online", 32, 200, 0.3),
        ("lira_offline", 32, 600, 0.3),
        ("loss", 32, 2000, 0.3),
        ("lira_online", 32, 600, 1.0),
        ("calibrated_loss", 16, 600, 1.0),
        ("lira_online", 64, 300, 3.0),
        ("loss", 32, 1000, 3.0),
        ("lira_offline", 32, 2000, 3.0),
    ],
)
def test_rates_at_learnt_thresholds(attack: str, num_models: int, num_records: int, leak: float) -> None:
    random = np.random.default_rng([num_models, num_records, round(10 * leak)])
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(SIMULATIONS):
        evidence = evidence_of(*heterogeneous_signals(num_models, num_records, leak, random))
        for name, (low, high, method) in intervals_of(ATTACKS[attack], evidence).items():
            if low is not None and high is not None:
                assert method == JACKKNIFE
                found.setdefault(name, []).append((low, high))
    shares = {}
    for name, limits in found.items():
        assert len(limits) >= 0.8 * SIMULATIONS, name
        low, high = np.transpose(limits)
        # The limits are symmetric about the value on the logit scale.
        value = 1 / (1 + np.sqrt((1 / low - 1) * (1 / high - 1)))
        shares[name] = float(((low <= value.mean()) & (value.mean() <= high)).mean())
    assert min(shares.values()) >= 0.93, shares


@pytest.mark.slow
def test_a_rate_at_a_learnt_threshold_is_held_where_the_crossed_bootstrap_fails() -> None:
    """Sixty simulations of a weak leak: the recall of the loss."""
    random = np.random.default_rng(5)
    limits = [
        intervals_of(Loss(), evidence_of(*heterogeneous_signals(32, 200, 0.3, random)))["recall"] for _ in range(60)
    ]
    low, high = np.transpose([(each.low, each.high) for each in limits]).astype(float)
    value = 1 / (1 + np.sqrt((1 / low - 1) * (1 / high - 1)))
    assert ((low <= value.mean()) & (value.mean() <= high)).mean() >= 0.93
    assert np.median(high - low) > 3 * value.std()
