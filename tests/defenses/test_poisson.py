"""Poisson batches: independent coins, of any size, none cut off, whatever the neighbours."""

import pytest
import torch
from scipy.stats import binom, chi2

from mia_lightning.defenses.poisson import PoissonBatches, PoissonSampler
from mia_lightning.errors import InputError


def batches_of(
    sizes: list[int], rates: list[float], steps: int, *, epoch: int = 0, first_key: int = 0
) -> PoissonBatches:
    records = [1000 * k + torch.arange(size) for k, size in enumerate(sizes)]
    batches = PoissonBatches(records, first_key + torch.arange(len(sizes)), rates, batches_per_epoch=steps)
    batches.set_epoch(epoch)
    return batches


def drawn(batches: PoissonBatches, k: int = 0) -> list[list[int]]:
    return [index_KB[k][is_real_KB[k]].tolist() for index_KB, is_real_KB in batches]


def test_the_rate_is_that_of_independent_coins() -> None:
    """2,000 steps over 50 records at q = 0.13: totals, sizes, records and pairs against the binomial law."""
    n, q, steps = 50, 0.13, 2000
    is_in_SN = torch.zeros(steps, n)
    for s, batch in enumerate(drawn(batches_of([n], [q], steps))):
        assert len(set(batch)) == len(batch)
        is_in_SN[s, batch] = 1.0
    low, high = binom.interval(1 - 1e-4, n * steps, q)
    assert low <= float(is_in_SN.sum()) <= high
    variance = n * q * (1 - q)
    for deviation, freedom in (
        ((is_in_SN.sum(1) - n * q).square() / variance, steps),  # the size of a batch
        ((is_in_SN.sum(0) - steps * q).square() / (steps * q * (1 - q)), n),  # how often a record is in
    ):
        assert chi2.ppf(5e-5, freedom) < float(deviation.sum()) < chi2.ppf(1 - 5e-5, freedom)
    next_step = (is_in_SN[1:] * is_in_SN[:-1]).sum()
    next_record = (is_in_SN[:, 1:] * is_in_SN[:, :-1]).sum()
    for together, count in ((next_step, n * (steps - 1)), (next_record, (n - 1) * steps)):
        low, high = binom.interval(1 - 1e-4, count, q * q)
        assert low <= float(together) <= high


def test_batches_may_be_empty_and_the_width_is_that_of_the_largest() -> None:
    batches = batches_of([20, 5], [0.05, 0.1], 300)
    sizes = []
    for index_KB, is_real_KB in batches:
        size_K = is_real_KB.sum(1)
        assert index_KB.shape == is_real_KB.shape == (2, max(1, int(size_K.max())))
        assert bool((index_KB // 1000 == torch.arange(2)[:, None]).all())  # padding is a record of the model's own
        sizes.append(size_K)
    assert {0, 1, 2} <= set(torch.cat(sizes).tolist())
    assert any(int(size_K.max()) == 0 for size_K in sizes)
    assert batches.smallest_batch == 0
    assert all(batches.has_padding_S)
    assert len(batches) == len(batches.has_padding_S) == 300


def test_rate_one_takes_every_record() -> None:
    assert drawn(batches_of([7, 3], [1.0, 1.0], 4)) == [list(range(7))] * 4
    assert drawn(batches_of([7, 3], [1.0, 1.0], 4), k=1) == [[1000, 1001, 1002]] * 4


def test_what_a_model_sees_does_not_depend_on_its_neighbours() -> None:
    together = batches_of([40, 12, 25], [0.2, 0.5, 0.1], 30, epoch=2)
    for k, (size, rate) in enumerate(((40, 0.2), (12, 0.5), (25, 0.1))):
        alone = PoissonBatches([1000 * k + torch.arange(size)], torch.tensor([k]), [rate], batches_per_epoch=30)
        alone.set_epoch(2)
        assert drawn(together, k) == drawn(alone)


def test_epochs_and_keys_draw_apart() -> None:
    first = drawn(batches_of([40], [0.5], 5))
    assert first == drawn(batches_of([40], [0.5], 5))
    assert first != drawn(batches_of([40], [0.5], 5, epoch=1))
    assert first != drawn(batches_of([40], [0.5], 5, first_key=1))
    assert len({tuple(batch) for batch in first}) == 5
    # Step 5 is that of the second epoch, whatever an epoch is.
    assert drawn(batches_of([40], [0.5], 10))[5:] == drawn(batches_of([40], [0.5], 5, epoch=1))
    assert batches_of([40], [0.5], 5).sampler.epoch == 0


@pytest.mark.parametrize(
    ("sampler", "num_records", "steps", "rate", "size"),
    [
        (PoissonSampler(batch_size=100), 1200, 12, 100 / 1200, 100.0),
        (PoissonSampler(batch_size=100), 60, 1, 1.0, 60.0),
        (PoissonSampler(batch_size=None), 1200, 8, 1 / 8, 150.0),
        (PoissonSampler(batch_size=100, num_records=1000), 1013, 10, 0.1, 100.0),
        (PoissonSampler(batch_size=None, num_records=1000), 1013, 10, 0.1, 100.0),
    ],
)
def test_the_rate_is_the_batch_size_over_the_number_of_records(
    sampler: PoissonSampler, num_records: int, steps: int, rate: float, size: float
) -> None:
    assert sampler.rate(num_records, steps) == pytest.approx(rate)
    assert sampler.expected_size(num_records, steps) == pytest.approx(size)
    made = sampler([torch.arange(num_records)], torch.tensor([3]), batches_per_epoch=steps)
    assert float(made.threshold_K[0]) / 2**53 == pytest.approx(rate)


def test_a_model_without_records_is_refused() -> None:
    with pytest.raises(InputError, match="Model 1 of the stack has no training records"):
        batches_of([3, 0], [0.5, 0.5], 1)
