"""How often the intervals of differences hold the truth: 2,000 simulations a cell, half a point of standard error.

Two-sided intervals must cover in 93 to 97 of 100 cases, conservative ones in at least 94.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from known_quantiles import computed_once
from scipy.special import betaincinv
from scipy.stats import norm
from simulated_targets import leave_one_out_targets

from mia_lightning.metrics.figures import Figure, Interval, limited
from mia_lightning.metrics.intervals import bootstrap, rates
from mia_lightning.metrics.intervals.areas import auc_interval
from mia_lightning.metrics.intervals.bootstrap import Bootstrap
from mia_lightning.metrics.intervals.differences import Measured, difference_of_models, difference_of_recipes
from mia_lightning.metrics.intervals.influence import Observed, influence
from mia_lightning.metrics.roc import roc

SIMULATIONS = 2000
TWO_SIDED, CONSERVATIVE = (0.93, 0.97), (0.94, 1.0)


@pytest.fixture(autouse=True)
def _quantiles_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All simulations of a test draw the same ranks for their replicates, since the bootstrap has one seed."""
    monkeypatch.setattr(bootstrap, "betaincinv", computed_once(betaincinv))


def observed(score_TN: np.ndarray, member_TN: np.ndarray, threshold: float = 0.5) -> Observed:
    score_TN, member_TN = torch.from_numpy(np.atleast_2d(score_TN)), torch.from_numpy(np.atleast_2d(member_TN))
    return Observed(score_TN, score_TN >= threshold, member_TN, torch.ones_like(member_TN))


def auc_of(seen: Observed) -> Measured:
    curve = roc(seen.score_TN[0], seen.member_TN[0])
    return Measured(limited(Figure(value=curve.auc, n=1), auc_interval(curve)), influence("auc", seen))


def tpr_of(seen: Observed) -> Measured:
    curve = roc(seen.score_TN[0], seen.member_TN[0])
    figure = Figure(value=curve.tpr_at_fpr(0.01).tpr, n=1)
    interval = Bootstrap(seed=0, attack="a", replicates=600).tpr_at_fpr(curve, 0.01)
    return Measured(limited(figure, interval), influence("tpr_at_fpr_0.01", seen))


def advantage_of(seen: Observed) -> Measured:
    counts = [int((seen.is_flagged_TN & seen.member_TN).sum()), int(seen.member_TN.sum())]
    counts += [int((seen.is_flagged_TN & ~seen.member_TN).sum()), int((~seen.member_TN).sum())]
    value = counts[0] / counts[1] - counts[2] / counts[3]
    low, high = rates.difference(*counts, weight_1=1, weight_0=1).numbers()
    return Measured(limited(Figure(value=value, n=1), Interval(low, high, "Newcombe")), influence("advantage", seen))


def truth_of(name: str, shift: float) -> float:
    scale = np.sqrt(2)  # of what is common to both models, and of what is each one's own
    if name == "auc":
        return float(norm.cdf(shift / 2))
    if name == "advantage":
        return float(norm.sf((0.5 - shift) / scale) - norm.sf(0.5 / scale))
    return float(norm.sf(norm.isf(0.01) - shift / scale))


