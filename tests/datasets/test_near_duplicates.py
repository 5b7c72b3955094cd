"""Near copies across a boundary, against a slow loop over every pair and against copies that were planted."""

import math
from dataclasses import replace
from statistics import median_low

import pytest
import torch
from scipy.stats import beta
from torch import Tensor

from mia_lightning.datasets import near_duplicates as module
from mia_lightning.datasets.duplicates import duplicate_group
from mia_lightning.datasets.near_duplicates import NearDuplicates, near_duplicates
from mia_lightning.datasets.population import Population
from mia_lightning.seeds import generator


def population_of(x_N: Tensor, **normalisation: object) -> Population:
    return Population(
        name="plain", x_N=x_N, label_N=torch.arange(len(x_N)) % 2, class_names=("a", "b"), **normalisation
    )


def found(population: Population, num_members: int, *, seed: int = 0) -> NearDuplicates:
    """The first records are the members, all others the non-members."""
    member_N = torch.arange(len(population)) < num_members
    near = near_duplicates(population, duplicate_group(population), member_N, ~member_N, seed=seed)
    assert near is not None
    return near


def slowly(population: Population, num_members: int) -> tuple[set[int], float]:
    """By the definition, pair by pair: which records are near duplicates, and the ratio."""
    rows = population.normalised(population.x_N, torch.float64).flatten(1).tolist()
    neighbours = []
    for row in rows[:num_members]:
        others = [(math.dist(row, rows[q]), q) for q in range(num_members, len(rows)) if rows[q] != row]
        neighbours.append(sorted(others))
    usable = [each for each in neighbours if len(each) >= 10 and each[4][0] > 0]
    dimension = math.log(2) / median_low([math.log(each[9][0] / each[4][0]) for each in usable])
    share = beta(1, 9).ppf(0.01 / num_members)
    ratio = min(0.25, share ** (1 / dimension))
    near: set[int] = set()
    for member, each in enumerate(neighbours):
        twins = [q for distance, q in each if len(each) >= 10 and distance < ratio * each[9][0]]
        near.update([member, *twins] if twins else [])
    return near, ratio


