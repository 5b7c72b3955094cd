"""How often intervals over targets hold the truth: a fresh population and fresh trainings in each simulation.

Monte-Carlo standard error half a point. The intervals are conservative: the noise of single answers counts three times.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from simulated_targets import leave_one_out_targets
from torch import Tensor

from mia_lightning.metrics.figures import Interval
from mia_lightning.metrics.intervals.crossed import (
    auc_contributions,
    average_precision_interval,
    crossed_interval,
    share_contributions,
)
from mia_lightning.metrics.intervals.crossed_thresholds import (
    mean_precision_interval,
    mean_tpr_interval,
    pooled_tpr_interval,
)

SIMULATIONS = 2000
CONSERVATIVE = 0.94
INTERVALS: dict[str, Callable[[Tensor, Tensor, Tensor], Interval]] = {
    "tpr 0.01": lambda *observed: mean_tpr_interval(*observed, 0.01),
    "pooled 0.01": lambda *observed: pooled_tpr_interval(*observed, 0.01),
    "pooled 0.001": lambda *observed: pooled_tpr_interval(*observed, 0.001),
    "average precision": average_precision_interval,
    "precision 0.1": lambda *observed: mean_precision_interval(*observed, 0.1),
    "precision 0.5": lambda *observed: mean_precision_interval(*observed, 0.5),
    "precision 0.9": lambda *observed: mean_precision_interval(*observed, 0.9),
}
CHANCE = dict(zip(INTERVALS, (0.01, 0.01, 0.001, 0.5, 0.5, 0.5, 0.5), strict=True))
# Of calibrated scores, by (models, training): means over 2,400 and 4,800 trainings on populations of 40,000 records.
CALIBRATED = {
    (16, 0.3): (0.4297, 0.4294, 0.2968, 0.8908, 0.9976, 0.9333, 0.7204),
    (32, 0.3): (0.4451, 0.4448, 0.3124, 0.8953, 0.9978, 0.9375, 0.7289),
}


def truths(num_models: int, training: float, leaks: bool, is_calibrated: bool) -> dict[str, float]:
    """The figures in the population, means over trainings."""
    if not leaks:
        return CHANCE
    if is_calibrated:
        return dict(zip(INTERVALS, CALIBRATED[num_models, training], strict=True))
    node, weight = np.polynomial.hermite_e.hermegauss(41)
    sd, shift = np.sqrt(5), np.array([0.5, 2.0, 4.0])

    def tpr(threshold: float, strength: float) -> float:
        return float(ndtr((strength * shift - threshold) / sd).mean())

    def precision(recall: float, strength: float) -> float:
        fpr = ndtr(-brentq(lambda threshold: tpr(threshold, strength) - recall, -60, 200) / sd)
        return float(recall / (recall + fpr))

    recalls = (np.arange(100) + 0.5) / 100
    of_strength = [
        [
            *(tpr(-sd * ndtri(fpr), strength) for fpr in (0.01, 0.01, 0.001)),
            np.mean([precision(recall, strength) for recall in recalls]),
            *(precision(recall, strength) for recall in (0.1, 0.5, 0.9)),
        ]
        for strength in np.exp(training * node)
    ]
    return dict(zip(INTERVALS, np.average(of_strength, axis=0, weights=weight), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_models", "num_records", "training", "leaks", "is_calibrated", "missing"),
    [
        (16, 400, 0.3, True, True, {"tpr 0.01", "pooled 0.001"}),
        (32, 1000, 0.3, True, True, set()),
        (32, 1000, 0.3, True, False, set()),
        (32, 200, 0.3, True, False, {"tpr 0.01", "pooled 0.001"}),
        (64, 400, 0.1, True, False, {"tpr 0.01", "pooled 0.001"}),
        (16, 1000, 0.0, False, True, {"pooled 0.001"}),
        (64, 200, 0.0, False, False, {"tpr 0.01", "pooled 0.001"}),
    ],
)
def test_rates_at_thresholds_and_average_precision(
    num_models: int, num_records: int, training: float, leaks: bool, is_calibrated: bool, missing: set[str]
) -> None:
    """Every model is a target; at few false positives for a target there is no interval.

    At chance the intervals are much wider than the figures scatter, and fewer simulations show it.
    """
    random = np.random.default_rng([num_models, num_records, round(10 * training)])
    scored_TN = torch.ones(num_models, num_records, dtype=torch.bool)
    found: dict[str, list[Interval]] = {name: [] for name in INTERVALS}
    for _ in range(SIMULATIONS if leaks else SIMULATIONS // 4):
        observed = leave_one_out_targets(
            num_models, num_records, training, random, leaks=leaks, is_calibrated=is_calibrated
        )
        for name, interval in INTERVALS.items():
            found[name].append(interval(*(torch.from_numpy(each) for each in observed), scored_TN))
    shares = {}
    for name, truth in truths(num_models, training, leaks, is_calibrated).items():
        given = [each for each in found[name] if each.low is not None and each.high is not None]
        if given:
            shares[name] = float(np.mean([each.low <= truth <= each.high for each in given]))
    assert shares.keys() == INTERVALS.keys() - missing
    assert min(shares.values()) >= CONSERVATIVE, shares


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_models", "num_targets", "num_records", "training", "leaks"),
    [
        (16, 16, 200, 0.0, True),
        (16, 16, 1000, 0.3, True),
        (32, 16, 200, 0.3, True),
        (16, 16, 200, 0.1, True),
        (32, 32, 200, 0.3, True),
        (16, 16, 200, 0.0, False),
    ],
)
def test_means_over_targets(num_models: int, num_targets: int, num_records: int, training: float, leaks: bool) -> None:
    """A fresh population and fresh trainings in each simulation; the truth is the mean of all of them."""
    random = np.random.default_rng([num_models, num_targets, round(10 * training)])
    scored_TN = torch.ones(num_targets, num_records, dtype=torch.bool)
    held: dict[str, list[tuple[float, Interval]]] = {"auc": [], "recall": []}
    for _ in range(SIMULATIONS):
        score, member = leave_one_out_targets(num_models, num_records, training, random, leaks=leaks)
        score_TN, member_TN = (torch.from_numpy(each[:num_targets]) for each in (score, member))
        found = {
            "auc": auc_contributions(score_TN, member_TN, scored_TN),
            "recall": share_contributions(score_TN > 0, member_TN),
        }
        for name, (value_T, contribution_TN) in found.items():
            held[name].append((float(value_T.mean()), crossed_interval(value_T, contribution_TN)))
    for results in held.values():
        truth = np.mean([value for value, _ in results])
        assert np.mean([low <= truth <= high for _, (low, high, _) in results]) >= CONSERVATIVE
