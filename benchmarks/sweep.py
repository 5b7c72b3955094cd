"""A sweep of 24 runs over 4 stacks of shadow models, with one store, beside the same 24 from nothing.

    python benchmarks/sweep.py [--shadows 64] [--epochs 100] [--rounds 3] [--json FILE] [--quick]

The sweep is the command

    mia-lightning -m hydra/launcher=local dataset=digits seed=0,1 model=mlp,relu_mlp \\
        attack=shokri,loss,class_confidence "defense=[],[top_k]"

whose runs follow one another in one process. Two seeds and two architectures make 4 stacks (a target and its shadow
models each), three attacks and two output defences 6 runs of each. `--quick` leaves out seed 1: 12 runs over 2 stacks,
with fewer models and epochs. The sweep is run with a
new, empty store and with `store.dir=null`, in turn, and `seconds` is the median over rounds from start to end of the
process. How many models were found and trained is read from the runs' reports. A stack counts as trained where a run
trained shadow models.

Ends with 1 where a figure differs between the two, or where with a store not exactly 2 stacks a seed were trained.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import whole_runs
from tables import render
from this_machine import machine

SEEDS = (0, 1)
MODELS = "model=mlp,relu_mlp"
ATTACKS = "attack=shokri,loss,class_confidence"
DEFENSES = "defense=[],[top_k]"
RUNS_OF_A_SEED, STACKS_OF_A_SEED = 12, 2
SHARED, NOTHING = "one store", "each from nothing"
HEADER = ("sweep", "seconds", "min to max", "times as fast", "stacks trained", "models trained", "models found")


@dataclass(frozen=True, kw_only=True)
class Swept:
    """One sweep.

    Attributes:
        seconds: of the process.
        stacks_trained: runs that trained shadow models; null without a store, where all do and no report counts them.
        trained, found: models, over all runs; null without a store.
        figures: by run, the overall AUC and the advantage of its attack.
    """

    seconds: float
    stacks_trained: int | None
    trained: int | None
    found: int | None
    figures: dict[str, tuple[float | None, float | None]]


def sweep(settings: Sequence[str], seeds: Sequence[int], store: str, folder: Path) -> Swept:
    """Run it, in a new folder."""
    arguments = [
        *("-m", "hydra/launcher=local", "dataset=digits", f"seed={','.join(map(str, seeds))}"),
        *(MODELS, ATTACKS, DEFENSES, *settings),
        *(f"store.dir={store}", f"hydra.sweep.dir={folder}"),
        *("logger=none", "trainer.accelerator=cpu", "trainer.progress_bar=false"),
    ]
    seconds = whole_runs.timed_run(arguments)
    reports = {place.parent.name: json.loads(place.read_text()) for place in folder.glob("*/report.json")}
    num_runs = RUNS_OF_A_SEED * len(seeds)
    if len(reports) != num_runs:
        raise SystemExit(f"{' '.join(arguments)} left {len(reports)} reports, and {num_runs} were to be run")
    return summed(seconds, reports)


def summed(seconds: float, reports: dict[str, dict[str, Any]]) -> Swept:
    """What the reports of a sweep, by run, say of its models and figures."""
    stores = [report["run"]["store"] for report in reports.values()]
    is_kept = any(stores)
    models = [models for store in stores for models in store.values()]
    figures = {name: report["attacks"][0]["overall"] for name, report in sorted(reports.items())}
    return Swept(
        seconds=seconds,
        stacks_trained=sum(store["shadow"]["trained"] > 0 for store in stores) if is_kept else None,
        trained=sum(each["trained"] for each in models) if is_kept else None,
        found=sum(each["found"] for each in models) if is_kept else None,
        figures={name: (each["auc"]["value"], each["advantage"]["value"]) for name, each in figures.items()},
    )


def broken(swept: dict[str, list[Swept]], num_seeds: int) -> str | None:
    """What is not as it must be."""
    trained, num_stacks = {each.stacks_trained for each in swept[SHARED]}, STACKS_OF_A_SEED * num_seeds
    if trained != {num_stacks}:
        return f"with a store {' or '.join(map(str, trained))} stacks were trained, and there are {num_stacks}"
    if any(kept.figures != plain.figures for kept, plain in zip(swept[SHARED], swept[NOTHING], strict=True)):
        return "figures with a store differ from those without"
    return None


def row(name: str, swept: Sequence[Swept], slowest: float) -> tuple[str, ...]:
    """One line of the table."""
    seconds = [each.seconds for each in swept]
    median = statistics.median(seconds)
    counts = (swept[-1].stacks_trained, swept[-1].trained, swept[-1].found)
    return (
        *(name, f"{median:.1f}", f"{min(seconds):.1f} to {max(seconds):.1f}", f"{slowest / median:.2f}"),
        *("–" if count is None else str(count) for count in counts),
    )


def main(given: Sequence[str] | None = None) -> int:
    """Run, print the table as Markdown, and write it as JSON where asked; 0, or 1 for a result that is broken."""
    options = arguments(given)
    about = machine(torch.device("cpu"))
    settings = [f"shadow.count={options.shadows}", f"training.epochs={options.epochs}"]
    seeds = SEEDS[:1] if options.quick else SEEDS
    swept: dict[str, list[Swept]] = {NOTHING: [], SHARED: []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number in range(options.rounds):
            for name in (SHARED, NOTHING) if number % 2 else (NOTHING, SHARED):
                store = str(folder / f"store_{number}") if name == SHARED else "null"
                swept[name].append(sweep(settings, seeds, store, folder / f"{number}_{name.replace(' ', '_')}"))
    slowest = statistics.median([each.seconds for each in swept[NOTHING]])
    print(f"{about}\n\n{render(HEADER, [row(name, each, slowest) for name, each in swept.items()])}\n")
    print(f"{' '.join(settings)}; rounds: {options.rounds}, medians.")
    if options.json:
        sweeps = {name: [asdict(each) for each in each_round] for name, each_round in swept.items()}
        content = {"machine": about, "settings": settings, "sweeps": sweeps}
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    return whole_runs.exit_code(broken(swept, len(seeds)))


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    return whole_runs.arguments(given, about=__doc__ or "", rounds=3, what="both sweeps")


if __name__ == "__main__":
    sys.exit(main())
