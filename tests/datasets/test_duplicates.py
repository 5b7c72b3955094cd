"""Equal records, found by bytes, against a comparison of every pair."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mia_lightning.datasets.duplicates import count_across, duplicate_group
from mia_lightning.datasets.population import Population


def population_of(x_N: torch.Tensor) -> Population:
    return Population(name="plain", x_N=x_N, label_N=torch.arange(len(x_N)) % 2, class_names=("a", "b"))


def same_group(group_N: torch.Tensor) -> torch.Tensor:
    return group_N[:, None] == group_N


def equal_pairs(x_N: torch.Tensor) -> torch.Tensor:
    flat = x_N.flatten(1)
    return (flat[:, None] == flat).all(-1)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 25), st.integers(1, 3), st.integers(0, 2**31))
def test_groups_are_the_classes_of_equal_records(num_records: int, num_features: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x_N = torch.randint(-1, 2, (num_records, num_features), generator=random).float()
    group_N = duplicate_group(population_of(x_N))
    assert group_N.shape == (num_records,)
    assert group_N.dtype == torch.int64
    assert torch.equal(same_group(group_N), equal_pairs(x_N))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.uint8, torch.int8, torch.int32, torch.int64]
)
def test_all_kinds_of_numbers(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    x_N = torch.randint(0, 2, (40, 2, 2), generator=random).to(dtype)
    assert torch.equal(same_group(duplicate_group(population_of(x_N))), equal_pairs(x_N))


def test_zeros_of_both_signs_are_equal_and_neighbouring_floats_are_not() -> None:
    tiny = torch.finfo(torch.float32).eps
    x_N = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [0.0, 1.0 + tiny], [0.0, -1.0]])
    group = duplicate_group(population_of(x_N)).tolist()
    assert group[0] == group[1]
    assert len({*group[1:]}) == 3
    assert torch.signbit(x_N[1, 0])  # the records themselves are as they were


def test_images_that_are_no_contiguous_memory() -> None:
    x_N = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4).repeat(2, 1, 1)
    group = duplicate_group(population_of(x_N.transpose(1, 2))).tolist()
    assert group[0] == group[2] != group[1] == group[3]


def test_labels_do_not_count() -> None:
    group_N = duplicate_group(population_of(torch.zeros(2, 3)))  # of classes a and b
    assert group_N[0] == group_N[1]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("mno")), min_size=1, max_size=30))
def test_members_among_the_nonmembers_are_counted(entries: list[tuple[int, str]]) -> None:
    group_N = torch.tensor([group for group, _ in entries])
    member_N, nonmember_N = (torch.tensor([side == name for _, side in entries]) for name in "mn")
    outside = [group for group, side in entries if side == "n"]
    expected = sum(side == "m" and group in outside for group, side in entries)
    assert count_across(group_N, member_N, nonmember_N) == expected


def test_records_of_many_features_are_compared_whole_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x_N = torch.randint(0, 2, (60, 300), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    x_N[50:] = x_N[:10]
    x_N[59, 299] ^= 1
    whole = duplicate_group(population_of(x_N))
    assert torch.equal(same_group(whole), equal_pairs(x_N))
    monkeypatch.setattr("mia_lightning.datasets.duplicates._BLOCK_NUMBERS", 700)
    assert torch.equal(same_group(duplicate_group(population_of(x_N))), same_group(whole))
