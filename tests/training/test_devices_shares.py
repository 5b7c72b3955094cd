"""How models and their machine are shared out among processes, and what is handed to these."""

import multiprocessing
import os
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from device_jobs import ADAM, Scaled, records
from device_jobs import _no_process_is_left as _no_process_is_left
from torch import nn
from training_jobs import job_of, train_with

from mia_lightning.errors import InputError
from mia_lightning.training.devices.local_shard import _handed_over
from mia_lightning.training.devices.processes import threads_of_shard
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import divided
from mia_lightning.training.plan.planner import Planner
from mia_lightning.training.plan.threads import using_threads
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

pytestmark = [pytest.mark.devices, pytest.mark.xdist_group("devices")]


def test_an_estimate_is_that_of_the_largest_shard() -> None:
    recipe = Recipe(epochs=1, batch_size=9, optimizer=ADAM)
    job = job_of(Engine(seed=0), Scaled, records(), [torch.arange(9)] * 7, recipe, role="shadow")
    settings = TrainerSettings(accelerator="cpu", devices=3)
    assert Engine(seed=0, settings=settings).plan(job).num_models == 3


def test_processes_on_the_cpu_share_its_memory_and_its_threads() -> None:
    alone = Planner(budget=lambda device: 1000)
    assert alone.beside(1) is alone
    assert alone.beside(4).budget(torch.device("cpu")) == 250
    assert alone.beside(4).budget(torch.device("cuda")) == 1000
    before = torch.get_num_threads()
    with using_threads(threads_of_shard(2)):
        assert torch.get_num_threads() == max(1, before // 2)
    assert torch.get_num_threads() == before


def test_each_device_has_settings_of_its_own() -> None:
    settings = TrainerSettings(devices=[2, 0], precision="bf16")
    assert settings.num_devices == 2
    assert settings.alone(0, "cuda").devices == (2,)
    assert settings.alone(1, "cuda").devices == (0,)
    assert settings.alone(1, "cuda").precision == "bf16"
    assert TrainerSettings(devices=3).alone(1, "cuda").devices == (1,)
    assert TrainerSettings(devices=3).alone(1, "cpu").devices == 1


def test_all_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert TrainerSettings(devices=-1).num_devices == 4


def test_a_single_model_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", None)  # what starts them
    recipe = Recipe(epochs=1, batch_size=9, optimizer=ADAM)
    settings = TrainerSettings(accelerator="cpu", devices=2)
    trained = train_with(Engine(seed=0, settings=settings), Scaled, records(), [torch.arange(9)], recipe, role="target")
    assert trained.num_models == 1


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_are_disjoint_even_and_in_order(count: int) -> None:
    sizes = [30, 30, 30, 70, 70, 10, 30, 100]
    job = job_of(
        Engine(seed=0),
        Scaled,
        records(),
        [torch.arange(size) for size in sizes],
        Recipe(epochs=1, batch_size=20, optimizer=ADAM),
        role="shadow",
    )
    shards = job.shards(count)
    assert sorted(place for shard in shards for place in shard) == list(range(8))
    assert all(shard == sorted(shard) for shard in shards)
    for group in job.groups():
        of_group = [len(set(group) & set(shard)) for shard in shards]
        assert max(of_group) - min(of_group) <= 1
    part = job.part(shards[-1])
    assert [len(each) for each in part.records_K] == [sizes[place] for place in shards[-1]]


def test_many_groups_of_one_are_divided_too() -> None:
    job = job_of(
        Engine(seed=0),
        Scaled,
        records(),
        [torch.arange(10 * k) for k in range(1, 13)],
        Recipe(epochs=1, batch_size=10, optimizer=ADAM),
        role="shadow",
    )
    steps_D = [sum(job.recipe.steps_per_epoch(len(job.records_K[k])) for k in shard) for shard in job.shards(3)]
    assert sum(steps_D) == 78
    assert max(steps_D) <= 1.5 * min(steps_D)


def test_parts_are_even_and_contiguous() -> None:
    assert divided(range(5), 4) == [[0], [1], [2], [3, 4]]
    assert divided([7, 3], 1) == [[7, 3]]


@pytest.mark.costly
@pytest.mark.parametrize(
    ("make", "recipe", "settings", "sentence"),
    [
        (lambda: nn.Linear(6, 3), {}, {}, r"`model` cannot be handed to the processes of 2 `trainer.devices`.*module"),
        (Scaled, {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}, {}, "`training` cannot be handed"),
        (Scaled, {}, {"callbacks": ["local"]}, "`trainer.callbacks` cannot be handed"),
        (Scaled, {}, {"options": {"profiler": open(os.devnull)}}, "`trainer.options` cannot be handed"),  # noqa: SIM115
    ],
    ids=["model", "training", "callbacks", "options"],
)
def test_what_cannot_be_pickled_is_refused_by_name(
    make: object, recipe: dict[str, object], settings: dict[str, object], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Local(pl.Callback):
        pass

    if "callbacks" in settings:
        settings = {"callbacks": [Local()]}
    monkeypatch.setattr(Engine, "device", torch.device("cpu"))  # Lightning would not know this profiler
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu", devices=2, **settings))
    recipe = Recipe(**{"epochs": 1, "batch_size": 9, "optimizer": ADAM, **recipe})
    with pytest.raises(InputError, match=sentence):
        train_with(engine, make, records(), [torch.arange(9)] * 2, recipe, role="shadow")


class Ran:
    """Its pickle makes a file where it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.place,)


@pytest.mark.parametrize("how", ["ours", "group", "others", "another user", "link", "nothing"])
def test_code_is_read_only_from_a_file_that_this_user_alone_can_write(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, ran = tmp_path / "file", tmp_path / "ran"
    torch.save(Ran(ran), file)
    file.chmod({"group": 0o620, "others": 0o602}.get(how, 0o600))
    if how == "another user":
        monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    elif how == "link":
        (tmp_path / "link").symlink_to(file)
    if how == "ours":
        _handed_over(file)
    else:
        with pytest.raises(InputError, match=r"is not read from .*TMPDIR"):
            _handed_over({"link": tmp_path / "link", "nothing": tmp_path / "none"}.get(how, file))
    assert ran.exists() == (how == "ours")
