"""The scripts of `benchmarks/`, imported or run as they are from a command line."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, beside which the others can be imported."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def run(name: str, *arguments: str, forks: Path | None = None, seconds: float = 600) -> str:
    """What the script prints on one thread; it must end well and say nothing on stderr.

    Args:
        forks: the folder of commands that spare the imports; None where the memory of a new process counts.
    """
    python = sys.executable if forks is None else str(forks / "python")
    command = [python, str(BENCHMARKS / f"{name}.py"), *arguments]
    # On busy cores threads that wait for each other make a run many times longer.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return ran.stdout


def cells(line: str) -> list[str]:
    """Of a line of a table."""
    return [cell.strip() for cell in line.strip("|").split("|")]
