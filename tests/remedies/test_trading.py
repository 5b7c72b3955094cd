"""Curves of leakage over utility, read at equal utility."""

import math

import numpy as np
import pytest
import torch

from mia_lightning.metrics.intervals.differences import Measured
from mia_lightning.metrics.intervals.influence import Influence
from mia_lightning.remedies.measuring import Way, measured
from mia_lightning.remedies.trading import against, alone, at_equal_utility, least, redrawn, within
from mia_lightning.seeds import generator

T, N = 8, 20


def figure(value: float, missing: str = "") -> Measured:
    """With noise over targets and records that all figures share."""
    draws = generator(0, "trading")
    noise_T = torch.randn(T, generator=draws, dtype=torch.float64) / 100
    part_TN = torch.randn(T, N, generator=draws, dtype=torch.float64) / 1000
    return measured(Influence(value + noise_T - noise_T.mean(), part_TN - part_TN.mean(1, keepdim=True), missing))


def way(utility: float, *aucs: float, missing: str = "") -> Way:
    """A way of training with these figures."""
    return Way(
        utility=figure(utility),
        train_utility=1.0,
        auc={f"attack{place}": figure(value) for place, value in enumerate(aucs)},
        tpr={"0.01": {f"attack{place}": figure(value, missing) for place, value in enumerate(aucs)}},
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
    nothing = way(0.9, 0.8)
    found = at_equal_utility(nothing, [("weak", way(0.895, 0.75)), ("strong", way(0.88, 0.65))], give_up=0.01, seed=0)
    assert (found.strength, found.is_between) == ("strong", True)
    assert found.auc == pytest.approx(0.75 - 0.1 / 3)
    assert found.difference.value == pytest.approx(found.auc - 0.8)
    assert found.difference.low < found.difference.value < found.difference.high
    free = at_equal_utility(nothing, [("only", way(0.91, 0.7))], give_up=0.01, seed=0)
    assert (free.strength, free.is_between, free.auc) == ("only", False, pytest.approx(0.7))
    worse = at_equal_utility(nothing, [("only", way(0.91, 0.9))], give_up=0.01, seed=0)
    assert (worse.strength, worse.difference.value) == ("nothing", 0.0)


def test_the_strongest_attack_is_compared_with_the_strongest() -> None:
    found = against(way(0.8, 0.6, 0.7), way(0.9, 0.75, 0.65))
    assert (found.auc.attack, found.auc.value) == ("attack1", pytest.approx(0.7))
    assert found.auc.difference.value == pytest.approx(-0.05)
    assert found.utility.value == pytest.approx(-0.1)
    assert found.tpr["0.01"].difference.value == pytest.approx(-0.05)


def test_a_rate_that_one_of_both_lacks_is_not_compared() -> None:
    whole, lacking = way(0.9, 0.8), way(0.9, 0.8, missing="none: too few non-members")
    assert against(lacking, whole).tpr["0.01"].reason == "too few non-members"
    assert against(whole, lacking).tpr["0.01"].value is None
    assert alone(lacking.tpr["0.01"]).reason == "too few non-members"
    assert alone(whole.tpr["0.01"]).value == pytest.approx(0.8)


def test_a_defence_that_changes_no_answer_changes_no_figure() -> None:
    found = against(way(0.9, 0.8), way(0.9, 0.8))
    assert (found.utility.value, found.utility.low, found.utility.high) == (0.0, 0.0, 0.0)
    assert (found.auc.difference.value, found.p) == (0.0, 1.0)


def test_too_few_targets_have_no_interval() -> None:
    def few(found: Way) -> Way:
        def cut(each: Measured) -> Measured:
            return measured(Influence(each.influence.value_T[:3], each.influence.part_TN[:3]))

        return Way(
            utility=cut(found.utility),
            train_utility=1.0,
            auc={name: cut(each) for name, each in found.auc.items()},
            tpr={},
            left_out=(),
        )

    nothing, remedy = few(way(0.9, 0.8)), few(way(0.9, 0.7))
    assert against(remedy, nothing).p is None
    assert "targets" in against(remedy, nothing).auc.difference.reason
    at = at_equal_utility(nothing, [("only", remedy)], give_up=0.01, seed=0).difference
    assert at.low is None
    assert "targets" in at.reason


def test_replicates_are_those_of_redrawn_records() -> None:
    found, of = figure(0.7), figure(0.7).influence
    weight_RN = torch.randint(0, 3, (4, N), generator=generator(0, "weights")).double()
    for r, value_T in enumerate(redrawn(found, weight_RN).tolist()):
        for t, value in enumerate(value_T):
            slow = of.value_T[t] + sum((weight_RN[r, n] - 1) * of.part_TN[t, n] for n in range(N))
            assert value == pytest.approx(float(slow))


def slowly(near: tuple[float, float], far: tuple[float, float], floor: float) -> float:
    """The AUC of one target, from the near point towards the far one for as long as the utility is enough."""
    (u0, a0), (u1, a1) = near, far
    if u1 >= floor:
        return a1
    return a0 if u0 < floor else float(np.interp(-floor, [-u0, -u1], [a0, a1]))


def test_each_target_is_read_on_its_own_line() -> None:
    draws = generator(0, "within")
    utility_PRT, auc_PRT = (torch.rand(3, 20, T, generator=draws, dtype=torch.float64) for _ in range(2))
    floor_RT = torch.rand(20, T, generator=draws, dtype=torch.float64)
    sides = tuple(torch.randint(3, (20,), generator=draws) for _ in range(2))
    read_RT = within(utility_PRT, auc_PRT, floor_RT, sides)
    for r in range(20):
        for t in range(T):
            points = [(float(utility_PRT[side[r], r, t]), float(auc_PRT[side[r], r, t])) for side in sides]
            expected = slowly(points[0], points[1], float(floor_RT[r, t]))
            assert float(read_RT[r, t]) == pytest.approx(expected, abs=1e-12)


def uneven(value_T: list[float]) -> Measured:
    return measured(Influence(torch.tensor(value_T, dtype=torch.float64), torch.zeros(len(value_T), N).double()))


def test_the_price_is_passed_within_each_target() -> None:
    """A half of the targets pays nothing for the remedy, the others pay twice the mean."""
    ways = [
        Way(utility=uneven(utility), train_utility=1.0, auc={"a": uneven(auc)}, tpr={}, left_out=())
        for utility, auc in (([0.9, 0.8] * 2, [0.8, 0.8] * 2), ([0.9, 0.7] * 2, [0.6, 0.5] * 2))
    ]
    found = at_equal_utility(ways[0], [("only", ways[1])], give_up=0.02, seed=0)
    assert found.is_between
    assert found.auc == pytest.approx((0.6 + (0.8 - 0.2 * 0.3)) / 2)  # and not 0.8 - 0.4 * 0.25 of the means
    assert found.difference.value == pytest.approx(found.auc - 0.8)


def test_a_remedy_without_effect_helps_nobody() -> None:
    """Each target has a strength at which it leaks less by chance; the mean at one strength has not."""
    draws = generator(0, "no effect")
    noise_PT = 0.05 * torch.randn(4, T, generator=draws, dtype=torch.float64)
    noise_PT -= noise_PT.mean(1, keepdim=True)
    nothing, *others = (
        Way(
            utility=uneven([0.9] * T),
            train_utility=1.0,
            auc={"a": uneven((0.8 + noise_T).tolist())},
            tpr={},
            left_out=(),
        )
        for noise_T in noise_PT
    )
    found = at_equal_utility(nothing, [(str(place), each) for place, each in enumerate(others)], give_up=0.01, seed=0)
    assert found.difference.value == pytest.approx(0.0, abs=1e-12)
    assert found.difference.low < 0 < found.difference.high


def noisy(run: int, means: tuple[tuple[float, float], ...], targets: int, records: int) -> list[Way]:
    """Ways of training of these utilities and AUCs: noise of targets and of records, in part shared by all ways."""
    draws = generator(run, "coverage at equal utility")

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    common_T, common_N = normal(targets), normal(records)

    def of(mean: float) -> Measured:
        answer_TN = 0.1 * (common_N + normal(records) + normal(targets, records))
        value_T = mean + 0.01 * (common_T + normal(targets)) + answer_TN.mean(1)
        return measured(Influence(value_T, (answer_TN - answer_TN.mean(1, keepdim=True)) / records))

    return [
        Way(utility=of(utility), train_utility=1.0, auc={"a": of(auc)}, tpr={}, left_out=()) for utility, auc in means
    ]


def true_change(means: tuple[tuple[float, float], ...], give_up: float) -> float:
    """Of very many targets on very many records, each read on its own curve by a slow loop."""
    utility_P, auc_P = [list(each) for each in zip(*means, strict=True)]
    floor = utility_P[0] - give_up
    place = least(torch.tensor([utility_P]).double(), torch.tensor([auc_P]).double(), torch.tensor([floor]).double())[1]
    near, far = math.floor(place), math.ceil(place)
    if utility_P[near] < floor:
        near, far = far, near
    random = np.random.default_rng(0)
    changes = []
    for _ in range(20_000):
        own = [[mean + 0.01 * random.normal() for mean in each] for each in means]
        price = own[0][0] - give_up
        changes.append(slowly(own[near], own[far], price) - own[0][1])
    return float(np.mean(changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    "means", [((0.8, 0.7), (0.7, 0.6)), ((0.8, 0.7), (0.79, 0.68), (0.6, 0.55)), ((0.8, 0.7), (0.85, 0.6))]
)
@pytest.mark.parametrize("targets", [8, 16])
def test_intervals_at_equal_utility_cover_new_trainings_on_new_records(
    means: tuple[tuple[float, float], ...], targets: int
) -> None:
    """Of 200, at least 95 % less four standard errors."""
    give_up = 0.05
    truth, covered = true_change(means, give_up), 0
    for run in range(200):
        nothing, *others = noisy(run, means, targets, 100)
        strengths = [(str(place), each) for place, each in enumerate(others)]
        found = at_equal_utility(nothing, strengths, give_up=give_up, seed=run).difference
        covered += found.low <= truth <= found.high
    assert covered / 200 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 200)
