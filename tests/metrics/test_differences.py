"""Differences of figures between two runs, against slow loops and closed forms."""

from itertools import product
from math import inf, sqrt

import numpy as np
import pytest
import torch
from scipy.stats import norm
from scipy.stats import t as student

from mia_lightning.metrics.figures import Figure
from mia_lightning.metrics.intervals import differences
from mia_lightning.metrics.intervals.areas import auc_interval
from mia_lightning.metrics.intervals.differences import (
    EQUAL,
    FEW_FALSE_POSITIVES,
    FEWEST_TARGETS,
    OVER_RECORDS,
    PAIRED,
    TOO_FEW_TARGETS,
    UNPAIRED,
    WORST,
    Difference,
    Measured,
    Student,
    difference_of_models,
    difference_of_recipes,
)
from mia_lightning.metrics.intervals.families import holm
from mia_lightning.metrics.intervals.influence import (
    TOO_FEW,
    Influence,
    Observed,
    correlation,
    influence,
    influence_of_shares,
)
from mia_lightning.metrics.roc import roc

FIGURES = ("auc", "tpr_at_fpr_0.01", "advantage", "precision_balanced")


def observed(score_TN: np.ndarray, member_TN: np.ndarray, scored_TN: np.ndarray | None = None) -> Observed:
    score_TN = torch.from_numpy(np.atleast_2d(score_TN)).double()
    member_TN = torch.from_numpy(np.atleast_2d(member_TN))
    scored_TN = torch.ones_like(member_TN) if scored_TN is None else torch.from_numpy(np.atleast_2d(scored_TN))
    return Observed(score_TN, score_TN > 0.5, member_TN, scored_TN)


def value_of(name: str, seen: Observed) -> float:
    """The mean over targets, by the functions of single ones."""
    values = []
    for score_N, flagged_N, member_N, scored_N in zip(*vars(seen).values(), strict=True):
        curve = roc(score_N[scored_N], member_N[scored_N])
        tpr, fpr = (float(flagged_N[kind].double().mean()) for kind in (member_N & scored_N, ~member_N & scored_N))
        values.append(
            {
                "auc": curve.auc,
                "tpr_at_fpr_0.01": curve.tpr_at_fpr(0.01).tpr,
                "advantage": tpr - fpr,
                "precision_balanced": tpr / (tpr + fpr) if tpr + fpr else np.nan,
            }[name]
        )
    return float(np.mean(values))


def measured(name: str, seen: Observed, reach: float = 0.02) -> Measured:
    value = value_of(name, seen)
    return Measured(Figure(value=value, low=value - reach, high=value + 2 * reach, n=1), influence(name, seen))


def two_models(seed: int = 0, n: int = 400, digits: int = 1) -> tuple[Observed, Observed]:
    """The same members in both, and scores that correlate, some of them tied."""
    random = np.random.default_rng(seed)
    member = random.random(n) < 0.5
    hard = random.normal(size=n)
    scores = [np.round(hard + random.normal(size=n) + shift * member, digits) for shift in (1.0, 0.6)]
    return observed(scores[0], member), observed(scores[1], member)


def delong_covariance(first: Observed, second: Observed) -> np.ndarray:
    """Loop over pairs, as in the paper: S10 / m + S01 / n."""
    placements = []
    for seen in (first, second):
        score, member = seen.score_TN[0].tolist(), seen.member_TN[0].tolist()
        inside = [x for x, is_in in zip(score, member, strict=True) if is_in]
        outside = [x for x, is_in in zip(score, member, strict=True) if not is_in]
        psi = np.array([[(x > y) + 0.5 * (x == y) for y in outside] for x in inside])
        placements.append((psi.mean(1), psi.mean(0)))
    v10, v01 = (np.stack([of[kind] for of in placements]) for kind in (0, 1))
    return np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]


def test_where_memberships_agree_influences_on_the_auc_have_delongs_covariance() -> None:
    first, second = two_models(n=150)
    part = [influence("auc", seen).part_N.numpy() for seen in (first, second)]
    np.testing.assert_allclose(np.array(part) @ np.array(part).T, delong_covariance(first, second), rtol=1e-10)


