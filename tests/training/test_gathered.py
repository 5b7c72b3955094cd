"""Records that do not fit where networks train are gathered ahead of each step: nothing else may differ."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from quick import quick_audit
from torch import Tensor
from training_jobs import train_with

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.interface import TrainingDefense
from mia_lightning.defenses.mixup import Mixup
from mia_lightning.models.mlp import MLP
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step import gathered as gathered_batches
from mia_lightning.training.step.batches import StackBatches
from mia_lightning.training.step.gathered import GatheredBatches
from mia_lightning.training.step.recipe import EarlyStopping, Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

RECIPE = Recipe(epochs=3, batches_per_epoch=3, optimizer=partial(torch.optim.Adam, lr=0.01))


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that gathered batches."""
    threads: list[str] = []
    original = GatheredBatches._next

    def spied(self: GatheredBatches, batches: Iterator[object]) -> object:
        threads.append(threading.current_thread().name)
        return original(self, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(GatheredBatches, "_next", spied)
    return threads


def train(population: Population, recipe: Recipe) -> TrainedStack:
    make = bind_shapes(partial(MLP, hidden=[8], dropout=0.2), population.input_shape, population.num_classes)
    records_K = [torch.arange(k, 31 + 5 * k) for k in range(3)]  # of different sizes: rows are padded
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu"))
    return train_with(
        engine,
        make,
        population,
        records_K,
        recipe,
        role="shadow",
        validation_N=torch.arange(45, 60) if recipe.early_stopping is not None else None,
    )


@pytest.mark.costly
@pytest.mark.parametrize(
    ("settings", "defense"),
    [
        ({}, None),
        ({"execution": "loop"}, None),
        ({"early_stopping": EarlyStopping(patience=1), "epochs": 9}, None),
        ({}, Mixup(alpha=0.5)),
        ({}, DPSGD(noise_multiplier=1.0, clip_norm=1.0)),
    ],
    ids=["plain", "looped", "validated", "mixed", "private"],
)
def test_networks_and_their_answers_are_the_same_to_the_bit(
    settings: dict[str, object], defense: TrainingDefense | None, pictures: Population, gathered: list[str]
) -> None:
    recipe = replace(RECIPE, **settings)
    if defense is not None:
        recipe = defense.adapt(recipe)
    resident = train(pictures, recipe)
    assert not gathered
    far = replace(pictures, device_bytes=pictures.x_N.nbytes - 1)
    trained = train(far, recipe)
    assert len(gathered) == len(trained.train_loss_EK) * (3 + 1)  # of each epoch, its batches and its end
    assert threading.current_thread().name not in gathered
    for name, tensor in resident.stack.state_dict().items():
        assert torch.equal(trained.stack.state_dict()[name], tensor)
    torch.testing.assert_close(trained.train_loss_EK, resident.train_loss_EK, rtol=0, atol=0, equal_nan=True)
    observed, expected = (each.observe(pictures).log_probability_KANC for each in (trained, resident))
    assert torch.equal(observed, expected)
    assert torch.equal(trained.observe(far).log_probability_KANC, expected)


def test_a_population_that_is_just_allowed_is_not_gathered(pictures: Population, gathered: list[str]) -> None:
    train(replace(pictures, device_bytes=pictures.x_N.nbytes), RECIPE)
    assert not gathered


def test_a_whole_audit_is_the_same(blobs: Population, gathered: list[str]) -> None:
    attack = mia.Shokri(hidden=[4], training=RECIPE)
    options = quick_audit(membership=mia.Disjoint(train_size=20), shadow=mia.Real(count=4), attacks=[attack])
    near = mia.audit(blobs, **options)
    assert not gathered
    far = mia.audit(replace(blobs, device_bytes=0), **options)
    assert gathered
    assert near.scores is not None
    assert far.scores is not None
    np.testing.assert_array_equal(far.scores.score, near.scores.score)


class Broken(StackBatches):
    """Batches that end in an error."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        yield next(super().__iter__())
        raise LookupError("no second batch")


def test_what_goes_wrong_in_the_thread_is_said(pictures: Population) -> None:
    batches = Broken([torch.arange(20)], torch.tensor([1]), batches_per_epoch=4)
    found = iter(GatheredBatches(batches, pictures, torch.device("cpu")))
    index_KB, is_real_KB, x = next(found)
    assert is_real_KB is None
    assert torch.equal(x, pictures.x_N[index_KB])
    with pytest.raises(LookupError, match="no second batch"):
        next(found)


def test_a_loop_that_ends_early_leaves_no_thread(pictures: Population) -> None:
    before = set(threading.enumerate())
    batches = GatheredBatches(
        StackBatches([torch.arange(20)], torch.tensor([1]), batches_per_epoch=4), pictures, torch.device("cpu")
    )
    assert len(batches) == 4
    found = iter(batches)
    next(found)
    own = set(threading.enumerate()) - before
    assert len(own) == 1
    del found
    assert not own & set(threading.enumerate())


class Recorded(gathered_batches.OfHost):
    """What a stream of its own would be asked for, in order."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def follow(self) -> None:
        self.calls.append("follow")

    @contextmanager
    def working(self) -> Iterator[None]:
        self.calls.append("begin")
        yield
        self.calls.append("end")

    def buffer(self, shape: Sequence[int], like: Tensor) -> Tensor:
        self.calls.append("buffer")
        return super().buffer(shape, like)

    def wait(self) -> None:
        self.calls.append("wait")

    def hand_over(self, tensor: Tensor) -> None:
        self.calls.append("hand over")


def test_a_stream_follows_the_steps_once_and_has_copied_before_a_batch_is_handed_over(
    pictures: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(gathered_batches, "beside_steps", lambda device: Recorded(calls))
    batches = StackBatches([torch.arange(20), torch.arange(15)], torch.tensor([1, 2]), batches_per_epoch=2)
    found = iter(GatheredBatches(batches, pictures, torch.device("cpu")))
    for _ in found:
        pass
    assert calls[0] == "follow"
    assert calls.count("follow") == 1
    whole = ["begin", "buffer", "wait", "end"]
    # Indices, which of them are real, and records, of each of two batches; then the end is found.
    assert [each for each in calls[1:] if each != "hand over"] == [*whole, *whole, "begin", "end"]
    for batch in range(2):
        handed = [place for place, each in enumerate(calls) if each == "hand over"][3 * batch]
        assert calls[:handed].count("wait") > batch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("device_bytes", [0, None])
def test_records_on_the_host_reach_a_gpu(device_bytes: int | None, pictures: Population) -> None:
    population = replace(pictures, device_bytes=device_bytes)
    near = population.near("cuda:0")
    assert near.is_near("cuda:0") == (device_bytes is None)
    index_B = torch.tensor([5, 3], device="cuda:0")
    assert near.records(index_B).is_cuda
    batches = StackBatches([torch.arange(20)], torch.tensor([1]), batches_per_epoch=4, device="cuda:0")
    for index_KB, _, x in GatheredBatches(batches, pictures, torch.device("cuda:0")):
        assert torch.equal(x.cpu(), pictures.x_N[index_KB.cpu()])
