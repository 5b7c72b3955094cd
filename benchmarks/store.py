"""What the store saves a second attack, and what it costs the first.

    python benchmarks/store.py [--shadows 64] [--epochs 100] [--rounds 5] [--json FILE] [--quick]

Each time is that of a whole process of its own,

    mia-lightning dataset=digits shadow.count=64 training.epochs=100 attack=...

from its start, imports included, to its first score (an attack's, of all records of the target: `timed_attack.py`) or
to its end. In each round the processes take turns:

- without a store: `attack=class_confidence store.dir=null`;
- an empty store: the same, `store.dir` being a new folder;
- a second attack: `attack=loss` on that store.

`overhead` is the median over rounds of seconds with an empty store / seconds without a store, each of one round,
minus 1; its range is that of the rounds, and the rounds begin with either in turn. The target is below 3 %, that of
the second attack a first score within seconds.

Ends with 1 where the store changed a score, where the second attack trained a model, or the first found one.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import whole_runs
from tables import render
from this_machine import machine
from timed_attack import CLOCK

HERE = Path(__file__).parent
WITHOUT, EMPTY, SECOND = "without a store", "an empty store", "a second attack"
FIRST_ATTACK = ("class_confidence", "mia_lightning.attacks.thresholds.ClassConfidence")
SECOND_ATTACK = ("loss", "mia_lightning.attacks.loss.Loss")
HEADER = ("run", "to the first score, s", "min to max", "to the end, s", "min to max", "found", "trained")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """One process: seconds from its start, and models by role that it found and trained."""

    first_score: float
    seconds: float
    found: dict[str, int]
    trained: dict[str, int]
    scores: list[float]


def run(settings: Sequence[str], attack: tuple[str, str], folder: Path) -> Ended:
    """`mia-lightning` with these settings and a timed attack, in a new folder."""
    folder.mkdir(parents=True)
    own = folder / "conf" / "attack"
    own.mkdir(parents=True)
    name, target = attack
    (own / "timed.yaml").write_text(
        f"# @package attack.{name}\n_target_: timed_attack.Timed\nattack:\n  _target_: {target}\n"
    )
    clock = folder / "first_score.txt"
    arguments = [
        *("--config-dir", str(folder / "conf"), "attack=timed", "logger=none", "trainer.accelerator=cpu"),
        *(f"hydra.run.dir={folder / 'run'}", *settings),
    ]
    began = time.time()
    seconds = whole_runs.timed_run(arguments, environment={CLOCK: str(clock)}, folder=HERE)
    store = json.loads((folder / "run" / "report.json").read_text())["run"]["store"]
    return Ended(
        first_score=float(clock.read_text()) - began,
        seconds=seconds,
        found={role: models["found"] for role, models in store.items()},
        trained={role: models["trained"] for role, models in store.items()},
        scores=pq.read_table(folder / "run" / "scores.parquet")["score"].to_pylist(),
    )


def measure(settings: Sequence[str], rounds: int, folder: Path) -> dict[str, list[Ended]]:
    """All rounds, by run; before them a short run, so that files are read from memory in all."""
    short = ["training.epochs=1", "shadow.count=2", "store.dir=null"]
    run([*settings, *short], FIRST_ATTACK, folder / "short")
    ended: dict[str, list[Ended]] = {WITHOUT: [], EMPTY: [], SECOND: []}
    for number in range(rounds):
        store = folder / f"store_{number}"
        turns = [(WITHOUT, "null", FIRST_ATTACK), (EMPTY, str(store), FIRST_ATTACK)]
        for name, place, attack in (
            *(turns if number % 2 == 0 else reversed(turns)),
            (SECOND, str(store), SECOND_ATTACK),
        ):
            own = folder / f"{number}_{name.replace(' ', '_')}"
            ended[name].append(run([*settings, f"store.dir={place}"], attack, own))
    return ended


def overheads(ended: dict[str, list[Ended]]) -> list[float]:
    """Of each round, as a share."""
    pairs = zip(ended[EMPTY], ended[WITHOUT], strict=True)
    return [kept.seconds / plain.seconds - 1 for kept, plain in pairs]


def broken(ended: dict[str, list[Ended]], num_models: int) -> str | None:
    """What is not as it must be: the same scores with and without a store, and no model trained twice."""
    if any(kept.scores != plain.scores for kept, plain in zip(ended[EMPTY], ended[WITHOUT], strict=True)):
        return "scores with a store differ from those without"
    if any(sum(each.found.values()) or sum(each.trained.values()) != num_models for each in ended[EMPTY]):
        return f"a run with an empty store did not train {num_models} models"
    if any(sum(each.trained.values()) or sum(each.found.values()) != num_models for each in ended[SECOND]):
        return f"a second attack did not find {num_models} models"
    return None


def row(name: str, ended: Sequence[Ended]) -> tuple[str, ...]:
    """One line of the table."""

    def cells(seconds_R: list[float]) -> tuple[str, str]:
        return f"{statistics.median(seconds_R):.2f}", f"{min(seconds_R):.2f} to {max(seconds_R):.2f}"

    def models(by_role: dict[str, int]) -> str:
        return str(sum(by_role.values())) if by_role else "–"

    times = (*cells([each.first_score for each in ended]), *cells([each.seconds for each in ended]))
    return (name, *times, models(ended[-1].found), models(ended[-1].trained))


def main(given: Sequence[str] | None = None) -> int:
    """Run, print the table as Markdown, and write it as JSON where asked; 0, or 1 for a result that is broken."""
    options = arguments(given)
    about = machine(torch.device("cpu"))
    settings = ["dataset=digits", f"shadow.count={options.shadows}", f"training.epochs={options.epochs}"]
    with tempfile.TemporaryDirectory() as temporary:
        ended = measure(settings, options.rounds, Path(temporary))
    ratios = overheads(ended)
    print(f"{about}\n\n{render(HEADER, [row(name, each) for name, each in ended.items()])}\n")
    print(
        f"Overhead of the store on a first run: {100 * statistics.median(ratios):.1f} % "
        f"({100 * min(ratios):.1f} to {100 * max(ratios):.1f}). {' '.join(settings)}; medians; rounds: "
        f"{options.rounds}."
    )
    if options.json:
        times = {name: [{**asdict(each), "scores": len(each.scores)} for each in runs] for name, runs in ended.items()}
        content: dict[str, Any] = {"machine": about, "settings": settings, "runs": times, "overhead": ratios}
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    return whole_runs.exit_code(broken(ended, options.shadows + 1))


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    return whole_runs.arguments(given, about=__doc__ or "", rounds=5, what="all three runs")


if __name__ == "__main__":
    sys.exit(main())