MEASURES = {"auc": auc_of, "tpr_at_fpr_0.01": tpr_of, "advantage": advantage_of}


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["same members", "other members", "no record"])
@pytest.mark.parametrize(
    ("name", "n", "shifts", "simulations"),
    [
        ("auc", 200, (0.5, 0.5), SIMULATIONS),
        ("auc", 1000, (1.5, 0.7), SIMULATIONS),
        ("advantage", 400, (1.0, 0.6), SIMULATIONS),
        ("tpr_at_fpr_0.01", 3000, (1.5, 1.5), 1000),
    ],
)
def test_differences_of_two_models(
    name: str, n: int, shifts: tuple[float, float], simulations: int, sharing: str
) -> None:
    """Half of the variance of a score is the record's own, whatever the model."""
    random = np.random.default_rng([n, round(10 * shifts[1]), len(sharing)])
    truth, held, lengths = truth_of(name, shifts[0]) - truth_of(name, shifts[1]), 0, []
    total = 2 * n if sharing == "no record" else n
    scored = torch.arange(total) < n
    for _ in range(simulations):
        hard, sides = random.normal(size=total), []
        first = np.arange(total) % 2 == 0
        other = first if sharing != "other members" else random.permutation(first)
        for place, (member, shift) in enumerate(zip((first, other), shifts, strict=True)):
            seen = observed(hard + random.normal(size=total) + shift * member, member)
            if sharing == "no record":
                chosen = scored if place == 0 else ~scored
                part = Observed(*(each[:, chosen] for each in vars(seen).values()))
                own = MEASURES[name](part)
                spread = torch.zeros(1, total, dtype=torch.float64)
                spread[:, chosen] = own.influence.part_TN
                sides.append(Measured(own.figure, type(own.influence)(own.influence.value_T, spread)))
            else:
                sides.append(MEASURES[name](seen))
        low, high = difference_of_models(sides[:1], sides[1:]).limits()
        held += low <= truth <= high
        lengths.append(high - low)
    share = held / simulations
    slack = 0 if simulations == SIMULATIONS else 0.005
    assert TWO_SIDED[0] - slack <= share <= TWO_SIDED[1] + slack, share


@pytest.mark.slow
def test_paired_intervals_are_shorter_than_unpaired_ones() -> None:
    random = np.random.default_rng(0)
    member = np.arange(1000) % 2 == 0
    shorter = 0
    for _ in range(200):
        hard = random.normal(size=1000)
        sides = [auc_of(observed(hard + random.normal(size=1000) + shift * member, member)) for shift in (1.0, 0.8)]
        apart = [
            sides[0],
            Measured(sides[1].figure, type(sides[1].influence)(sides[1].influence.value_T, torch.zeros(1, 1000))),
        ]
        paired, unpaired = (difference_of_models(each[:1], each[1:]).below_AB.item() for each in (sides, apart))
        shorter += paired < unpaired
    assert shorter == 200


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_rates_with_few_false_positives_are_conservative(shift: float) -> None:
    random = np.random.default_rng([5, round(shift)])
    member = np.arange(800) % 2 == 0
    truth, held = truth_of("tpr_at_fpr_0.01", shift) - truth_of("tpr_at_fpr_0.01", 1.0), 0
    for _ in range(1000):
        hard = random.normal(size=800)
        sides = [tpr_of(observed(hard + random.normal(size=800) + each * member, member)) for each in (shift, 1.0)]
        low, high = difference_of_models(sides[:1], sides[1:]).limits()
        held += low <= truth <= high
    assert held / 1000 >= CONSERVATIVE[0]


@pytest.mark.slow
@pytest.mark.parametrize("nulls", [(True, True), (True, False)])
def test_the_largest_over_attacks(nulls: tuple[bool, bool]) -> None:
    """Three attacks whose scores correlate, of which the best is not the same in both runs."""
    random = np.random.default_rng([7, sum(nulls)])
    member = np.arange(400) % 2 == 0
    strengths = [(0.8, 0.8, 0.4), (0.8, 0.8, 0.4) if nulls[1] else (0.3, 0.5, 1.2)]
    truth = truth_of("auc", max(strengths[0])) - truth_of("auc", max(strengths[1]))
    held = 0
    for _ in range(500):
        hard = random.normal(size=400)
        sides = [
            [auc_of(observed(hard + random.normal(size=400) + each * member, member)) for each in of]
            for of in strengths
        ]
        low, high = difference_of_models(*sides).limits()
        held += low <= truth <= high
    assert held / 500 >= CONSERVATIVE[0]


def _recipes(
    random: np.random.Generator, T: int, n: int, training: float, *, same: bool, strengths: tuple[float, float]
) -> list[Observed]:
    """Scores of T targets each; hard records are hard in all, and each training leaks more or less."""
    hard = random.normal(size=n)
    first = random.random((T, n)) < 0.5
    sides = []
    for place, strength in enumerate(strengths):
        member = first if same or place == 0 else random.random((T, n)) < 0.5
        own = strength + training * random.normal(size=(T, 1))
        sides.append(observed(hard + random.normal(size=(T, n)) + own * member, member))
    return sides