def test_with_normal_limits_the_difference_of_aucs_has_delongs_interval() -> None:
    first, second = two_models(n=150)
    covariance = delong_covariance(first, second)
    sides = []
    for place, seen in enumerate((first, second)):
        value, reach = value_of("auc", seen), norm.ppf(0.975) * sqrt(covariance[place, place])
        figure = Figure(value=value, low=value - reach, high=value + reach, n=1)
        sides.append([Measured(figure, influence("auc", seen))])
    found = difference_of_models(*sides)
    error = sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    change = value_of("auc", first) - value_of("auc", second)
    np.testing.assert_allclose(found.limits(), (change - 1.959964 * error, change + 1.959964 * error), rtol=1e-5)
    assert found.p == pytest.approx(2 * norm.sf(change / error), rel=1e-6)
    assert found.method == PAIRED


@pytest.mark.parametrize("name", ["auc", "advantage", "precision_balanced"])
def test_influences_are_what_a_record_moves_if_it_counts_twice(name: str) -> None:
    random = np.random.default_rng(3)
    member = np.arange(800) % 2 == 0
    score = random.normal(size=800) + 1.2 * member
    seen = observed(score, member)
    part_N, value = influence(name, seen).part_N.tolist(), value_of(name, seen)
    for record in range(0, 800, 37):
        twice = value_of(name, observed(np.append(score, score[record]), np.append(member, member[record])))
        assert twice - value == pytest.approx(part_N[record], rel=0.01, abs=1e-5)


@pytest.mark.parametrize("name", ["accuracy", "precision", "recall"])
def test_influences_on_counts_are_those_of_the_rates_behind_them(name: str) -> None:
    """A record that counts twice moves its rate; how many members there are stays as it was."""
    random = np.random.default_rng(4)
    member = np.arange(900) % 3 == 0
    score = random.normal(size=900) + 1.2 * member

    def value(counts: np.ndarray) -> float:
        flagged = score > 0.5
        tpr, fpr = (np.average(flagged[kind], weights=counts[kind]) for kind in (member, ~member))
        found, alarms = 300 * tpr, 600 * fpr
        return float(
            {"accuracy": (found + 600 - alarms) / 900, "precision": found / (found + alarms), "recall": tpr}[name]
        )

    found = influence(name, observed(score, member))
    assert float(found.value_T[0]) == pytest.approx(value(np.ones(900)))
    for record in range(0, 900, 37):
        twice = np.ones(900)
        twice[record] = 2
        assert value(twice) - value(np.ones(900)) == pytest.approx(float(found.part_TN[0, record]), rel=0.01, abs=1e-6)


def test_correlations_over_records_are_below_one_and_zero_where_nothing_is_known() -> None:
    first, second = two_models()
    parts = [influence("auc", seen) for seen in (first, second)]
    expected = np.corrcoef(parts[0].part_N.numpy(), parts[1].part_N.numpy())[0, 1]
    assert correlation(*parts) == pytest.approx(expected, abs=0.02)
    assert correlation(*parts) < expected
    assert 0.95 < correlation(parts[0], parts[0]) < 1
    unknown = Influence(parts[0].value_T, parts[0].part_TN, TOO_FEW)
    assert correlation(parts[0], unknown) == 0.0
    nothing = Influence(parts[0].value_T, torch.zeros_like(parts[0].part_TN))
    assert correlation(nothing, nothing) == 0.0


def test_influences_on_the_tpr_have_its_variance_for_normal_scores() -> None:
    random = np.random.default_rng(3)
    n = 40_000
    member = np.arange(n) % 2 == 0
    seen = observed(random.normal(size=n) + 1.5 * member, member)
    tpr = norm.sf(norm.isf(0.01) - 1.5)
    slope = norm.pdf(norm.isf(tpr)) / norm.pdf(norm.isf(0.01))
    spread = float(influence("tpr_at_fpr_0.01", seen).part_N.square().sum().sqrt())
    assert spread == pytest.approx(sqrt((tpr * (1 - tpr) + slope**2 * 0.01 * 0.99) * 2 / n), rel=0.1)


