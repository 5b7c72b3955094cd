"""Every record of every model once in each epoch, whatever the neighbours."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mia_lightning.datasets.loading import Loading
from mia_lightning.errors import InputError
from mia_lightning.training.step.batches import LoadedBatches, StackBatches, stable_order

sizes_strategy = st.lists(st.integers(1, 23), min_size=1, max_size=5)


def batches_of(sizes: list[int], steps: int, epoch: int, first_key: int = 0) -> StackBatches:
    records = [100 * k + torch.arange(size) for k, size in enumerate(sizes)]
    batches = StackBatches(records, first_key + torch.arange(len(sizes)), batches_per_epoch=steps)
    batches.set_epoch(epoch)
    return batches


@settings(deadline=None, max_examples=60)
@given(sizes=sizes_strategy, steps=st.integers(1, 6), epoch=st.integers(0, 3))
def test_an_epoch_is_a_permutation_in_even_batches(sizes: list[int], steps: int, epoch: int) -> None:
    batches = batches_of(sizes, steps, epoch)
    seen: list[list[int]] = [[] for _ in sizes]
    lengths: list[list[int]] = [[] for _ in sizes]
    for index_KB, is_real_KB in batches:
        for k in range(len(sizes)):
            real = index_KB[k] if is_real_KB is None else index_KB[k][is_real_KB[k]]
            seen[k] += real.tolist()
            lengths[k].append(len(real))
            assert bool((index_KB[k] // 100 == k).all())  # padding is a record of the model's own
    assert len(batches) == steps == len(lengths[0])
    for k, size in enumerate(sizes):
        assert sorted(seen[k]) == list(range(100 * k, 100 * k + size))
        assert max(lengths[k]) - min(lengths[k]) <= 1
    assert batches.smallest_batch == min(map(min, lengths))


LOADINGS = [None, *(Loading(batch_size=5, shuffle=shuffle, drop_last=False) for shuffle in (True, False))]


@settings(deadline=None, max_examples=60)
@given(sizes=sizes_strategy, steps=st.integers(1, 6), epoch=st.integers(0, 3), loading=st.sampled_from(LOADINGS))
def test_an_accelerator_takes_all_batches_of_an_epoch_by_one_call(
    sizes: list[int], steps: int, epoch: int, loading: Loading | None
) -> None:
    batches = batches_of(sizes, steps, epoch)
    if loading is not None:
        steps = -(-max(sizes) // loading.batch_size)
        records_K = [row_M[:size] for row_M, size in zip(batches.record_KM, sizes, strict=True)]
        batches = LoadedBatches(records_K, batches.key_K, batches_per_epoch=steps, loading=loading)
    one_by_one = list(batches)
    batches._all_at_once = batches._places(batches.start_SK, batches.count_K)
    for first, second in zip(one_by_one, batches, strict=True):
        for mine, other in zip(first, second, strict=True):
            assert (mine is None) == (other is None)
            assert mine is None or other is None or torch.equal(mine, other)


@settings(deadline=None, max_examples=30)
@given(sizes=sizes_strategy, steps=st.integers(1, 4))
def test_a_models_order_does_not_depend_on_its_neighbours(sizes: list[int], steps: int) -> None:
    together = list(batches_of(sizes, steps, epoch=2))
    for k, size in enumerate(sizes):
        alone = StackBatches([100 * k + torch.arange(size)], torch.tensor([k]), batches_per_epoch=steps)
        alone.set_epoch(2)
        for (index_KB, is_real_KB), (own_KB, _) in zip(together, alone, strict=True):
            real = index_KB[k] if is_real_KB is None else index_KB[k][is_real_KB[k]]
            assert real.tolist() == own_KB[0].tolist()


def test_the_order_changes_with_the_epoch_and_the_key() -> None:
    def order(epoch: int, key: int) -> list[int]:
        return [int(i) for index_KB, _ in batches_of([20], 2, epoch, key) for i in index_KB[0]]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != order(0, 1)


def test_first_places_are_uniform() -> None:
    """Chi-square over which of 10 records comes first, in 2,000 epochs: below the 99.9 % point of 9 degrees."""
    batches = batches_of([10], 10, 0)
    counts = torch.zeros(10)
    for epoch in range(2000):
        batches.set_epoch(epoch)
        counts[int(next(iter(batches))[0][0, 0])] += 1
    assert float(((counts - 200) ** 2 / 200).sum()) < 27.88


@pytest.mark.parametrize("length", [1, 1000, 2**15 - 1, 2**15, 40_000])
def test_rows_of_any_length_are_ordered_by_rank_and_of_equal_ones_by_place(length: int) -> None:
    random = torch.Generator().manual_seed(length)
    rank_KM = torch.randint(-(2**62), 2**62, (3, length), generator=random)
    rank_KM[:, ::3] = rank_KM[:, :1].clone()
    rank_KM[1, length // 2 :] = torch.iinfo(torch.int64).max  # as places without a record are
    rank_KM[2] = torch.randint(-3, 3, (length,), generator=random)
    expected = np.argsort(rank_KM.numpy(), axis=1, kind="stable")
    np.testing.assert_array_equal(stable_order(rank_KM).numpy(), expected)


def test_a_model_without_records_is_refused() -> None:
    with pytest.raises(InputError, match="Model 1 of the stack has no training records"):
        batches_of([3, 0], 1, 0)