@pytest.mark.slow
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(
    ("T", "training", "strengths"),
    [(4, 0.1, (0.8, 0.8)), (4, 0.0, (0.8, 0.8)), (8, 0.1, (0.8, 0.5)), (16, 0.05, (1.5, 0.8))],
)
def test_differences_of_recipes(T: int, training: float, strengths: tuple[float, float], same: bool) -> None:
    random = np.random.default_rng([T, round(100 * training), same])
    spread = np.sqrt(4 + training**2)  # of a member's score less a non-member's
    truth, held = float(norm.cdf(strengths[0] / spread) - norm.cdf(strengths[1] / spread)), 0
    for _ in range(SIMULATIONS):
        sides = []
        for seen in _recipes(random, T, 200, training, same=same, strengths=strengths):
            part = influence("auc", seen)
            sides.append(Measured(Figure(value=float(part.value_T.mean()), n=1), part))
        low, high = difference_of_recipes(sides[:1], sides[1:], same_targets=same).limits()
        held += low <= truth <= high
    assert held / SIMULATIONS >= CONSERVATIVE[0], held / SIMULATIONS


@pytest.mark.slow
@pytest.mark.parametrize("T", [8, 16])
@pytest.mark.parametrize("calibrated", [(True, True), (True, False), (False, False)])
def test_recipes_whose_targets_are_the_shadow_models(T: int, calibrated: tuple[bool, bool]) -> None:
    """Leave-one-out targets in complementary pairs, of two populations that are redrawn; the truth is the mean."""
    random = np.random.default_rng([11, T, sum(calibrated)])
    values, spans = [], []
    for _ in range(1000):
        sides = []
        for is_calibrated in calibrated:
            score_TN, member_TN = leave_one_out_targets(T, 150, 0.2, random, is_calibrated=is_calibrated)
            part = influence("auc", observed(score_TN, member_TN))
            sides.append(Measured(Figure(value=float(part.value_T.mean()), n=1), part))
        apart = [_on_half(each, place) for place, each in enumerate(sides)]
        found = difference_of_recipes(apart[:1], apart[1:], same_targets=False)
        values.append(found.value)
        spans.append(found.limits())
    truth = 0.0 if calibrated[0] == calibrated[1] else float(np.mean(values))
    held = np.mean([low <= truth <= high for low, high in spans])
    assert held >= 0.925, held


def _on_half(measured: Measured, place: int) -> Measured:
    """The records on one half of a longer axis."""
    part = measured.influence
    nothing_TN = torch.zeros_like(part.part_TN)
    both = [part.part_TN, nothing_TN] if place == 0 else [nothing_TN, part.part_TN]
    return Measured(measured.figure, replace(part, part_TN=torch.cat(both, 1)))


@pytest.mark.slow
def test_two_trainings_of_one_recipe_differ_as_models_more_often_than_as_recipes() -> None:
    """What one target each would say of recipes is wrong in every third case or so; four targets each are not."""
    random = np.random.default_rng(13)
    wrong = {"models": 0, "recipes": 0}
    for _ in range(1000):
        pair = _recipes(random, 4, 1500, 0.07, same=True, strengths=(0.8, 0.8))
        one = [auc_of(Observed(*(each[:1] for each in vars(seen).values()))) for seen in pair]
        low, high = difference_of_models(one[:1], one[1:]).limits()
        wrong["models"] += not low <= 0 <= high
        sides = [
            Measured(Figure(value=float(part.value_T.mean()), n=1), part)
            for part in (influence("auc", seen) for seen in pair)
        ]
        low, high = difference_of_recipes(sides[:1], sides[1:], same_targets=True).limits()
        wrong["recipes"] += not low <= 0 <= high
    assert 0.15 <= wrong["models"] / 1000 <= 0.5, wrong
    assert wrong["recipes"] / 1000 <= 0.07, wrong