def test_a_record_that_changes_sides_counts_in_the_correlation() -> None:
    """Hard records score low: as members of one and non-members of the other they pull the figures apart."""
    random = np.random.default_rng(5)
    hard, member = random.normal(size=2000), np.arange(2000) % 2 == 0
    first = observed(hard + 0.3 * random.normal(size=2000) + member, member)
    second = observed(hard + 0.3 * random.normal(size=2000) + ~member, ~member)
    found = difference_of_models([measured("auc", first)], [measured("auc", second)])
    assert found.below_AB.item() > 1.2 * sqrt(0.02**2 + 0.04**2) / norm.ppf(0.975)


def test_runs_without_a_record_in_common_are_unpaired() -> None:
    first, second = two_models()
    n = first.score_TN.shape[1]
    empty = torch.zeros(1, n)
    apart = [
        Observed(*(torch.cat([each, empty.to(each.dtype)], 1) for each in vars(first).values())),
        Observed(*(torch.cat([empty.to(each.dtype), each], 1) for each in vars(second).values())),
    ]
    found = difference_of_models([measured("auc", apart[0])], [measured("auc", apart[1])])
    assert found.method == UNPAIRED
    z = norm.ppf(0.975)
    np.testing.assert_allclose(found.below_AB, sqrt(0.02**2 + 0.04**2) / z)
    paired = difference_of_models([measured("auc", first)], [measured("auc", second)])
    assert paired.below_AB < found.below_AB


def test_where_false_positives_are_few_nothing_is_redrawn() -> None:
    first, second = two_models(n=600)
    few = [[measured("tpr_at_fpr_0.01", seen)] for seen in (first, second)]
    rough = [[measured("tpr_at_fpr_0.01", seen)] for seen in two_models(n=1200, digits=9)]
    assert few[0][0].influence.missing
    assert (rough[0][0].influence.missing, rough[0][0].influence.is_coarse) == ("", True)
    for sides in (few, rough):
        found = difference_of_models(*sides)
        assert found.method == UNPAIRED
        np.testing.assert_allclose(found.below_AB, sqrt(0.02**2 + 0.04**2) / norm.ppf(0.975))
    ample = [[measured("tpr_at_fpr_0.01", seen)] for seen in two_models(n=4000, digits=9)]
    assert difference_of_models(*ample).method == PAIRED


def test_recipes_with_few_false_positives_take_as_many_targets_as_were_measured_to_be_enough() -> None:
    for T, missing in ((6, True), (16, False)):
        sides = [[measured("tpr_at_fpr_0.01", seen)] for seen in recipes(same=True, T=T, n=1200)]
        found = difference_of_recipes(*sides, same_targets=True)
        assert (found.method == FEW_FALSE_POSITIVES.format(16)) is missing


def test_several_targets_of_given_models_have_normal_limits() -> None:
    first, second = two_models(n=300)
    third, fourth = two_models(seed=1, n=300)
    both = [
        Observed(*(torch.cat(pair) for pair in zip(vars(one).values(), vars(two).values(), strict=True)))
        for one, two in ((first, third), (second, fourth))
    ]
    found = difference_of_models(*([measured("auc", seen)] for seen in both))
    part = [influence("auc", seen).part_TN.mean(0) for seen in both]
    assert found.method == OVER_RECORDS
    assert found.below_AB.item() == pytest.approx(float((part[0] - part[1]).square().sum().sqrt()), rel=1e-12)


