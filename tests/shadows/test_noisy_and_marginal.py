"""Noisy and marginal shadow records against their definitions."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import binom, chi2_contingency
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.shadows.domain import distinct
from mia_lightning.shadows.marginal import Marginal
from mia_lightning.shadows.noisy import Noisy


class SumBox:
    """Predicts class 1 where the features of a record sum to an odd number."""

    num_classes = 2

    def __init__(self) -> None:
        self.num_queries = 0

    def predict(self, x_B: Tensor) -> Tensor:
        self.num_queries += len(x_B)
        odd_B = (x_B.flatten(1).long().sum(1) % 2).float()
        return torch.stack([1 - odd_B, odd_B], 1)


def known(num_records: int = 400) -> Population:
    """Ten binary columns of different frequencies, then two of small numbers."""
    generator = torch.Generator().manual_seed(0)
    share_F = torch.linspace(0.05, 0.95, 10)
    bits = (torch.rand(num_records, 10, generator=generator) < share_F).to(torch.int16)
    numbers = torch.randint(-3, 9, (num_records, 2), generator=generator).to(torch.int16)
    x_N = torch.cat([bits, numbers], 1)
    return Population(name="k", x_N=x_N, label_N=torch.arange(num_records) % 2, class_names=("even", "odd"))


def kept_rows(population: Population) -> list[int]:
    seen: set[tuple[int, ...]] = set()
    rows = []
    for i, row in enumerate(map(tuple, population.x_N.tolist())):
        if row not in seen:
            rows.append(i)
        seen.add(row)
    return rows


def wide_known() -> Population:
    """As `known`, with columns that make every record another, so that none is left out as a duplicate."""
    population = known()
    number_N = torch.arange(len(population))
    bits = torch.stack([(number_N >> b) & 1 for b in range(9)], 1).to(torch.int16)
    x_N = torch.cat([population.x_N, bits], 1)
    return Population(name="w", x_N=x_N, label_N=population.label_N, class_names=population.class_names)


def test_noise_changes_exactly_its_share_of_each_record() -> None:
    population = wide_known()  # 19 binary columns, 2 of numbers, 21 in all
    synthesis = Noisy(fraction=0.2, label="own").synthesise(population, SumBox(), seed=1)
    before, after = population.x_N, synthesis.x_M
    if len(after) < len(before):  # noise can make twins
        pytest.fail("choose another seed: the example wants no duplicates")
    changed = before != after
    binary_F = torch.tensor([True] * 10 + [False] * 2 + [True] * 9)
    chosen_lower_N = changed.sum(1)
    # Binary features always change where they are chosen; another record's number may be the same.
    assert int(chosen_lower_N.max()) == 4
    assert bool((chosen_lower_N >= 2).all())
    assert bool((after[:, binary_F][changed[:, binary_F]] == 1 - before[:, binary_F][changed[:, binary_F]]).all())
    for f in (10, 11):
        assert set(after[:, f].tolist()) <= set(before[:, f].tolist())
    share_F = changed[:, binary_F].double().mean(0)
    low, high = (binom.ppf(q, 400, 4 / 21) / 400 for q in (0.5e-3 / 19, 1 - 0.5e-3 / 19))
    assert bool(((share_F >= low) & (share_F <= high)).all())
    assert torch.equal(synthesis.label_M, population.label_N)
    assert synthesis.num_queries == 0


def test_all_binary_records_flip_exactly_the_rounded_number() -> None:
    generator = torch.Generator().manual_seed(1)
    x_N = torch.randint(0, 2, (300, 40), generator=generator).to(torch.uint8)
    population = Population(name="b", x_N=x_N, label_N=torch.arange(300) % 2, class_names=("even", "odd"))
    for fraction, flips in ((0.1, 4), (0.2, 8), (1.0, 40)):
        synthesis = Noisy(fraction=fraction).synthesise(population, SumBox(), seed=3)
        assert ((synthesis.x_M != x_N).sum(1) == flips).all()
        assert synthesis.x_M.dtype == torch.uint8


def test_features_that_are_not_binary_take_the_value_of_another_record() -> None:
    """Where no value occurs twice in a column, every chosen feature is another one's, and changes."""
    x_N = torch.stack([torch.randperm(200, generator=torch.Generator().manual_seed(f)) for f in range(15)], 1)
    population = Population(name="p", x_N=x_N / 8, label_N=torch.arange(200) % 2, class_names=("even", "odd"))
    synthesis = Noisy(fraction=0.4, label="own").synthesise(population, SumBox(), seed=1)
    assert ((synthesis.x_M != population.x_N).sum(1) == 6).all()
    for f in range(15):
        assert set(synthesis.x_M[:, f].tolist()) <= set(population.x_N[:, f].tolist())


@pytest.mark.parametrize(("x", "expected"), [([0, 1, 1], [1, 0, 0]), ([0, 1, 7], [0, 1, 7])])
def test_one_known_record_can_only_flip_where_all_is_binary(x: list[int], expected: list[int]) -> None:
    population = Population(name="1", x_N=torch.tensor([x]), label_N=torch.tensor([0]), class_names=("even", "odd"))
    assert Noisy(fraction=1.0).synthesise(population, SumBox(), seed=1).x_M.tolist() == [expected]


