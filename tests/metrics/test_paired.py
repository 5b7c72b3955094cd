"""Paired differences between ways of training: against loops, and their coverage where targets share records."""

import math

import pytest
import torch
from scipy.stats import t as student

from mia_lightning.metrics.intervals.crossed import auc_contributions
from mia_lightning.metrics.intervals.paired import (
    Part,
    crossed_draws,
    difference,
    holm,
    jackknifed,
    summed,
    worst_difference,
)
from mia_lightning.seeds import generator

T, G = 16, 20


def part(*names: str | int, num_targets: int = T, shift: float = 0.0, scale: float = 1.0) -> Part:
    """Any figure, with contributions of sum 0."""
    draws = generator(0, "paired", *names)
    part_TG = scale * torch.randn(num_targets, G, generator=draws, dtype=torch.float64) / 100
    value_T = 0.6 + shift + scale * torch.randn(num_targets, generator=draws, dtype=torch.float64) / 20
    return Part(value_T=value_T, part_TG=part_TG - part_TG.mean(1, keepdim=True))


def test_a_difference_is_that_of_the_means_with_the_variance_of_the_crossed_bootstrap() -> None:
    first, second = part("first", shift=0.05), part("second")
    found = difference(first, second)
    apart, parts = (first.value_T - second.value_T).tolist(), (first.part_TG - second.part_TG).tolist()
    mean = sum(apart) / T
    trainings = sum((each - mean) ** 2 for each in apart) / (T * (T - 1))
    columns = [sum(parts[t][g] for t in range(T)) for g in range(G)]
    records = (1 - 1 / T) * sum(each**2 for each in columns) / T**2 + sum(x**2 for row in parts for x in row) / T**2
    freedom = (trainings + records) ** 2 / (trainings**2 / (T - 1) + records**2 / (G - 1))
    law = student(freedom, loc=mean, scale=math.sqrt(trainings + records))
    assert found.value == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx(law.interval(0.95))
    assert found.p == pytest.approx(2 * min(law.cdf(0), law.sf(0)))


def test_the_other_way_round_the_signs_change() -> None:
    first, second = part("first", shift=0.05), part("second")
    there, back = difference(first, second), difference(second, first)
    assert (back.value, back.low, back.high, back.p) == pytest.approx((-there.value, -there.high, -there.low, there.p))


def test_what_both_have_in_common_cancels() -> None:
    common, small = part("common"), part("small", scale=0.05)
    moved = Part(value_T=common.value_T + small.value_T, part_TG=common.part_TG + small.part_TG)
    paired = difference(moved, common)
    unpaired = difference(moved, part("another"))
    assert paired.high - paired.low < 0.2 * (unpaired.high - unpaired.low)
    assert difference(common, common) == (0.0, 0.0, 0.0, 1.0)


def test_fewer_than_sixteen_targets_have_no_interval() -> None:
    first, second = (part(name, num_targets=15) for name in ("first", "second"))
    assert difference(first, second)[1:] == (None, None, None)
    assert worst_difference({"a": first}, {"a": second})[1:] == (None, None, None)


def test_the_worst_of_one_attack_is_its_own() -> None:
    first, second = part("first", shift=0.05), part("second")
    assert worst_difference({"a": first}, {"a": second}) == pytest.approx(difference(first, second))


def test_the_worst_of_several_attacks_has_limits_over_all_pairs() -> None:
    first = {name: part("first", name, shift=0.01 * place) for place, name in enumerate("abc")}
    second = {name: part("second", name) for name in "ab"}
    found = worst_difference(first, second)
    assert found.value == pytest.approx(
        max(float(each.value_T.mean()) for each in first.values())
        - max(float(each.value_T.mean()) for each in second.values())
    )
    highs = {(a, b): difference(first[a], second[b], tail=0.025 / 2).high for a in first for b in second}
    lows = {(a, b): difference(first[a], second[b], tail=0.025 / 3).low for a in first for b in second}
    high = min(max(highs[a, b] for a in first) for b in second)
    low = max(min(lows[a, b] for b in second) for a in first)
    assert (found.low, found.high) == pytest.approx((min(low, found.value), max(high, found.value)))


@pytest.mark.parametrize("shift", [-0.2, 0.2])
def test_the_p_value_is_small_where_the_limits_exclude_0(shift: float) -> None:
    first = {name: part("first", name, shift=shift) for name in "ab"}
    second = {name: part("second", name) for name in "ab"}
    found = worst_difference(first, second)
    assert found.low * found.high > 0
    assert found.p < 0.05
    near = worst_difference({name: part("first", name) for name in "ab"}, second)
    assert near.low < 0 < near.high
    assert near.p > 0.05