def test_figures_without_limits_or_values_have_a_difference_without_limits() -> None:
    first, _ = two_models()
    known = measured("auc", first)
    unlimited = Measured(Figure(value=0.7, n=1, interval="none: why"), known.influence)
    undefined = Measured(Figure(value=None, n=1, reason="nothing is flagged"), known.influence)
    for other, reason in ((unlimited, "none: why"), (undefined, "none: nothing is flagged")):
        found = difference_of_models([known], [other])
        assert (found.method, found.limits()) == (reason, (None, None))
        assert np.isnan(found.p)
    few = observed(np.array([1.0, 0.0, 0.5]), np.array([True, False, False]))
    assert influence("auc", few).missing == TOO_FEW
    never = observed(np.zeros(10), np.arange(10) < 5)
    assert influence("precision_balanced", never).missing.startswith("none")


def test_equal_scores_show_no_difference() -> None:
    first, _ = two_models()
    value = value_of("auc", first)
    side = [Measured(Figure(value=value, low=value - 0.02, high=value + 0.02, n=1), influence("auc", first))]
    assert difference_of_models(side, side).method == EQUAL


def test_attacks_that_no_record_moves_keep_the_limits_of_both() -> None:
    """Of two attacks that flag nothing the advantage is 0 on both sides, each within limits of its own."""
    member = np.arange(40) % 2 == 0
    silent = Measured(
        Figure(value=0.0, low=-0.1, high=0.1, n=40), influence("advantage", observed(-np.ones(40), member))
    )
    reach = norm.ppf(1 - 0.025 / 4) / norm.ppf(0.975) * 0.1 * sqrt(2)
    for first in ([silent, silent], [silent, measured("advantage", two_models(n=40)[0], 1e-3)]):
        found = difference_of_models(first, [silent, silent])
        low, high = found.limits()
        assert low <= found.value - 1e-3
        assert found.value + 1e-3 <= high
        assert found.law.critical(0.05) == pytest.approx(norm.ppf(1 - 0.025 / 4))
    assert difference_of_models([silent] * 2, [silent] * 2).limits() == pytest.approx((-reach, reach))


@pytest.mark.parametrize("num_targets", [2, 5])
def test_strongest_attacks_that_rank_no_record_leave_no_limits(num_targets: int) -> None:
    """Their AUC is a half on these records; that it would be on others, too, is not known."""
    member = np.arange(400) % 2 == 0
    tied, inverted = (observed(np.tile(score, (num_targets, 1)), np.tile(member, (num_targets, 1)))
                      for score in (np.zeros(400), np.arange(400) % 7 - 2.0 * member))  # fmt: skip
    side = [measured("auc", tied), measured("auc", inverted)]
    of_models = difference_of_models(side, side)
    assert (of_models.method, of_models.value, of_models.limits()) == (EQUAL, 0.0, (None, None))
    of_recipes = difference_of_recipes(side, side, same_targets=True)
    assert of_recipes.limits() == (None, None)


def worst(seed: int = 0) -> tuple[list[Measured], list[Measured]]:
    random = np.random.default_rng(seed)
    member, hard = np.arange(500) % 2 == 0, random.normal(size=500)
    sides: list[list[Measured]] = []
    for strength in (1.0, 0.7):
        seen = [observed(hard + random.normal(size=500) + strength * s * member, member) for s in (1.0, 0.9, 0.3)]
        found = []
        for each in seen:
            interval = auc_interval(roc(each.score_TN[0], each.member_TN[0]))
            found.append(Measured(Figure(value=value_of("auc", each), low=interval.low, high=interval.high, n=500),
                                  influence("auc", each)))  # fmt: skip
        sides.append(found)
    return sides[0], sides[1]


def test_the_largest_of_several_attacks() -> None:
    first, second = worst()
    found = difference_of_models(first, second)
    top = [max(each.figure.value for each in side) for side in (first, second)]
    assert found.value == pytest.approx(top[0] - top[1])
    assert found.method == PAIRED + WORST
    critical = found.law.critical(0.05)
    assert 1.96 < critical < Student(count=9).critical(0.05)
    lows = [[found.change_AB[a, b] - critical * found.below_AB[a, b] for b in range(3)] for a in range(3)]
    assert found.limits()[0] == pytest.approx(max(min(row) for row in lows))


