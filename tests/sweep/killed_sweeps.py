"""Sweeps that are killed while they write and started again; a script that prints what it found as JSON.

python tests/sweep/killed_sweeps.py FOLDER SEEDS
"""

import json
import math
import os
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from kills import PHASES, WRITING, last_call, run, state, within_phase

import mia_lightning.audit  # imported before the first fork
import mia_lightning.comparison.reading
import mia_lightning.reports.page.html
import mia_lightning.reports.pictures
from mia_lightning.command.main import main as command
from mia_lightning.store import artefacts, atomic

SETTINGS = (
    *("--multirun", "seed=0,1", "dataset.train_size=40", "shadow.count=2", "attack=loss", "logger=none"),
    *("training.epochs=2", "trainer.progress_bar=false", "store.dir=store", "hydra.sweep.dir=sweep"),
)


def sweep(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = ["mia-lightning", *SETTINGS]
    try:
        command()
    except SystemExit as ended:
        if ended.code != 0:
            raise


def main(root: Path, seeds: int) -> None:
    torch.set_num_threads(1)
    # Pictures take most of the time of so small a run, and are written as any other file is.
    mia_lightning.reports.pictures.png_figures = lambda *_: {"figures/roc.png": b"picture"}
    mia_lightning.reports.page.html.html_page = lambda *_: "page"
    atomic.whole = artefacts.whole = within_phase(WRITING, atomic.whole)
    assert run(partial(sweep, root / "undisturbed"), counts=True) is None
    calls = state[1 + WRITING]
    found: list[dict[str, Any]] = []
    for seed in range(seeds):
        numbers, work = random.Random(seed), partial(sweep, root / str(seed))
        phases: list[str] = []
        for attempt in range(2):
            last_call[WRITING] = numbers.uniform(0, calls / (1 + attempt))
            phase = run(work)
            phases += [] if phase is None else [phase]
        last_call[WRITING] = math.inf
        assert run(work) is None
        found.append({"seed": seed, "killed": phases})
    assert all(phase in PHASES for each in found for phase in each["killed"])
    print(json.dumps({"calls": calls, "sweeps": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
