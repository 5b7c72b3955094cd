"""A small store, and `mia-store` in this process."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mia_lightning.store.artefacts import Store
from mia_lightning.store.command import main

DAY = 86400

OLD, NEW = ["a" * 40, "b" * 40], ["c" * 40]

STACK, OTHER = "5" * 40, "6" * 40

ASKED = "7" * 40


class Ended:
    def __init__(self, code: object, out: str, error: str) -> None:
        self.code, self.out, self.error = code, out, error


Call = Callable[..., Ended]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: str | Path) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        out, error = capsys.readouterr()
        return Ended(ended.value.code, out, error)

    return run


def writes(size: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(b"0" * size)


def aged(store: Store, place: str, days: float) -> None:
    moment = time.time() - days * DAY
    os.utime(store.folder / f"{place}.json", (moment, moment))


def put_training(
    store: Store, name: str, keys: list[str], *, process: int, host: str | None = None, **given: Any
) -> None:
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - given.get("days", 0) * DAY))
    fields = {"keys": keys, "role": "shadow", "host": host or socket.gethostname(), "process": process}
    store.put(f"running/{name}", fields | {"started": started})
    store.put(f"running/{name}-checkpoint", {"role": "shadow", "epoch": 7}, writes(50))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two stacks: two models of 40 days with answers of 40 and of 5 days, and one of today; 100 bytes a model."""
    store = Store(dir=tmp_path / "store")
    with store.locked(OLD):
        pass
    network = {"call": {"class": "nets.Wide"}, "with": [3], "named": {"items": []}}
    store.put(f"stacks/{STACK}", {"role": "shadow", "seed": 4, "model": network, "training": {"epochs": 20}})
    store.put(f"stacks/{OTHER}", {"role": "target", "seed": 0, "model": {"function": "nets.make"}, "training": {}})
    for key in OLD:
        store.put(f"models/{STACK}/{key}", {"model": 0}, writes(100))
        aged(store, f"models/{STACK}/{key}", 40)
        store.put(f"answers/{ASKED}/{key}", {"model": key}, writes(1000))
    aged(store, f"answers/{ASKED}/{OLD[0]}", 40)
    aged(store, f"answers/{ASKED}/{OLD[1]}", 5)
    for key in NEW:
        store.put(f"models/{OTHER}/{key}", {"model": 0}, writes(100))
    store.put("syntheses/one", {"num_queries": 5}, writes(300))
    store.put("plans/one", {"role": "shadow"})
    return store


@pytest.fixture
def ended_process() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
