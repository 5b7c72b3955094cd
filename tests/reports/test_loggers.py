"""Several loggers as one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from mia_lightning.command.mistakes import config_directory
from mia_lightning.errors import InputError
from mia_lightning.loggers.interface import LoggedRun, Loggers, NoLogger, NoRun
from mia_lightning.loggers.tensorboard import TensorBoardReport
from mia_lightning.loggers.wandb import WandbReport
from mia_lightning.reports.schema import AuditReport


class Noted(NoRun):
    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes, self.location = name, notes, name

    def finish(self, report: AuditReport) -> None:
        self.notes.append(f"{self.name} finished with {report.dataset.name}")

    def abort(self, exit_code: int = 1) -> None:
        self.notes.append(f"{self.name} ended")


class Notes:
    """A logger that notes what happens to its runs."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def start(self, folder: Path | None, config: Mapping[str, Any]) -> LoggedRun:
        self.notes.append(f"{self.name} started in {folder} with {dict(config)}")
        return Noted(self.name, self.notes)


class Broken:
    def start(self, folder: Path | None, config: Mapping[str, Any]) -> LoggedRun:
        raise InputError("it is not installed")


def test_each_has_a_run_of_its_own(report: AuditReport) -> None:
    notes: list[str] = []
    with Loggers(loggers={"x": Notes("x", notes), "y": Notes("y", notes)}).start(Path("here"), {"a": 1}) as run:
        assert run.location == "x, y"
        run.finish(report)
    assert notes == [
        *(f"{name} started in here with {{'a': 1}}" for name in "xy"),
        *(f"{name} finished with made-up" for name in "xy"),
        *(f"{name} ended" for name in "xy"),
    ]


def test_one_that_cannot_be_opened_closes_those_before_it() -> None:
    notes: list[str] = []
    with pytest.raises(InputError, match="it is not installed"):
        Loggers(loggers={"x": Notes("x", notes), "y": Broken()}).start(None, {})
    assert notes == ["x started in None with {}", "x ended"]


def test_runs_that_keep_nothing_are_nowhere(report: AuditReport) -> None:
    run = Loggers(loggers={"none": NoLogger()}).start(None, {})
    assert run.location is None
    run.finish(report)
    run.abort(2)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({}, r"`logger.loggers` is \{\}; it must be at least one logger"),
        ({"x": "wandb"}, r"`logger.loggers` is \{'x': 'wandb'\}; it must be at least one logger"),
    ],
)
def test_what_is_no_logger_is_refused(given: Any, part: str) -> None:
    with pytest.raises(InputError, match=part):
        Loggers(loggers=given)


def test_a_logger_without_settings_takes_none() -> None:
    with pytest.raises(InputError, match=r"`logger.mode` is no setting; there are none"):
        NoLogger(mode="offline")  # type: ignore[call-arg]


def test_wandb_and_tensorboard_from_the_command_line() -> None:
    overrides = ["logger=wandb_and_tensorboard", "logger.loggers.wandb.project=mine"]
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        made = instantiate(compose("config", overrides=overrides).logger, _convert_="all")
    assert made == Loggers(loggers={"wandb": WandbReport(project="mine", tags=[]), "tensorboard": TensorBoardReport()})
