"""Time and memory of training a stack against the number of models, of records and the width of the networks.

    python benchmarks/scaling.py [--device cpu|cuda] [--rounds 3] [--json FILE] [--quick]

Around one setting (64-128-128-10, tanh, 300 records, batch 50, Adam, 16 models) one size at a time is changed. Every
point is a process of its own, which trains once to warm up, then `--rounds` times for the epochs that make about the
same work; `s / epoch` is the median. `slope` is how the time grows from the point before: log(time ratio) / log(size
ratio), 1 for a straight line through zero, 0 for work that is free. `peak` is the memory of the process at its highest
less that before the stack was built (on CUDA: what was allocated there); `a model` divides it by the number of models.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from shadow_training import LEARNING_RATE
from this_machine import machine
from training_settings import DIGITS, Vectors, make_case, operations

from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

CudaGraphs = bool | Literal["auto"]

HEADER = ("changed", "models", "records", "width", "s / epoch", "ms / model", "slope", "GFLOP/s", "peak MiB", "a model")


@dataclass(frozen=True)
class Point:
    """Sizes of one measurement."""

    changed: str
    models: int = 16
    records: int = 300
    width: int = 128

    @property
    def size(self) -> int:
        """What is changed along its row of points."""
        return int(getattr(self, self.changed))

    @property
    def setting(self) -> Vectors:
        population = max(DIGITS.population, self.records)
        return replace(DIGITS, population=population, records=self.records, hidden=(self.width, self.width))


POINTS = (
    *(Point("models", models=2**j) for j in range(11)),
    *(Point("records", records=records) for records in (100, 300, 1000, 3000, 10000, 30000)),
    *(Point("width", width=2**j) for j in range(5, 11)),
)
QUICK = (Point("models", models=1), Point("models", models=2), Point("width", models=2, width=32))


@dataclass(frozen=True)
class Measured:
    """Seconds of one epoch of all models in each round, and bytes above those before the stack was built."""

    seconds_R: list[float]
    peak: int

    @property
    def seconds(self) -> float:
        return statistics.median(self.seconds_R)


def measure(
    point: Point, device: torch.device, rounds: int, least_seconds: float, *, cuda_graphs: CudaGraphs = "auto"
) -> Measured:
    """Train the stack of `point`; called in a process of its own, whose peak memory is the point's."""
    case = make_case(point.setting, device, epochs=1)
    engine = Engine(
        seed=0,
        settings=TrainerSettings(accelerator="gpu" if device.type == "cuda" else "cpu", progress_bar=False),
    )
    records_K = [case.records(k) for k in range(point.models)]

    def train(epochs: int) -> float:
        recipe = Recipe(
            epochs=epochs,
            batch_size=point.setting.batch_size,
            optimizer=partial(torch.optim.Adam, lr=LEARNING_RATE),
            execution="stack",
            cuda_graphs=cuda_graphs,
        )
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        engine.run(
            TrainingJob(
                seed=engine.seed,
                role="shadow",
                make_network=case.make_network,
                population=case.population,
                records_K=records_K,
                recipe=recipe,
            )
        )
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    before = _peak(device)
    once = train(1)
    epochs = max(2, math.ceil(least_seconds / max(train(2) / 2, 1e-3)))
    seconds_R = [train(epochs) / epochs for _ in range(rounds)]
    del once
    return Measured(seconds_R=seconds_R, peak=_peak(device) - before)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def measure_apart(point: Point, options: argparse.Namespace) -> Measured:
    """`measure` in a new process."""
    command = [sys.executable, __file__, "--point", json.dumps(asdict(point)), "--device", options.device]
    command += ["--rounds", str(options.rounds), *(["--quick"] if options.quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the point {point} ended with {done.returncode}:\n{done.stderr}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def rows(measured: Sequence[tuple[Point, Measured]]) -> list[tuple[str, ...]]:
    """One row for each point."""
    table: list[tuple[str, ...]] = []
    before: tuple[Point, Measured] | None = None
    for point, result in measured:
        slope = "–"
        if before is not None and before[0].changed == point.changed:
            ratio = result.seconds / before[1].seconds
            slope = f"{math.log(ratio) / math.log(point.size / before[0].size):.2f}"
        before = (point, result)
        one = operations(make_case(point.setting, torch.device("cpu"), epochs=1).make_network(), point.records, 1)
        table.append(
            (
                *(point.changed, str(point.models), str(point.records), str(point.width)),
                *(f"{result.seconds:.4f}", f"{1e3 * result.seconds / point.models:.3f}", slope),
                f"{one * point.models / result.seconds / 1e9:.1f}",
                *(f"{result.peak / 2**20:.0f}", f"{result.peak / point.models / 2**20:.2f}"),
            )
        )
    return table


def main(given: Sequence[str] | None = None) -> int:
    """Measure all points, print the table as Markdown, and write it as JSON where asked; 0."""
    options = arguments(given)
    device = torch.device(options.device)
    least_seconds = 0.0 if options.quick else 1.0
    if options.point is not None:
        print(json.dumps(asdict(measure(Point(**json.loads(options.point)), device, options.rounds, least_seconds))))
        return 0
    about = machine(device)
    measured = [(point, measure_apart(point, options)) for point in (QUICK if options.quick else POINTS)]
    table = rows(measured)
    print(about)
    for line in (HEADER, ("---",) * len(HEADER), *table):
        print(f"| {' | '.join(line)} |")
    if options.json:
        points = [{**asdict(point), **asdict(result)} for point, result in measured]
        options.json.write_text(json.dumps({"machine": about, "points": points}, indent=2) + "\n")
    return 0


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for all times")
    parser.add_argument("--quick", action="store_true", help="three small points, to test the script")
    parser.add_argument("--point", help=argparse.SUPPRESS)  # of the process that measures it
    options = parser.parse_args(given)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, but torch sees no GPU; use --device cpu")
    return options


if __name__ == "__main__":
    sys.exit(main())
