"""Figures of ways of training, with the influences of records where a utility is no share of them."""

import pytest
import torch
from sklearn.metrics import r2_score

from mia_lightning.remedies.measuring import jackknifed
from mia_lightning.seeds import generator
from mia_lightning.tasks import Regression


def test_leaving_groups_out_gives_the_variance_of_r2_over_records() -> None:
    """Against the derivative of R² = 1 − Σ w e² / Σ w (y − ȳ)² by the weight of each record."""
    draws = generator(0, "measuring")
    label_N = torch.randn(2000, 1, generator=draws, dtype=torch.float64)
    answers = [label_N + 0.5 * torch.randn(2000, 1, generator=draws, dtype=torch.float64) for _ in range(2)]
    of_TN = torch.rand(2, 2000, generator=draws) < 0.8
    found = jackknifed(Regression(), answers, label_N, of_TN, seed=0)
    for t in range(2):
        y, e = label_N[of_TN[t], 0], (label_N - answers[t])[of_TN[t], 0]
        assert float(found.value_T[t]) == pytest.approx(r2_score(y, y - e))
        centred = (y - y.mean()).square()
        exact = -e.square() / centred.sum() + e.square().sum() * centred / centred.sum() ** 2
        assert float(found.part_TN[t].sum()) == pytest.approx(0.0, abs=1e-12)
        assert float(found.part_TN[t].square().sum()) == pytest.approx(float(exact.square().sum()), rel=0.4)


def test_groups_are_the_same_for_all_targets() -> None:
    label_N = torch.rand(300, 1, generator=generator(0, "labels"), dtype=torch.float64)
    answers = [label_N + 0.1, label_N * 0.9]
    found = jackknifed(Regression(), answers, label_N, torch.ones(2, 300, dtype=torch.bool), seed=0)
    places = [(found.part_TN[t] != 0).nonzero().flatten().tolist() for t in range(2)]
    assert places[0] == places[1]
    assert len(places[0]) == 50
