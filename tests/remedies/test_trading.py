"""Curves of leakage over utility, read at equal utility."""

import numpy as np
import pytest
import torch

from mia_lightning.metrics.intervals.paired import Part
from mia_lightning.remedies.measuring import Measured
from mia_lightning.remedies.trading import against, alone, at_equal_utility, least
from mia_lightning.seeds import generator

T, G = 16, 20


def measured(utility: float, *aucs: float, missing: str | None = None) -> Measured:
    """A way of training with these figures, and some noise that all ways share."""
    draws = generator(0, "trading")
    part_TG = torch.randn(T, G, generator=draws, dtype=torch.float64) / 1000
    noise_T = torch.randn(T, generator=draws, dtype=torch.float64) / 100

    def of(value: float) -> Part:
        return Part(value_T=value + noise_T - noise_T.mean(), part_TG=part_TG - part_TG.mean(1, keepdim=True))

    auc = {f"attack{place}": of(value) for place, value in enumerate(aucs)}
    return Measured(
        utility=of(utility),
        train_utility=1.0,
        auc=auc,
        tpr={"0.01": {} if missing else auc},
        missing={"0.01": missing} if missing else {},
        left_out=(),
    )


def densely(utility_P: list[float], auc_P: list[float], floor: float) -> float:
    """The least AUC on many points of the curve that are useful enough."""
    place_M = np.linspace(0, len(utility_P) - 1, 60_001)
    utility_M = np.interp(place_M, np.arange(len(utility_P)), utility_P)
    auc_M = np.interp(place_M, np.arange(len(auc_P)), auc_P)
    return float(auc_M[utility_M >= floor].min())


@pytest.mark.parametrize(
    ("utility_P", "auc_P"),
    [
        ([0.9, 0.895, 0.85, 0.7], [0.8, 0.75, 0.7, 0.55]),  # falls below the floor between the second and third point
        ([0.9, 0.92, 0.91], [0.8, 0.7, 0.65]),  # is useful enough everywhere
        ([0.9, 0.5], [0.8, 0.9]),  # makes it worse
        ([0.9, 0.8, 0.95, 0.8], [0.8, 0.7, 0.75, 0.6]),  # crosses the floor three times
    ],
)
def test_curves_are_read_where_they_are_useful_enough(utility_P: list[float], auc_P: list[float]) -> None:
    utility, auc = (torch.tensor([each], dtype=torch.float64) for each in (utility_P, auc_P))
    value, _ = least(utility, auc, torch.tensor([0.89], dtype=torch.float64))
    assert float(value) == pytest.approx(densely(utility_P, auc_P, 0.89), abs=1e-4)


def test_all_curves_are_read_at_once() -> None:
    draws = generator(0, "curves")
    utility_RP = torch.rand(50, 4, generator=draws, dtype=torch.float64)
    auc_RP = torch.rand(50, 4, generator=draws, dtype=torch.float64)
    floor_R = utility_RP[:, 0] - 0.05
    together = least(utility_RP, auc_RP, floor_R)[0]
    for r in range(50):
        assert float(together[r]) == pytest.approx(
            densely(utility_RP[r].tolist(), auc_RP[r].tolist(), float(floor_R[r])), abs=1e-3
        )


def test_what_stands_between_two_strengths_is_named_by_the_stronger() -> None:
    nothing = measured(0.9, 0.8)
    found = at_equal_utility(
        nothing, [("weak", measured(0.895, 0.75)), ("strong", measured(0.88, 0.65))], give_up=0.01, seed=0
    )
    assert (found.strength, found.is_between) == ("strong", True)
    assert found.auc == pytest.approx(0.75 - 0.1 / 3)
    assert found.difference.value == pytest.approx(found.auc - 0.8)
    assert found.difference.low < found.difference.value < found.difference.high
    free = at_equal_utility(nothing, [("only", measured(0.91, 0.7))], give_up=0.01, seed=0)
    assert (free.strength, free.is_between, free.auc) == ("only", False, pytest.approx(0.7))
    worse = at_equal_utility(nothing, [("only", measured(0.91, 0.9))], give_up=0.01, seed=0)
    assert (worse.strength, worse.difference.value) == ("nothing", 0.0)


def test_the_strongest_attack_is_compared_with_the_strongest() -> None:
    found = against(measured(0.8, 0.6, 0.7), measured(0.9, 0.75, 0.65))
    assert (found.auc.attack, found.auc.value) == ("attack1", pytest.approx(0.7))
    assert found.auc.difference.value == pytest.approx(-0.05)
    assert found.utility.value == pytest.approx(-0.1)
    assert found.tpr["0.01"].difference.value == pytest.approx(-0.05)


def test_a_rate_that_one_of_both_lacks_is_not_compared() -> None:
    whole, lacking = measured(0.9, 0.8), measured(0.9, 0.8, missing="too few non-members")
    assert against(lacking, whole).tpr["0.01"].reason == "too few non-members"
    assert against(whole, lacking).tpr["0.01"].value is None
    assert alone(lacking)[1]["0.01"].reason == "too few non-members"
    assert alone(whole)[1]["0.01"].value == pytest.approx(0.8)
