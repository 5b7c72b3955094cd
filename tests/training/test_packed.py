"""Records as packed bits are the records."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.seeds import generator
from mia_lightning.training.step import packed
from mia_lightning.training.step.packed import PackedBits
from mia_lightning.training.step.recipe import Recipe

TYPES = [torch.float32, torch.float64, torch.uint8, torch.int64, torch.bool]


def of_bits(shape: Sequence[int], dtype: torch.dtype, **others: object) -> Population:
    x_N = (torch.rand(9, *shape, generator=generator(0, "bits", *shape)) < 0.4).to(dtype)
    return make_population(x_N, torch.arange(9) % 2, name="bits", class_names=["a", "b"], **others)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(
    shape=st.sampled_from([(1,), (7,), (8,), (9,), (17,), (1, 3, 5)]),
    dtype=st.sampled_from(TYPES[:-1]),
    seen=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    index=st.lists(st.integers(0, 8), min_size=2, max_size=12),
)
def test_they_are_those_of_the_population(
    shape: Sequence[int], dtype: torch.dtype, seen: torch.dtype, index: list[int]
) -> None:
    population = of_bits(shape, dtype)
    chosen = torch.tensor(index[: len(index) // 2 * 2]).view(2, -1)
    found = PackedBits.of(population).records(chosen, seen)
    expected = population.records(chosen, seen)
    assert isinstance(found, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    assert found.dtype == expected.dtype == seen
    assert torch.equal(found, expected)


def test_they_are_normalised_as_those_of_the_population() -> None:
    population = of_bits(
        (2, 4, 3), torch.uint8, scale=0.5, mean=torch.full((2, 1, 1), 0.2), std=torch.full((2, 1, 1), 3.0)
    )
    index = torch.arange(9).view(3, 3)
    found, expected = (each.records(index, torch.float32) for each in (PackedBits.of(population), population))
    assert isinstance(found, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    assert torch.equal(found, expected)


def test_they_take_an_eighth_of_a_byte_each() -> None:
    assert PackedBits.of(of_bits((17,), torch.float32)).byte_NQ.nbytes == 9 * 3


@pytest.mark.parametrize("odd", [2.0, -1.0, 0.5, -0.0, float("nan"), float("inf")])
def test_a_single_other_number_is_found(odd: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "DEVICES", {"cpu"})
    population = of_bits((8,), torch.float32)
    assert packed.refusal(Recipe(), population, torch.device("cpu")) is None
    population.x_N[5, 3] = odd
    assert packed.refusal(Recipe(), population, torch.device("cpu")) is not None
