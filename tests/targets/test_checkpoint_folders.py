"""Which checkpoint of a run's folder is its result."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_habits import LitNet, best, fitted
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.targets.run_folder import chosen_file

pytestmark = [
    pytest.mark.usefixtures("global_generators"),  # of networks that the tests make
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
]


def fit(blobs: Population, folder: Path, *callbacks: ModelCheckpoint, **options: object) -> None:
    fitted(LitNet(lr=0.3), blobs.x_N, blobs.label_N, folder, epochs=4, callbacks=callbacks, **options)


@pytest.mark.costly
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("last", [True, "link", False])
def test_the_best_by_the_runs_own_monitor_is_chosen(
    blobs: Population, tmp_path: Path, mode: str, last: bool | str
) -> None:
    saver = best(tmp_path / "run" / "checkpoints", mode=mode, save_last=last)
    fit(blobs, tmp_path, saver)
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoints"):
        file, why = chosen_file(folder)
        assert file.samefile(saver.best_model_path)
        assert "by val_loss" in why
        assert f"{float(saver.best_model_score):.6g}" in why
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "run", moved, symlinks=True)
    shutil.rmtree(tmp_path / "run")
    assert chosen_file(moved)[0].name == Path(saver.best_model_path).name


def test_the_best_alone_is_taken(blobs: Population, tmp_path: Path) -> None:
    saver = best(tmp_path / "run", save_top_k=1)
    fit(blobs, tmp_path, saver)
    file, why = chosen_file(tmp_path / "run")
    assert file == Path(saver.best_model_path)
    assert "the only checkpoint" in why


def test_the_folder_of_a_logger(blobs: Population, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="lightning_logs")
    fit(blobs, tmp_path, logger=logger, enable_checkpointing=True)
    file, _ = chosen_file(Path(logger.log_dir))
    assert file.parent == Path(logger.log_dir) / "checkpoints"
    assert chosen_file(tmp_path)[0] == file  # one version
    second = CSVLogger(tmp_path, name="lightning_logs")
    fit(blobs, tmp_path, logger=second, enable_checkpointing=True)
    with pytest.raises(
        InputError, match=r"several runs: lightning_logs/version_0/checkpoints, .*version_1/checkpoints"
    ):
        chosen_file(tmp_path)


@pytest.mark.parametrize("place", ["checkpoints", "wandb-project/8xk2/checkpoints", "runs/2026-11-29/checkpoints"])
def test_folders_as_loggers_and_launchers_make_them(blobs: Population, tmp_path: Path, place: str) -> None:
    saver = best(tmp_path / place, save_top_k=2)
    fit(blobs, tmp_path, saver)
    for other in (".hydra/config.yaml", "wandb/run-1/files/config.yaml", "csv/version_0/hparams.yaml"):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).touch()
    assert chosen_file(tmp_path)[0] == Path(saver.best_model_path)


def test_the_last_is_taken_where_nothing_was_monitored(blobs: Population, tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path / "run", save_top_k=-1, save_last=True)
    fit(blobs, tmp_path, saver)
    file, why = chosen_file(tmp_path / "run")
    assert file.name == "last.ckpt"
    assert "none was monitored" in why
    file.unlink()
    with pytest.raises(InputError, match=r"has 4 checkpoints, and none says which is the best: epoch=0-step=3.ckpt, "):
        chosen_file(tmp_path / "run")


def test_two_monitors_that_disagree_are_refused(blobs: Population, tmp_path: Path) -> None:
    low = best(tmp_path / "run", mode="min", filename="low-{epoch}")
    high = best(tmp_path / "run", mode="max", filename="high-{epoch}")
    fit(blobs, tmp_path, low, high)
    with pytest.raises(InputError, match="several best checkpoints") as caught:
        chosen_file(tmp_path / "run")
    assert Path(low.best_model_path).name in str(caught.value)
    assert Path(high.best_model_path).name in str(caught.value)


def test_a_best_that_is_not_there_is_missed(blobs: Population, tmp_path: Path) -> None:
    saver = best(tmp_path / "run", mode="max")  # the first
    fit(blobs, tmp_path, saver)
    Path(saver.best_model_path).unlink()
    with pytest.raises(InputError, match="lacks its best checkpoint by val_loss") as caught:
        chosen_file(tmp_path / "run")
    assert Path(saver.best_model_path).name in str(caught.value)


def test_other_weights_than_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"is a folder without a .ckpt"):
        chosen_file(tmp_path)
    torch.save({}, tmp_path / "model.pt")
    assert chosen_file(tmp_path)[0] == tmp_path / "model.pt"
    assert chosen_file(tmp_path / "model.pt") == (tmp_path / "model.pt", "")
    torch.save({}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"has 2 checkpoints, .*: model.pt, other.pt; give one"):
        chosen_file(tmp_path)


def pieces_of_fsdp(folder: Path) -> None:
    (folder / "epoch=1.ckpt").mkdir()
    (folder / "epoch=1.ckpt" / "__0_0.distcp").touch()


def pieces_of_deepspeed(folder: Path) -> None:
    (folder / "latest").write_text("global_step3")


def many(folder: Path) -> None:
    for number in range(1001):
        (folder / f"{number}.png").touch()


@pytest.mark.parametrize(
    ("make", "words"),
    [(pieces_of_fsdp, "in pieces"), (pieces_of_deepspeed, "in pieces"), (many, "more than 1000 files")],
)
def test_folders_of_other_kinds_are_refused(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=words):
        chosen_file(tmp_path)
