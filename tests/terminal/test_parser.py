"""What all commands have in common."""

import subprocess
import sys
from collections.abc import Callable

import pytest

import mia_lightning as mia
from mia_lightning.comparison.differences.command import main as compare
from mia_lightning.dashboard.command import main as dashboard
from mia_lightning.serve.command import main as serve
from mia_lightning.store.command import main as store


@pytest.mark.parametrize(
    ("main", "arguments", "name"),
    [
        (store, [], "mia-store"),
        (store, ["prune"], "mia-store"),
        (dashboard, [], "mia-dashboard"),
        (dashboard, ["wandb"], "mia-dashboard"),
        (compare, [], "mia-compare"),
        (serve, [], "mia-serve"),
        (serve, ["google_prediction"], "mia-serve"),
    ],
)
def test_every_command_says_its_version(
    main: Callable[[list[str]], None], arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{name} {mia.__version__}\n"


@pytest.mark.parametrize("arguments", [["--version"], ["model=mlp", "--version"]])
def test_the_main_command_says_its_version_among_settings(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mia_lightning", *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"mia-lightning {mia.__version__}\n"