def test_the_law_of_the_largest_is_that_of_correlated_normal_numbers() -> None:
    """Of independent ones with known quantiles: the largest of two of |z|, whose differences share B."""
    gram = np.diag([1.0, 1.0, 1e-9])
    law = differences._largest(gram, 2)
    exact = norm.ppf((1 + sqrt(0.95)) / 2)
    assert law.critical(0.05) == pytest.approx(exact, abs=0.03)
    assert law.p(exact) == pytest.approx(0.05, abs=0.006)
    assert law.p(6.0) == pytest.approx(2 * 2 * norm.sf(6.0), rel=1e-6)
    assert law.critical(1e-6) == pytest.approx(norm.ppf(1 - 0.25e-6), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_p_value_is_the_smallest_error_at_which_the_limits_exclude_no_difference(seed: int) -> None:
    first, second = worst(seed)
    for found in (difference_of_models(first, second), difference_of_models(second, first)):
        for error, excluded in ((found.p * 1.02, True), (found.p * 0.98, False)):
            low, high = found.limits(error)
            assert (low > 0 or high < 0) is excluded


def recipes(same: bool, seed: int = 0, T: int = 6, n: int = 200) -> tuple[Observed, Observed]:
    random = np.random.default_rng(seed)
    member_TN = random.random((T, n)) < 0.5
    members = [member_TN, member_TN if same else random.random((T + 1, n)) < 0.5]
    hard = random.normal(size=n)
    return tuple(
        observed(hard + random.normal(size=m.shape) + m * (1 + 0.2 * random.normal(size=(len(m), 1))), m)
        for m in members
    )


def test_of_recipes_with_the_same_targets_rows_columns_and_cells_are_those_of_a_slow_loop() -> None:
    first, second = recipes(same=True)
    found = difference_of_recipes([measured("auc", first)], [measured("auc", second)], same_targets=True)
    parts = [influence("auc", seen) for seen in (first, second)]
    T, n = first.score_TN.shape
    change = [float(parts[0].value_T[t] - parts[1].value_T[t]) for t in range(T)]
    mean = sum(change) / T
    rows = sum((each - mean) ** 2 for each in change) / (T * (T - 1))
    z = [[float(parts[0].part_TN[t, i] - parts[1].part_TN[t, i]) for i in range(n)] for t in range(T)]
    columns = sum(sum(z[t][i] for t in range(T)) ** 2 for i in range(n)) / T**2
    cells = sum(z[t][i] ** 2 for t, i in product(range(T), range(n))) / T**2
    variance = max(rows + columns - cells, rows, columns)
    freedom = (T - 1) * (variance / rows) ** 2
    reach = student.ppf(0.975, freedom) * sqrt(variance)
    np.testing.assert_allclose(found.limits(), (mean - reach, mean + reach), rtol=1e-9)
    assert found.trainings == pytest.approx(rows)


def test_of_recipes_with_other_targets_variances_add_up_and_records_stay_paired() -> None:
    first, second = recipes(same=False)
    found = difference_of_recipes([measured("auc", first)], [measured("auc", second)], same_targets=False)
    parts = [influence("auc", seen) for seen in (first, second)]
    rows = [float(each.value_T.numpy().var(ddof=1)) / len(each.value_T) for each in parts]
    cells = sum(float((each.part_TN.numpy() ** 2).sum()) / len(each.value_T) ** 2 for each in parts)
    columns = float(((parts[0].part_N - parts[1].part_N) ** 2).sum())
    assert found.trainings == pytest.approx(sum(rows))
    variance = max(sum(rows) + columns - cells, sum(rows), columns)
    assert found.below_AB.item() == pytest.approx(sqrt(variance))
    freedom = sum(rows) ** 2 / sum(r**2 / (len(each.value_T) - 1) for r, each in zip(rows, parts, strict=True))
    assert found.law.freedom == pytest.approx(freedom * (variance / sum(rows)) ** 2)


def test_too_few_targets_are_no_recipe() -> None:
    first, second = recipes(same=True, T=FEWEST_TARGETS - 1)
    found = difference_of_recipes([measured("auc", first)], [measured("auc", second)], same_targets=True)
    assert (found.method, found.limits()) == (TOO_FEW_TARGETS, (None, None))


@pytest.mark.parametrize("name", FIGURES)
def test_the_order_of_records_and_of_targets_changes_nothing(name: str) -> None:
    sides = recipes(same=True, n=3000)
    order, turn = torch.randperm(3000, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 0, 5, 1, 4, 2])
    moved = [Observed(*(each[turn][:, order] for each in vars(seen).values())) for seen in sides]
    plain, other = (
        difference_of_recipes(*([measured(name, seen)] for seen in each), same_targets=True) for each in (sides, moved)
    )
    assert plain.has_limits
    np.testing.assert_allclose(plain.limits(), other.limits(), rtol=1e-6)
    one = [Observed(*(each[:1] for each in vars(seen).values())) for seen in sides]
    turned = [Observed(*(each[:1, order] for each in vars(seen).values())) for seen in sides]
    found = [difference_of_models(*([measured(name, seen)] for seen in each)) for each in (one, turned)]
    np.testing.assert_allclose(found[0].limits(), found[1].limits(), rtol=1e-9)


