"""The command `mia-lightning` in this process, as the fixture `call` gives it: that spares the imports."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from mia_lightning.command.main import main


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Ended]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """`mia-lightning` in an empty folder."""

    def run_here(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["mia-lightning", *arguments])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            GlobalHydra.instance().clear()
        return Ended(code, *capfd.readouterr())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # restored afterwards: main sets it
    monkeypatch.delenv("WANDB_MODE", raising=False)
    yield run_here
    for name in ("my_package", "broken"):
        sys.modules.pop(name, None)
