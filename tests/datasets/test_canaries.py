"""Canaries: which records they replace, by what, and that nothing else is touched."""

import pytest
import torch
from scipy.stats import chisquare, kstest

from mia_lightning.datasets.canaries import Canaries, canary_mask
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.membership import Wanted
from mia_lightning.membership.bernoulli import Bernoulli
from mia_lightning.seeds import generator


def table(num_records: int = 4000, dtype: torch.dtype = torch.float32) -> Population:
    """A whole number from -3 to 7, a constant, and a real number (a whole one in records of integers)."""
    draws = generator(0, "table")
    whole_N = torch.randint(-3, 8, (num_records,), generator=draws)
    real_N = torch.rand(num_records, generator=draws) * 5 + 100
    x_N = torch.stack([whole_N.to(dtype), torch.full((num_records,), 2, dtype=dtype), real_N.to(dtype)], dim=1)
    return make_population(x_N, torch.arange(num_records) % 5, name="table")


def drawn(population: Population, count: int, kind: str, seed: int = 0) -> tuple[Population, torch.Tensor]:
    changed = Canaries(count=count, kind=kind).apply(population, seed)
    mask_N = canary_mask(changed)
    assert mask_N is not None
    return changed, mask_N


def test_mislabelled_ones_have_another_label_and_nothing_else_changes() -> None:
    before = table()
    after, canary_N = drawn(before, 700, "mislabelled")
    assert after.group_names == ("natural", "canary")
    assert int(canary_N.sum()) == 700
    assert torch.equal(after.x_N, before.x_N)
    assert torch.equal(after.label_N != before.label_N, canary_N)
    assert torch.equal(before.label_N, torch.arange(4000) % 5)
    assert before.group_N is None
    assert (after.name, after.class_names) == (before.name, before.class_names)


def test_new_labels_are_uniform_among_the_others() -> None:
    """Chi-square over the 20 ordered pairs of classes, each expected equally often given the old label."""
    before = table(20_000)
    after, canary_N = drawn(before, 10_000, "mislabelled", seed=4)
    old_M, new_M = before.label_N[canary_N], after.label_N[canary_N]
    for old in range(5):
        count_C = torch.bincount(new_M[old_M == old], minlength=5)
        assert int(count_C[old]) == 0
        others = count_C[torch.arange(5) != old]
        assert chisquare(others.numpy()).pvalue > 1e-3
    assert chisquare(torch.bincount(old_M).numpy()).pvalue > 1e-3  # drawn from all records alike


def test_with_two_classes_a_label_is_flipped() -> None:
    before = make_population(torch.zeros(50, 1), torch.arange(50) % 2)
    after, canary_N = drawn(before, 20, "mislabelled")
    assert torch.equal(after.label_N, torch.where(canary_N, 1 - before.label_N, before.label_N))


def test_uniform_ones_are_uniform_over_the_range_of_each_feature() -> None:
    before = table()
    after, canary_N = drawn(before, 2200, "uniform", seed=1)
    assert torch.equal(after.label_N, before.label_N)
    assert torch.equal(after.x_N[~canary_N], before.x_N[~canary_N])
    whole_M, constant_M, real_M = after.x_N[canary_N].double().unbind(1)
    values, counts = whole_M.unique(return_counts=True)
    assert values.tolist() == list(range(-3, 8))
    assert chisquare(counts.numpy()).pvalue > 1e-3
    assert constant_M.unique().tolist() == [2]
    low, high = float(before.x_N[:, 2].min()), float(before.x_N[:, 2].max())
    assert low <= float(real_M.min()) < float(real_M.max()) <= high
    assert kstest(real_M.numpy(), "uniform", args=(low, high - low)).pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([whole_M, real_M]))[0, 1])) < 4 / 2200**0.5


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float16])
def test_uniform_ones_keep_type_and_range(dtype: torch.dtype) -> None:
    before = table(500, dtype)
    after, _ = drawn(before, 400, "uniform")
    assert after.x_N.dtype == dtype
    for feature in range(3):
        old_N, new_N = before.x_N[:, feature].double(), after.x_N[:, feature].double()
        assert float(old_N.min()) <= float(new_N.min()) <= float(new_N.max()) <= float(old_N.max())
        assert bool((new_N == new_N.floor()).all()) or not bool((old_N == old_N.floor()).all())


