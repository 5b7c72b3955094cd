"""A folder of a run that is full or not to be written: one sentence, before training where it can be seen."""

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from artefacts import refuse

import mia_lightning as mia
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.store import atomic
from mia_lightning.store.run_folder import check_run_folder, written_to_run
from mia_lightning.training.engine import Engine
from mia_lightning.training.plan.room import Room

MEGABYTE = 10**6


def audit(folder: Path, **changed: Any) -> mia.AuditReport:
    x_N = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    given: dict[str, Any] = {
        "model": partial(MLP, hidden=[8]),
        "membership": mia.Disjoint(train_size=15),
        "shadow": mia.Real(count=2),
        "training": mia.Recipe(epochs=2, batch_size=15),
        "attacks": [mia.Loss()],
        "store": mia.Store(dir=folder / "store"),
        "output": folder / "run",
        **changed,
    }
    return mia.audit(x_N, torch.arange(80) % 3, **given)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*_: object) -> None:
        pytest.fail("a model was trained")

    monkeypatch.setattr(Engine, "run", trained)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the free space of every disk."""

    def setting(count: int) -> None:
        usage = shutil._ntuple_diskusage(10**12, 10**12 - count, count)  # type: ignore[attr-defined]
        monkeypatch.setattr("mia_lightning.store.run_folder.shutil.disk_usage", lambda _: usage)

    return setting


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("changed", "megabytes"),
    [
        ({}, 1),
        ({"save_models": True, "model": partial(MLP, hidden=[100_000])}, 10),  # three models of a million weights
    ],
)
def test_too_little_space_is_said_before_anything_is_trained(
    changed: dict[str, Any], megabytes: int, free: Callable[[int], None], tmp_path: Path
) -> None:
    free(megabytes * MEGABYTE)
    with pytest.raises(InputError) as raised:
        audit(tmp_path, **changed)
    for part in (str(tmp_path / "run"), f"{megabytes}.0 MB free", "`output`", "hydra.run.dir"):
        assert part in str(raised.value)


@pytest.mark.usefixtures("no_training")
def test_answers_that_memory_cannot_hold_count(
    free: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Room, "_exceeds", lambda _, size, __: size > 1000)
    free(4_500_500)
    with pytest.raises(InputError, match="take at least"):
        audit(tmp_path)


def test_enough_space_is_enough(free: Callable[[int], None], tmp_path: Path) -> None:
    free(5 * MEGABYTE)
    assert audit(tmp_path).attacks
    assert not (tmp_path / "run" / ".check").exists()


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_is_said_before_anything_is_trained(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.replace", refuse(number))
    with pytest.raises(InputError, match=rf"the folder of the run cannot be .*{os.strerror(number)}"):
        audit(tmp_path, store=None)


@pytest.mark.usefixtures("no_training")
def test_a_file_in_the_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("I am a file.")
    with pytest.raises(InputError, match="the folder of the run cannot be made or written"):
        audit(tmp_path)


@pytest.mark.costly
@pytest.mark.parametrize(
    "name",
    ["target.safetensors", "shadow.safetensors", "members.csv", "scores.parquet", "per_class.csv", "report.json"],
)
def test_a_disk_that_is_full_in_the_end_is_said_and_what_was_trained_is_in_the_store(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, replace = atomic.os.replace, os.replace

    def full(source: Path, place: Path) -> None:
        if Path(place).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(place))
        replace(source, place)

    assert whole is replace
    with monkeypatch.context() as on_full_disk:
        on_full_disk.setattr("os.replace", full)
        with pytest.raises(InputError) as raised:
            audit(tmp_path, save_models=True)
    for part in (f"No space left on device: {tmp_path / 'run' / name}", "What is in the store is kept"):
        assert part in str(raised.value)
    assert not (tmp_path / "run" / "report.json").exists()
    assert not list((tmp_path / "run").rglob("*.partial"))
    again = audit(tmp_path, save_models=True)
    assert {role: (each.found, each.trained) for role, each in again.run.store.items()} == {
        "target": (1, 0),
        "shadow": (2, 0),
    }


def test_the_sentence_is_of_errors_of_the_disk_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another"), written_to_run():
        raise ValueError("another")
    check_run_folder(tmp_path / "new" / "folder", 1)
    with pytest.raises(InputError, match="GB"):
        check_run_folder(tmp_path, 10**18)