@pytest.mark.parametrize("source", [Noisy(fraction=0.3), Marginal()])
def test_the_size_of_blocks_changes_nothing(source: Noisy | Marginal, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = source.synthesise(wide_known(), SumBox(), seed=1)
    monkeypatch.setattr("mia_lightning.shadows.domain._NUMBERS", 150)
    assert torch.equal(source.synthesise(wide_known(), SumBox(), seed=1).x_M, whole.x_M)


def test_without_noise_the_records_are_themselves_but_for_duplicates() -> None:
    population = known()
    synthesis = Noisy(fraction=0.0).synthesise(population, SumBox(), seed=1)
    rows = kept_rows(population)
    assert len(rows) < 400
    assert torch.equal(synthesis.x_M, population.x_N[rows])
    assert f"{400 - len(rows)} of 400 records were exact duplicates" in " ".join(synthesis.remarks)


@pytest.mark.parametrize("source", [Noisy(), Marginal()])
def test_labels_are_the_targets_prediction_and_each_counts_as_a_query(source: Noisy | Marginal) -> None:
    box = SumBox()
    synthesis = source.synthesise(known(), box, seed=1)
    assert synthesis.label_M.tolist() == [sum(row) % 2 for row in synthesis.x_M.tolist()]
    assert synthesis.num_queries == box.num_queries == len(synthesis.x_M)
    assert synthesis.yield_C.sum() == len(synthesis.x_M)


def test_marginal_frequencies_are_those_of_the_columns_and_columns_are_independent() -> None:
    """Family-wise 10⁻³: 44 binomial counts, the correlations of 34 columns, labels included, and one table."""
    population, M = wide_known(), 20_000
    bits = torch.randint(0, 2, (400, 12), generator=torch.Generator().manual_seed(2)).to(torch.int16)
    population = replace(population, x_N=torch.cat([population.x_N, bits], 1))
    synthesis = Marginal(records=M, label="own").synthesise(population, SumBox(), seed=1)
    assert len(synthesis.x_M) == M  # duplicates left out would favour the rare values
    known_NF = torch.cat([population.x_N, population.label_N[:, None]], 1).long()
    drawn_MF = torch.cat([synthesis.x_M, synthesis.label_M[:, None]], 1).long()
    values = [(f, 1) for f in range(34) if f not in (10, 11)] + [(10, value) for value in range(-3, 9)]
    for f, value in values:
        p = float((known_NF[:, f] == value).double().mean())
        low, high = binom.ppf([0.25e-3 / len(values), 1 - 0.25e-3 / len(values)], M, p)
        assert low <= int((drawn_MF[:, f] == value).sum()) <= high
    correlation = torch.corrcoef(drawn_MF.double().T)
    assert float((correlation - torch.eye(34)).abs().max()) < 4.95 / math.sqrt(M)
    table = [[int(((drawn_MF[:, 10] == a) & (drawn_MF[:, 11] == b)).sum()) for b in range(-3, 9)] for a in range(-3, 9)]
    assert chi2_contingency(table).pvalue > 1e-5
    assert synthesis.num_queries == 0


def test_marginal_draws_as_many_as_are_known_unless_told() -> None:
    synthesis = Marginal().synthesise(wide_known(), SumBox(), seed=1)
    assert 390 <= len(synthesis.x_M) <= 400


def test_a_class_that_is_never_predicted_is_named() -> None:
    class Even(SumBox):
        def predict(self, x_B: Tensor) -> Tensor:
            return torch.tensor([1.0, 0.0]).expand(len(x_B), 2)

    synthesis = Marginal().synthesise(known(), Even(), seed=1)
    assert "no record has the label of the classes odd." in synthesis.remarks


@pytest.mark.parametrize("source", [Noisy(fraction=0.3), Marginal()])
def test_the_seed_alone_decides(source: Noisy | Marginal) -> None:
    one, same, other = (source.synthesise(wide_known(), SumBox(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.x_M, same.x_M)
    assert one.x_M.tolist() != other.x_M.tolist()


def test_images_keep_their_shape() -> None:
    x_N = torch.randint(0, 256, (50, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    population = Population(name="i", x_N=x_N, label_N=torch.arange(50) % 2, class_names=("even", "odd"))
    for source in (Noisy(), Marginal()):
        assert source.synthesise(population, SumBox(), seed=1).x_M.shape == (50, 3, 4, 4)


def test_distinct_numbers_are_distinct_and_all_subsets_equally_likely() -> None:
    rows = torch.arange(6000)
    chosen = distinct(torch.full((6000,), 7), rows, 2, 4).sort(1).values
    assert bool((chosen[:, 0] < chosen[:, 1]).all())
    counts = torch.bincount(chosen[:, 0] * 4 + chosen[:, 1])
    observed = counts[counts > 0].double()
    assert len(observed) == 6
    assert float(((observed - 1000) ** 2 / 1000).sum()) < 20.5  # chi-square, 5 degrees of freedom, 0.1 %
    assert distinct(torch.full((3,), 7), rows[:3], 4, 4).sort(1).values.tolist() == [[0, 1, 2, 3]] * 3
    assert distinct(torch.full((3,), 7), rows[:3], 0, 4).shape == (3, 0)


def test_a_constant_feature_among_numbers_is_not_binary() -> None:
    """The black corner of a picture stays black; the place that nobody visited is as binary as the others."""
    corner = torch.cat([torch.zeros(30, 1), torch.arange(60).view(30, 2) / 7], 1)
    pictures = Population(name="p", x_N=corner, label_N=torch.arange(30) % 2, class_names=("even", "odd"))
    assert (Noisy(fraction=1.0, label="own").synthesise(pictures, SumBox(), seed=1).x_M[:, 0] == 0).all()
    visits = torch.cat(
        [torch.zeros(30, 1), torch.randint(0, 2, (30, 9), generator=torch.Generator().manual_seed(0))], 1
    )
    places = Population(name="p", x_N=visits.to(torch.uint8), label_N=torch.arange(30) % 2, class_names=("even", "odd"))
    assert (Noisy(fraction=1.0, label="own").synthesise(places, SumBox(), seed=1).x_M[:, 0] == 1).all()
