"""Whole runs on two cores that other processes use, too: alone, beside two busy loops, and under a quota of one core.

    python benchmarks/shared_machine.py [--data /data/location] [--shadows 64] [--epochs 100] [--rounds 3] [--json FILE]
                                        [--before] [--quick]

The runs are the default command (digits) and, with `--data`, Location with 60 shadow models. This process and all that
it starts are bound to two cores. In each round every run is made in turn:

    alone             as the command is
    alone, all        with all threads in every stage, which spin while they wait: as torch does by itself
    beside            while two processes count in a loop; a fair share of the cores is half of them
    quota             in a cgroup that may use one core of the two
    quota, one        in the same group, with one thread

`seconds` is the median over rounds from start to end of the process, imports included; a first run of each command
warms up. The ratios are `alone` to `alone, all` (1.03 at most), `beside` to `alone` (3 at most) and `quota` to `quota,
one` (1.1 at most). A quota needs a writable folder of cgroups, mostly root; without one its runs are left out.
`--before` adds `beside, all`, which may take a hundred times as long. `--quick` has neither quota nor first runs.

Ends with 1 where the figures of two runs differ by more than the order of sums explains (1e-3).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import whole_runs
from tables import render
from this_machine import machine

from mia_lightning.training.plan.cgroups import ROOT

CORES = 2
ALONE, ALL, BESIDE, BESIDE_ALL, QUOTA, ONE = (
    *("alone", "alone, all", "beside", "beside, all"),
    *("quota", "quota, one"),
)
LIMITS = {ALONE: (ALL, 1.03), BESIDE: (ALONE, 3.0), QUOTA: (ONE, 1.1)}
SPINNING = {"GOMP_SPINCOUNT": "300000"}  # what GNU's library takes where nothing is set
HEADER = ("run", "seconds", "min to max", "ratio", "at most", "to")
FAR = 1e-3  # of an AUC


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to run a command.

    Attributes:
        settings, environment: beside the command's own.
        around: what happens meanwhile; it gives the words of a command that runs the run.
    """

    settings: Sequence[str] = ()
    environment: Mapping[str, str] | None = None
    around: Callable[[], AbstractContextManager[Sequence[str]]] = lambda: nullcontext(())


@contextmanager
def busy_loops() -> Iterator[Sequence[str]]:
    """As many processes that count as there are cores."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(CORES)]
    try:
        yield ()
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextmanager
def quota_of_one_core() -> Iterator[Sequence[str]]:
    """A cgroup of either version with a quota; it gives a command that enters it.

    Raises:
        OSError: no such group can be made here.
    """
    version_1 = (ROOT / "cpu").is_dir()
    group = (ROOT / "cpu" if version_1 else ROOT) / f"mia_lightning_{os.getpid()}"
    group.mkdir()
    try:
        if version_1:
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text("100000")
        else:
            (group / "cpu.max").write_text("100000 100000")
        yield ("/bin/sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh")
    finally:
        group.rmdir()


def has_quota() -> bool:
    try:
        with quota_of_one_core():
            return True
    except OSError:
        return False


def variants(*, quota: bool, before: bool) -> dict[str, Variant]:
    """By name, in the order in which they run."""
    all_threads = Variant(
        settings=(f"training.threads={CORES}", f"attack.shokri.training.threads={CORES}"), environment=SPINNING
    )
    found = {ALONE: Variant(), ALL: all_threads, BESIDE: Variant(around=busy_loops)}
    if before:
        found[BESIDE_ALL] = Variant(
            settings=all_threads.settings, environment=all_threads.environment, around=busy_loops
        )
    if quota:
        found[QUOTA] = Variant(around=quota_of_one_core)
        found[ONE] = Variant(environment={"OMP_NUM_THREADS": "1"}, around=quota_of_one_core)
    return found


def measured(command: Sequence[str], variant: Variant, folder: Path) -> tuple[float, list[float]]:
    """Seconds of a run in a new folder, and the AUC of each of its attacks."""
    arguments = [
        *(*command, *variant.settings, f"hydra.run.dir={folder}", "store.dir=null"),
        *("logger=none", "trainer.accelerator=cpu", "trainer.progress_bar=false"),
    ]
    with variant.around() as within:
        seconds = whole_runs.timed_run(arguments, environment=variant.environment, within=within)
    report = json.loads((folder / "report.json").read_text())
    return seconds, [attack["overall"]["auc"]["value"] for attack in report["attacks"]]


def table_of(name: str, seconds: Mapping[str, Sequence[float]]) -> list[tuple[str, ...]]:
    """The lines of a command."""
    median = {variant: statistics.median(each) for variant, each in seconds.items()}
    rows: list[tuple[str, ...]] = []
    for variant, each in seconds.items():
        base, limit = LIMITS.get(variant, (BESIDE if variant == BESIDE_ALL else ALONE, None))
        ratio = f"{median[variant] / median[base]:.2f}" if variant != base else "–"
        at_most = "–" if limit is None else str(limit)
        span = f"{min(each):.1f} to {max(each):.1f}"
        rows.append((f"{name}: {variant}", f"{median[variant]:.1f}", span, ratio, at_most, base))
    return rows


def broken(figures: Sequence[Sequence[float]]) -> str | None:
    """What is not as it must be."""
    farthest = max(abs(one - other) for each in figures for one, other in zip(each, figures[0], strict=True))
    return f"figures of the same run differ by {farthest:.2g}" if farthest > FAR else None


def main(given: Sequence[str] | None = None) -> int:
    """Run, print the table as Markdown, and write it as JSON where asked; 0, or 1 for a result that is broken."""
    options = arguments(given)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    about = machine(torch.device("cpu"))
    training = f"training.epochs={options.epochs}"
    commands: dict[str, Sequence[str]] = {"default command": (f"shadow.count={options.shadows}", training)}
    if options.data is not None:
        shadows = f"shadow.count={min(60, options.shadows)}"
        commands["Location"] = ("dataset=location", f"dataset.root={options.data}", shadows, training)
    ways = variants(quota=not options.quick and has_quota(), before=options.before)
    content: dict[str, object] = {"machine": about}
    table: list[tuple[str, ...]] = []
    complaints, same = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for name, command in commands.items():
            seconds: dict[str, list[float]] = {variant: [] for variant in ways}
            figures = []
            if not options.quick:
                figures.append(measured(command, Variant(), Path(temporary) / f"{name}_first".replace(" ", "_"))[1])
            for number in range(options.rounds):
                for variant, way in ways.items():
                    folder = Path(temporary) / f"{name}_{variant}_{number}".replace(" ", "_").replace(",", "")
                    taken, found = measured(command, way, folder)
                    seconds[variant].append(taken)
                    figures.append(found)
            table += table_of(name, seconds)
            complaints.append(broken(figures))
            same.append(f"{name}: {len({tuple(each) for each in figures})} different of {len(figures)}")
            content[name] = {"seconds": seconds, "auc": figures}
    print(f"{about}\n\n{render(HEADER, table)}\n")
    print(f"Rounds: {options.rounds}, medians. Figures of all runs, to the bit: {'; '.join(same)}.")
    if options.json:
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    return whole_runs.exit_code(next(filter(None, complaints), None))


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--data", type=Path, help="folder of dataset_location.tgz, for the runs of Location")
        parser.add_argument("--before", action="store_true", help="also all threads, spinning, beside busy loops")

    return whole_runs.arguments(given, about=__doc__ or "", rounds=3, what="all runs", more=more)


if __name__ == "__main__":
    sys.exit(main())