@pytest.mark.parametrize("num_features", [1, 2, 5, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_loop_over_every_pair(num_features: int, seed: int) -> None:
    draws = generator(seed, "near", num_features)
    x_N = torch.randn(130, num_features, generator=draws)
    x_N[70:80] = x_N[:10]  # equal
    for place, noise in ((80, 1e-5), (90, 1e-3), (100, 0.1), (110, 0.3)):
        x_N[place : place + 10] = x_N[5:15] + noise * torch.randn(10, num_features, generator=draws)
    population = population_of(x_N)
    near = found(population, 60)
    expected, ratio = slowly(population, 60)
    assert set(near.near_N.nonzero().squeeze(1).tolist()) == expected
    assert near.ratio == pytest.approx(ratio, rel=1e-9)
    assert near.count == len([record for record in expected if record < 60]) > 0
    assert near.compared_N.tolist() == [record < 60 for record in range(130)]
    assert not near.projected


def planted(x_N: Tensor, copies_M: Tensor, *, num_members: int) -> Tensor:
    """The first non-members become changed copies of the first members."""
    x_N = x_N.clone()
    x_N[num_members : num_members + len(copies_M)] = copies_M
    return x_N


def smooth_pictures(count: int) -> Tensor:
    coarse = torch.randint(0, 256, (count, 3, 4, 4), generator=generator(0, "pictures")).float()
    return torch.nn.functional.interpolate(coarse, size=16, mode="bilinear").round().to(torch.uint8)


@pytest.mark.parametrize("change", ["brighter", "noisier", "re-encoded"])
def test_changed_pictures_are_found_and_no_others(change: str) -> None:
    x_N = smooth_pictures(400)
    first = x_N[:20].float()
    if change == "brighter":
        copies = first + 1
    elif change == "noisier":
        copies = first + 3 * torch.randn(first.shape, generator=generator(0, "noise"))
    else:
        copies = (first / 16).round() * 16
    x_N = planted(x_N, copies.round().clamp(0, 255).to(torch.uint8), num_members=200)
    normalisation = {"scale": 1 / 255, "mean": torch.full((3, 1, 1), 0.5), "std": torch.tensor([0.2, 0.3, 0.4])}
    normalisation["std"] = normalisation["std"].reshape(3, 1, 1)
    near = found(population_of(x_N, **normalisation), 200)
    assert near.near_N.nonzero().squeeze(1).tolist() == [*range(20), *range(200, 220)]
    assert near.count == 20


@pytest.mark.parametrize(("flips", "is_found"), [(1, True), (2, True), (20, False)])
def test_flipped_bits(flips: int, is_found: bool) -> None:
    x_N = torch.randint(0, 2, (600, 200), generator=generator(0, "bits"), dtype=torch.uint8)  # neighbours: 80 bits off
    copies = x_N[:15].clone()
    copies[:, :flips] ^= 1
    near = found(population_of(planted(x_N, copies, num_members=300)), 300)
    assert near.count == (15 if is_found else 0)


def test_copies_of_every_member_do_not_hide_one_another() -> None:
    draws = generator(0, "many copies")
    x_M = torch.randn(50, 20, generator=draws)
    copies = [x_M + 0.01 * torch.randn(50, 20, generator=draws) for _ in range(4)]
    near = found(population_of(torch.cat([x_M, *copies])), 50)
    assert near.count == 50
    assert bool(near.near_N.all())


def test_nine_copies_are_found() -> None:
    x_N = torch.randn(200, 20, generator=generator(0, "nine copies"))
    x_N[100:109] = x_N[0] + 0.01 * torch.arange(1, 10)[:, None]
    near = found(population_of(x_N), 100)
    assert near.near_N.nonzero().squeeze(1).tolist() == [0, *range(100, 109)]


@pytest.mark.costly
@pytest.mark.parametrize("num_features", [1, 2, 4, 30])
def test_random_records_raise_no_false_alarm(num_features: int) -> None:
    """0.01 members are expected in each of 100 runs; five or more in all would come in four of a thousand."""
    count = 0
    for seed in range(100):
        x_N = torch.randn(200, num_features, generator=generator(seed, "nothing planted", num_features))
        count += found(population_of(x_N), 100).count
    assert count < 5


def test_a_tight_cluster_is_not_taken_for_copies_and_copies_within_it_are_found() -> None:
    x_N = torch.randn(400, 10, generator=generator(0, "clusters"))
    x_N[::2] *= 0.001
    assert found(population_of(x_N), 200).count == 0
    x_N[200] = x_N[0] * 1.01  # both of the tight cluster
    near = found(population_of(x_N), 200)
    assert near.near_N.nonzero().squeeze(1).tolist() == [0, 200]


def test_equal_records_are_passed_over_and_labels_do_not_count() -> None:
    x_N = torch.randn(100, 20, generator=generator(0, "equal"))
    x_N[50:60] = x_N[:10]
    x_N[71] = x_N[0] + 0.001  # beside an equal record, of the other class
    near = found(population_of(x_N), 50)
    assert near.near_N.nonzero().squeeze(1).tolist() == [0, 71]


def test_where_all_records_are_equal_none_is_nearly_so() -> None:
    assert found(population_of(torch.zeros(40, 3)), 20).count == 0


def test_features_count_as_a_network_sees_them() -> None:
    x_N = torch.randn(200, 20, generator=generator(0, "seen"))
    x_N[100] = x_N[0]
    x_N[100, 0] += 3
    assert found(population_of(x_N), 100).count == 0
    std = torch.ones(20)
    std[0] = 1000.0
    assert found(population_of(x_N, std=std), 100).count == 1


def test_distances_far_from_zero_are_exact() -> None:
    """Points in time: in float32 their squares differ by more than the records do."""
    x_N = torch.randint(0, 10**6, (200, 20), generator=generator(0, "times"))
    x_N[100] = x_N[0] + 1
    assert found(population_of(x_N + 1_700_000_000), 100).near_N.nonzero().squeeze(1).tolist() == [0, 100]


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_do_not_change_the_result(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x_N = torch.randn(150, 20, generator=generator(0, "blocks"))
    x_N[80:100] = x_N[:20] + 0.1 * torch.randn(20, 20, generator=generator(0, "noise"))
    x_N[100:120] = x_N[10:30] + 0.5
    population = population_of(x_N)
    whole = found(population, 70)
    monkeypatch.setattr(module, "_BLOCK_RECORDS", block)
    again = found(population, 70)
    assert torch.equal(again.near_N, whole.near_N)
    assert again.ratio == pytest.approx(whole.ratio, rel=1e-12)
    assert 0 < whole.count < 70


def test_a_sample_of_the_members_is_drawn_by_name_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    x_N = torch.randn(160, 20, generator=generator(0, "sampled"))
    x_N[80:] = x_N[:80] + 0.01
    population = population_of(x_N)
    monkeypatch.setattr(module, "MAX_PRODUCTS", 25 * 80 * 20)
    near, again, other = found(population, 80), found(population, 80), found(population, 80, seed=1)
    assert int(near.compared_N.sum()) == 25 == near.count
    assert not bool(near.compared_N[80:].any())
    assert torch.equal(near.compared_N, again.compared_N)
    assert not torch.equal(near.compared_N, other.compared_N)
    monkeypatch.undo()
    alone = near_duplicates(population, duplicate_group(population), near.compared_N, torch.arange(160) >= 80, seed=0)
    assert alone is not None
    assert torch.equal(alone.near_N, near.near_N)
    assert alone.ratio == near.ratio


def test_a_random_projection_finds_the_same_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    x_N = planted(smooth_pictures(400), smooth_pictures(400)[:20] ^ 1, num_members=200)
    population = population_of(x_N, scale=1 / 255)
    exact = found(population, 200)
    monkeypatch.setattr(module, "MAX_PRODUCTS", 200 * 200 * 128)
    projected = found(population, 200)
    assert projected.projected
    assert int(projected.compared_N.sum()) == 200
    assert torch.equal(projected.near_N, exact.near_N)
    assert exact.count == 20
    assert torch.equal(found(population, 200, seed=1).near_N, exact.near_N)


def test_a_projection_keeps_lengths_in_the_mean_square() -> None:
    x_N = torch.randn(300, 500, generator=generator(0, "lengths"))
    rows = module._projected(population_of(x_N), torch.arange(300), 0)(torch.arange(300))
    shares = rows.square().sum(1) / x_N.double().square().sum(1)
    assert rows.shape == (300, 128)
    assert abs(float(shares.mean()) - 1) < 0.03  # standard error 0.007 over records, and one set of directions
    assert float(shares.std()) == pytest.approx(math.sqrt(2 / 128), rel=0.2)


def test_nothing_is_said_without_members_or_with_few_nonmembers() -> None:
    population = population_of(torch.randn(30, 4, generator=generator(0, "few")))
    group_N = duplicate_group(population)
    first_N = torch.arange(30) < 21
    assert near_duplicates(population, group_N, first_N, ~first_N, seed=0) is None  # nine
    assert near_duplicates(population, group_N, torch.zeros(30, dtype=torch.bool), first_N, seed=0) is None


def test_records_that_are_neither_do_not_matter() -> None:
    x_N = torch.randn(140, 20, generator=generator(0, "neither"))
    x_N[50:60] = x_N[:10] + 0.001
    population = population_of(x_N)
    member_N, nonmember_N = torch.arange(140) < 50, torch.arange(140) >= 90
    near = near_duplicates(population, duplicate_group(population), member_N, nonmember_N, seed=0)
    part = population.chosen(member_N | nonmember_N)
    assert near is not None
    assert near.count == found(part, 50).count == 0
    assert near.ratio == found(replace(part, name="part"), 50).ratio