def test_holm_multiplies_the_smallest_by_their_number() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_contributions_of_groups_are_sums() -> None:
    part_TN = torch.randn(3, 7, generator=generator(0, "groups"), dtype=torch.float64)
    group_N = torch.tensor([0, 1, 0, 2, 2, 1, 0])
    found = summed(part_TN, group_N, 3)
    for t in range(3):
        for g in range(3):
            assert found[t, g] == pytest.approx(sum(part_TN[t, n] for n in range(7) if group_N[n] == g))


def test_leaving_groups_out_gives_the_contributions_of_a_mean() -> None:
    value_TN = torch.rand(3, 40, generator=generator(0, "jackknife"), dtype=torch.float64)
    group_N = torch.arange(40) % 8
    without_GT = torch.stack([value_TN[:, group_N != g].mean(1) for g in range(8)])
    found = jackknifed(value_TN.mean(1), without_GT)
    exact_TN = (value_TN - value_TN.mean(1, keepdim=True)) / 40
    assert torch.allclose(found.part_TG, summed(exact_TN, group_N, 8))


def test_replicates_are_those_of_redrawn_targets_and_groups() -> None:
    figure = part("replicates")
    weights = crossed_draws(T, G, 3, generator(0, "draws"))
    assert [weights[0].sum(1).tolist(), weights[1].sum(1).tolist()] == [[T] * 3, [G] * 3]
    drawn_R = figure.drawn(*weights)
    for r in range(3):
        slow = sum(
            weights[0][r, t] * (figure.value_T[t] + sum(weights[1][r, g] * figure.part_TG[t, g] for g in range(G)))
            for t in range(T)
        )
        assert drawn_R[r] == pytest.approx(float(slow) / T)


def simulated(shift: float, run: int, num_records: int = 300) -> tuple[dict[str, Part], dict[str, Part]]:
    """Two ways of training, each with two attacks, whose targets share records and members.

    A record is hard or easy in either way of training and for all targets, and a target leaks more or less.
    """
    draws = generator(run, "coverage of paired differences")

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    member_TN = torch.zeros(T, num_records, dtype=torch.bool)
    for t in range(T):
        member_TN[t, torch.randperm(num_records, generator=draws)[: num_records // 4]] = True
    group_N = torch.randperm(num_records, generator=draws) % 100
    record_N, signal_TN = normal(num_records), normal(T, num_records)
    ways = []
    for way_shift in (shift, 0.0):
        leak_T = 0.8 + way_shift + 0.15 * normal(T, 1)
        base_TN = record_N + leak_T * member_TN + 0.7 * signal_TN + 0.7 * normal(T, num_records)
        way = {}
        for attack in ("a", "b"):
            value_T, part_TN = auc_contributions(
                base_TN + 0.5 * normal(T, num_records), member_TN, torch.ones_like(member_TN)
            )
            way[attack] = Part(value_T=value_T, part_TG=summed(part_TN, group_N, 100))
        ways.append(way)
    return ways[0], ways[1]


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, -0.3])
def test_intervals_cover_the_difference_of_new_trainings_on_new_records(shift: float) -> None:
    """At least 93.5 % of 400 (one attack) and no more rejections of equal recipes than 5 %, both less four errors."""
    runs = [simulated(shift, run) for run in range(400)]
    # The AUC of a normal score: Φ(shift / √2 σ), a mean over the leakage of targets.
    noise = math.sqrt(1 + 0.7**2 + 0.7**2 + 0.5**2)

    def area(leak: float) -> float:
        return 0.5 * (1 + math.erf(leak / math.sqrt(2 * noise**2 + 0.15**2) / math.sqrt(2)))

    truth = area(0.8 + shift) - area(0.8)
    single = [difference(first["a"], second["a"]) for first, second in runs]
    worst = [worst_difference(first, second) for first, second in runs]
    error = math.sqrt(0.95 * 0.05 / len(runs))
    for found in (single, worst):
        covered = sum(each.low <= truth <= each.high for each in found) / len(found)
        assert covered > 0.95 - 4 * error
        if shift == 0.0:
            assert sum(each.p < 0.05 for each in found) / len(found) < 0.05 + 4 * error
        else:
            assert sum(each.p < 0.05 for each in found) / len(found) > 0.9