def test_shares_of_right_answers_have_binomial_variances() -> None:
    random = np.random.default_rng(1)
    member, right = np.arange(300) < 100, random.random(300) < 0.8
    parts = influence_of_shares(torch.from_numpy(right)[None], observed(random.normal(size=300), member))
    shares = [right[member].mean(), right[~member].mean()]
    variances = [shares[0] * (1 - shares[0]) / 99, shares[1] * (1 - shares[1]) / 199]
    for name, value, variance in (
        ("train_accuracy", shares[0], variances[0]),
        ("test_accuracy", shares[1], variances[1]),
        ("generalization_gap", shares[0] - shares[1], sum(variances)),
    ):
        assert float(parts[name].value_T) == pytest.approx(value)
        assert float(parts[name].part_N.square().sum()) == pytest.approx(variance)


def test_what_would_settle_a_difference() -> None:
    found = Difference(0.01, np.array([[0.01]]), np.array([[0.01]]), np.array([[0.01]]), Student(), "normal")
    assert found.factor_to_settle(0.01) == pytest.approx(norm.ppf(0.975) ** 2)
    assert np.isnan(found.factor_to_settle(-0.1))
    many = Difference(
        0.01, np.array([[0.01]]), np.array([[0.01]]), np.array([[0.01]]), Student(7), "t", 1e-4, 0.0, num_targets=8
    )
    count = many.targets_to_settle(0.01)
    assert count is not None
    assert student.ppf(0.975, count - 1) * sqrt(1e-4 * 8 / count) < 0.01
    assert student.ppf(0.975, count - 2) * sqrt(1e-4 * 8 / (count - 1)) >= 0.01
    assert Difference(
        0.01, many.change_AB, many.below_AB, many.above_AB, Student(7), "t", 1e-4, 1e-4, num_targets=8
    ).targets_to_settle(0.01) is None  # fmt: skip


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03], [0.5], [0.2, 0.01, 0.02, 0.02], []])
def test_holm_is_the_sequential_procedure(p_values: list[float]) -> None:
    """The slow way: at each level, reject from the smallest on until one is above level / (those that are left)."""
    adjusted = holm(p_values)
    for level in np.linspace(0.001, 1, 500):
        rejected: set[int] = set()
        for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[place] > level / (len(p_values) - rank):
                break
            rejected.add(place)
        near = any(abs(each - level) < 1e-9 for each in adjusted)
        assert near or {place for place, each in enumerate(adjusted) if each <= level} == rejected


def test_a_t_distribution_with_infinite_freedom_is_normal() -> None:
    assert Student(inf).critical(0.05) == pytest.approx(norm.ppf(0.975))
    assert Student(5, 3).critical(0.05) == pytest.approx(student.ppf(1 - 0.025 / 3, 5))
    assert Student(5, 3).p(2.0) == pytest.approx(6 * student.sf(2.0, 5))