def test_uniform_pictures(pictures: Population) -> None:
    after, canary_N = drawn(pictures, 30, "uniform")
    assert after.x_N.shape == pictures.x_N.shape
    assert after.x_N.dtype == torch.uint8
    same_N = (after.x_N == pictures.x_N).flatten(1).all(1)
    assert torch.equal(same_N, ~canary_N)
    assert after.mean is pictures.mean


@pytest.mark.usefixtures("global_generators")
def test_they_are_a_function_of_the_seed_and_the_same_records_for_both_kinds() -> None:
    population = table(300)
    for kind in ("mislabelled", "uniform"):
        first, mask_N = drawn(population, 60, kind, seed=3)
        torch.manual_seed(99)
        again, _ = drawn(population, 60, kind, seed=3)
        assert first.fingerprint() == again.fingerprint()
        assert torch.equal(mask_N, drawn(population, 60, "mislabelled", seed=3)[1])
        assert not torch.equal(mask_N, drawn(population, 60, kind, seed=4)[1])


def test_every_record_may_be_one() -> None:
    population = make_population(torch.zeros(40, 1), torch.arange(40) % 2)
    chosen_SN = torch.stack([drawn(population, 10, "mislabelled", seed=seed)[1] for seed in range(400)])
    assert bool((chosen_SN.sum(1) == 10).all())
    assert float((chosen_SN.double().mean(0) - 0.25).abs().max()) < 5 * (0.25 * 0.75 / 400) ** 0.5


def test_what_cannot_be_used_is_refused() -> None:
    for count in (30, 31):
        with pytest.raises(InputError, match=rf"`canary.count` is {count}, .* no natural record of the 30 of table"):
            Canaries(count=count).apply(table(30), 0)
    grouped = make_population(torch.zeros(4, 1), [0, 1, 0, 1], name="mine", group=["w", "e", "w", "e"])
    with pytest.raises(InputError, match=r"the records of mine have groups of their own \(e, w\)"):
        Canaries(count=2).apply(grouped, 0)


def test_the_coins_of_the_bernoulli_plan_are_theirs() -> None:
    population, canary_N = drawn(table(200), 50, "mislabelled")
    plan = Bernoulli(canaries=50, validation=30).fill(population, Wanted(num_targets=2, num_shadows=20, seed=0))
    assert torch.equal(plan.scored_KN, canary_N.expand_as(plan.scored_KN))
    assert len(plan.validation_N) == 30
    assert not bool(canary_N[plan.validation_N].any())
    assert 0.4 < float(plan.member_KN[:, canary_N].double().mean()) < 0.6
    always_N = (~canary_N).index_fill(0, plan.validation_N, False)
    assert bool(plan.member_KN[:, always_N].all())
    assert int(plan.member_KN[:, ~always_N & ~canary_N].sum()) == 0


def test_the_bernoulli_plan_says_how_many_there_are() -> None:
    population, _ = drawn(table(200), 50, "mislabelled")
    with pytest.raises(
        InputError, match=r"`membership.canaries` is 40, but 50 records of table are of the group 'canary'; set it"
    ):
        Bernoulli(canaries=40).fill(population, Wanted(num_targets=1, num_shadows=2, seed=0))
    other = make_population(torch.zeros(20, 1), torch.arange(20) % 2, group=torch.arange(20) % 3)
    plan = Bernoulli(canaries=5).fill(
        other, Wanted(num_targets=1, num_shadows=2, seed=0)
    )  # groups, and none of canaries
    assert int(plan.scored_KN[0].sum()) == 5
