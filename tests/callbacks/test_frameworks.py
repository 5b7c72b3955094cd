"""The callbacks where people have them: in the YAML of LightningCLI, and with `lightning.pytorch`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import yaml
from lit_project import Lit, loaders
from pytorch_lightning.cli import LightningCLI

import mia_lightning as mia

HERE = Path(__file__).parent
# Of pytorch-lightning 2.6 on jsonargparse 4.53, seen 2026-11.
pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
CALLBACKS = """
- class_path: mia_lightning.LeakageMonitor
  init_args: {members: 100, nonmembers: all, every_n_epochs: 2}
- class_path: mia_lightning.BestWithin
  init_args: {monitor: val_loss, auc: 0.99}
- class_path: mia_lightning.LeakageLimit
  init_args: {auc: 0.95, mode: proved}
"""


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> object:
        return loaders()[0]

    def val_dataloader(self) -> object:
        return loaders()[1]


def configured(folder: Path, callbacks: str) -> dict[str, object]:
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    own = {
        "accelerator": "cpu",
        "max_epochs": 4,
        "default_root_dir": str(folder),
        "callbacks": yaml.safe_load(callbacks),
    }
    return {"trainer": quiet | own}


def run(path: Path, monkeypatch: pytest.MonkeyPatch) -> LightningCLI:
    monkeypatch.setattr(sys, "argv", ["main.py", "fit", "--config", str(path)])
    return LightningCLI(Lit, Data, save_config_callback=None, seed_everything_default=0)


@pytest.mark.filterwarnings("ignore:The held-out records")  # said: BestWithin chooses by them
def test_the_lines_in_the_yaml_of_a_lightning_cli_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(configured(tmp_path, CALLBACKS)))
    cli = run(path, monkeypatch)
    monitor, limit, best = (
        next(each for each in cli.trainer.callbacks if isinstance(each, kind))
        for kind in (mia.LeakageMonitor, mia.LeakageLimit, mia.BestWithin)
    )
    assert (monitor.members, monitor.nonmembers) == (100, "all")
    assert [look.epoch for look in monitor.trace] == [1, 3]
    assert (limit.mode, limit.auc, best.best_epoch in (1, 3)) == ("proved", 0.95, True)


def test_the_two_lines_of_the_page_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(configured(tmp_path, "- class_path: mia_lightning.LeakageMonitor")))
    cli = run(path, monkeypatch)
    monitor = next(each for each in cli.trainer.callbacks if isinstance(each, mia.LeakageMonitor))
    assert len(monitor.trace) == 4


@pytest.mark.slow
def test_a_trainer_of_lightning_pytorch_takes_the_callbacks(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "lightning_fit.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    *_, looks, is_logged, audit, refusal = ran.stdout.splitlines()
    assert (looks, is_logged, audit) == ("[0, 1] True 1", "True", "given Lit True")
    assert "max_time" in refusal
