"""Artefacts for tests of the store, disks that refuse them, and other processes that use it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mia_lightning.errors import InputError
from mia_lightning.store.artefacts import Store

FIELDS = {"role": "shadow", "rate": 0.1, "none": None, "list": [1, [2, "é"]], "deep": {"a": {"b": True}}}
PLACE = "models/ab/cd"
A, B, C = "a" * 40, "b" * 40, "c" * 40


def writes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def files(store: Store) -> list[str]:
    return sorted(path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*") if path.is_file())


class StoppedError(Exception):
    pass


def refuse(number: int) -> Callable[..., None]:
    def refusing(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    return refusing


def said(raised: pytest.ExceptionInfo[InputError], store: Store, reason: str) -> None:
    text = str(raised.value)
    for part in (str(store.folder), reason, "set store.dir", "What was finished before is kept."):
        assert part in text
    assert "\n" not in text


def python(script: str, store: Store, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own; it imports no torch."""
    kept = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", script, str(store.folder), *arguments]
    return subprocess.Popen(command, env=kept, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> int:
    """Its exit code."""
    process.communicate()
    return process.returncode
