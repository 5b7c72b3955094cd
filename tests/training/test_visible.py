"""Several GPUs are those that the scheduler gave; nothing translates or changes how it named them."""

import ctypes
import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_jobs import job_of

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.training.devices.local_shard import HandedOver, LocalShard
from mia_lightning.training.devices.processes import _processes
from mia_lightning.training.devices.visible import _has_driver, environment_of, index_there, slices
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings, quiet_lightning

NAMED = "CUDA_VISIBLE_DEVICES"
RECIPE = Recipe(epochs=1, batch_size=9)  # made before GPUs are counted that are not there
MIG = "MIG-aaaa,MIG-bbbb,MIG-cccc"
Given = Callable[[str | None], None]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    """What the scheduler named, and how many devices CUDA would count with it."""

    def name(named: str | None) -> None:
        monkeypatch.delenv(NAMED, raising=False)
        if named is not None:
            monkeypatch.setenv(NAMED, named)
        count = (
            4 if named is None else 1 if named.startswith("MIG-") else len([each for each in named.split(",") if each])
        )
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return name


@pytest.mark.parametrize("named", [None, "", "3", "3,1", "GPU-8932f937,GPU-1e2f3a4b", "0,MIG-aaaa"])
def test_whole_gpus_are_counted_as_cuda_counts_them_and_nothing_is_set(named: str | None, given: Given) -> None:
    given(named)
    assert slices() == []
    assert environment_of(1) == {}
    assert index_there(1) == 1


def test_each_process_is_shown_one_slice_by_its_own_name(given: Given) -> None:
    given(MIG)
    assert [environment_of(index) for index in (0, 2)] == [{NAMED: "MIG-aaaa"}, {NAMED: "MIG-cccc"}]
    assert index_there(2) == 0


@pytest.mark.parametrize(("named", "count"), [(None, 4), ("3,1", 2), ("7", 1), (MIG, 3), ("MIG-aaaa", 1)])
def test_all_are_those_that_were_given(named: str | None, count: int, given: Given) -> None:
    given(named)
    assert TrainerSettings(devices=-1).num_devices == count


def test_where_none_was_given_all_are_refused(given: Given) -> None:
    given("")
    with pytest.raises(InputError, match=r"`trainer.devices` is -1"):
        TrainerSettings(devices=-1)


@pytest.mark.parametrize("devices", [4, [0, 3]])
def test_more_slices_than_were_given_are_refused(devices: Any, given: Given) -> None:
    given(MIG)
    with pytest.raises(InputError, match=r"`trainer.devices` is .* names 3 slices"):
        TrainerSettings(devices=devices)
    TrainerSettings(devices=devices, accelerator="cpu")  # so many processes, which see no GPU


@pytest.mark.parametrize(
    ("named", "devices", "indices", "environments"),
    [
        ("3,1", 2, [0, 1], [{}, {}]),
        (None, [2, 0], [2, 0], [{}, {}]),
        (MIG, 2, [0, 0], [{NAMED: "MIG-aaaa"}, {NAMED: "MIG-bbbb"}]),
        (MIG, [2, 1], [0, 0], [{NAMED: "MIG-cccc"}, {NAMED: "MIG-bbbb"}]),
    ],
)
def test_each_shard_has_a_device_of_its_own(
    named: str | None,
    devices: Any,
    indices: list[int],
    environments: list[dict[str, str]],
    given: Given,
    blobs: Population,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given(named)
    first = property(lambda self: torch.device("cuda", self.devices[0] if self.num_devices == 1 else 0))
    monkeypatch.setattr(TrainerSettings, "device", first)
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="gpu", devices=devices))
    make = bind_shapes(partial(MLP, hidden=[4]), blobs.input_shape, 3)
    job = job_of(engine, make, blobs, [torch.arange(9)] * 4, RECIPE, role="shadow")
    handed: HandedOver = engine._handed_over(job, SimpleNamespace(processes=1))  # type: ignore[arg-type]
    assert [shard.device.index for shard in handed.shards] == indices
    assert [shard.environment for shard in handed.shards] == environments
    assert [shard.settings.devices for shard in handed.shards] == [(index,) for index in indices]


def test_a_process_inherits_what_its_shard_is_to_see_and_this_one_stays_as_it_was(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(MIG)
    inherited: list[str | None] = []

    class Process:
        def __init__(self, **_: Any) -> None:
            self.start = lambda: inherited.append(os.environ.get(NAMED))
            self.kill = self.join = lambda: None

    context = SimpleNamespace(Pipe=lambda: (SimpleNamespace(close=lambda: None),) * 2, Process=Process)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
    shards = [
        LocalShard(
            place=place,
            device=torch.device("cuda", 0),
            settings=TrainerSettings(accelerator="cpu"),
            places=[place],
            num_threads=1,
            folder=Path(),
            environment=environment,
        )
        for place, environment in enumerate([environment_of(1), environment_of(2), {}])
    ]
    with _processes(shards, Path()):
        pass
    assert inherited == ["MIG-bbbb", "MIG-cccc", MIG]
    assert os.environ[NAMED] == MIG


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver")
def test_a_driver_that_is_not_there_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_for: list[str] = []
    load = ctypes.CDLL

    def watched(name: str) -> ctypes.CDLL:
        looked_for.append(name)
        return load(name)

    monkeypatch.setattr(ctypes, "CDLL", watched)
    # Without the cache that `shared_fixtures.py` puts around it.
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", vars(torch.cuda._device_count_nvml)["__wrapped__"])
    _has_driver.cache_clear()
    before = dict(os.environ)
    for _ in range(2):
        with quiet_lightning():
            assert not any(torch.cuda.is_available() for _ in range(3))
    assert looked_for == ["libnvidia-ml.so.1"]
    assert dict(os.environ) == before
