"""A warm process from which audits are forked, killed and started again; a script that prints what it found as JSON.

    python tests/killed_runs.py FOLDER SEEDS

For each seed an audit starts in a folder and a store of its own, is killed without warning at a moment that the seed
decides, and is started again until it ends. Everything is imported once, before the first fork, with a single thread.
"""

import json
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import mia_lightning as mia
from mia_lightning import scoring
from mia_lightning.models.mlp import MLP
from mia_lightning.store import Store

NOWHERE, TRAINING, WRITING, SCORING = range(4)
PHASES = ("elsewhere", "training", "writing", "scoring")
# Shared with the forked process: the phase it is in, and how often it entered each.
state = mmap.mmap(-1, 8)


def in_phase(phase: int, function: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any, **named: Any) -> Any:
        before, state[0] = state[0], phase
        state[1 + phase] = min(255, state[1 + phase] + 1)
        try:
            return function(*args, **named)
        finally:
            state[0] = before

    return called


def audit(folder: Path) -> None:
    numbers = torch.Generator().manual_seed(0)
    x_N = torch.randn(160, 6, generator=numbers)
    mia.audit(
        x_N,
        torch.arange(160) % 3,
        model=partial(MLP, hidden=[8], dropout=0.1),
        membership=mia.Disjoint(train_size=30),
        shadow=mia.Real(count=6),
        training=mia.Recipe(epochs=6, batch_size=10, chunk=2, optimizer=partial(torch.optim.Adam, lr=0.01)),
        store=Store(dir=folder / "store", checkpoint_minutes=0),
        output=folder / "run",
    )


def forked(folder: Path) -> int:
    state[:] = bytes(8)
    process = os.fork()
    if process == 0:
        code = 1
        try:
            audit(folder)
            code = 0
        finally:
            os._exit(code)
    return process


def killed(process: int, is_time: Callable[[], bool]) -> str | None:
    """The phase in which the process was killed; None where it had ended."""
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return None
        if is_time():
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return PHASES[state[0]]
        time.sleep(0.0002)


def moment(numbers: random.Random, seconds: float, phase: int | None) -> Callable[[], bool]:
    """At any time of a run, or soon after it entered the phase for the so many-th time."""
    start = time.monotonic()
    if phase is None:
        after = numbers.uniform(0, 0.8 * seconds)  # the first run took a little longer than others will
        return lambda: time.monotonic() - start > after
    times = numbers.randint(1, 2 if phase == SCORING else 12)
    late = numbers.uniform(0, 0.0005 if phase == WRITING else 0.004)  # a file is written in a millisecond
    entered: list[float] = []

    def is_time() -> bool:
        if state[1 + phase] >= times and not entered:
            entered.append(time.monotonic())
        return bool(entered) and time.monotonic() - entered[0] > late

    return is_time


def main(root: Path, seeds: int) -> None:
    torch.set_num_threads(1)
    pl.Trainer.fit = in_phase(TRAINING, pl.Trainer.fit)  # type: ignore[method-assign]
    Store.put = in_phase(WRITING, Store.put)  # type: ignore[method-assign]
    scoring._run = in_phase(SCORING, scoring._run)
    start = time.monotonic()
    assert killed(forked(root / "undisturbed"), lambda: False) is None
    seconds = time.monotonic() - start
    found: list[dict[str, Any]] = []
    for seed in range(seeds):
        numbers = random.Random(seed)
        phases: list[str] = []
        for attempt in range(3):
            phase = None if seed % 2 else (TRAINING, WRITING, SCORING)[(seed // 2 + attempt) % 3]
            hit = killed(forked(root / str(seed)), moment(numbers, seconds, phase))
            if hit is None:
                break
            phases.append(hit)
        else:
            assert killed(forked(root / str(seed)), lambda: False) is None
        found.append({"seed": seed, "killed": phases})
    print(json.dumps({"seconds": seconds, "runs": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
