"""A warm process from which audits are forked, killed and started again; a script that prints what it found as JSON.

    python tests/killed_runs.py FOLDER SEEDS

For each seed an audit starts in a folder and a store of its own, is killed without warning at a moment that the seed
decides, and is started again until it ends. Odd seeds kill by what the audit has computed, at any time; even ones while
the audit trains, writes or scores, at a call (of Python or of C) that the seed draws among all those of the phase, so
that a busy machine changes nothing. Everything is imported once, before the first fork, with a single thread.
"""

import gc
import json
import math
import random
import resource
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities import registry

sys.path.insert(0, str(Path(__file__).parents[1]))
from kills import SCORING, TRAINING, WRITING, in_phase, last_call, run, state
from quick import QUICK_SHOKRI

import mia_lightning as mia
import mia_lightning.reports.page.html
import mia_lightning.reports.pictures
from mia_lightning.attacks.default import DEFAULT_ATTACKS
from mia_lightning.models.mlp import MLP
from mia_lightning.run import scoring
from mia_lightning.store.artefacts import Store


def audit(folder: Path) -> None:
    numbers = torch.Generator().manual_seed(0)
    x_N = torch.randn(160, 6, generator=numbers)
    mia.audit(
        x_N,
        torch.arange(160) % 3,
        model=partial(MLP, hidden=[8], dropout=0.1),
        membership=mia.Disjoint(train_size=30),
        shadow=mia.Real(count=6),
        attacks=[QUICK_SHOKRI, *DEFAULT_ATTACKS[1:]],
        training=mia.Recipe(epochs=6, batch_size=10, chunk=2, optimizer=partial(torch.optim.Adam, lr=0.01)),
        store=Store(dir=folder / "store", checkpoint_minutes=0),
        output=folder / "run",
    )


def main(root: Path, seeds: int) -> None:
    torch.set_num_threads(1)
    # Pictures take most of the time of so small a run, and are written as any other file is.
    mia_lightning.reports.pictures.png_figures = lambda *_: {"figures/roc.png": b"picture"}
    mia_lightning.reports.page.html.html_page = lambda *_: "page"
    pl.Trainer.fit = in_phase(TRAINING, pl.Trainer.fit)  # type: ignore[method-assign]
    Store.put = in_phase(WRITING, Store.put)  # type: ignore[method-assign]
    scoring._run = in_phase(SCORING, scoring._run)
    registry.entry_points = cache(registry.entry_points)  # type: ignore[attr-defined]  # read for each trainer
    gc.collect()
    gc.freeze()  # collecting garbage would copy the memory that forks share
    assert run(partial(audit, root / "undisturbed")) is None
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = used.ru_utime + used.ru_stime
    assert run(partial(audit, root / "counted"), counts=True) is None
    calls = state[1:].tolist()
    found: list[dict[str, Any]] = []
    for seed in range(seeds):
        numbers, work = random.Random(seed), partial(audit, root / str(seed))
        phases: list[str] = []
        for attempt in range(3):
            if seed % 2:
                hit = run(work, numbers.uniform(0, 0.8 * seconds))
            else:
                phase = (TRAINING, WRITING, SCORING)[(seed // 2 + attempt) % 3]
                last_call[phase] = numbers.uniform(0, calls[phase] / (1 + attempt))  # less is left to do each time
                hit = run(work)
                last_call[phase] = math.inf
            if hit is None:
                break
            phases.append(hit)
        else:
            assert run(work) is None
        found.append({"seed": seed, "killed": phases})
    print(json.dumps({"seconds": seconds, "calls": calls, "runs": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
