"""The memory that an audit takes whose answers are larger than it should hold.

    python benchmarks/memory.py [--models 256] [--records 60000] [--classes 100] [--limit 1] [--json] [--quick]

An audit of one target with K shadow models in complementary pairs on N random records of 32 features; networks
32-16-C, one epoch, since neither memory nor time depends on what they learn. The answers of the shadow models take
4 K N C bytes, 6.1 GB by default; arrays above `--limit` (GiB) lie on disk. Shadow training and each attack are a row:

- `own`: the most memory that the process had to itself (RssAnon, sampled every 10 ms): what counts, and what ends a
  process when there is too little;
- `mapped`: the most pages of files that were mapped beside it (RssFile), its libraries among them. They are copies of
  what is on disk, count in the resident size (`ru_maxrss`), and the kernel drops them when memory is short.

The process ends with 1 where `own` exceeded 4 GiB, the limit for the default sizes. Linux alone has these numbers.
"""

import argparse
import json
import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import torch
from tables import render
from this_machine import machine

import mia_lightning as mia
from mia_lightning.attacks.interface import Attack
from mia_lightning.attacks.lira import Lira
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.rmia import Rmia
from mia_lightning.attacks.shokri import Shokri
from mia_lightning.datasets.population import Population
from mia_lightning.models.mlp import MLP
from mia_lightning.run.observation import Observation, observe_models
from mia_lightning.seeds import generator
from mia_lightning.training.engine import Engine
from mia_lightning.training.plan.room import Room
from mia_lightning.training.step.recipe import Recipe

SEED = 0
NUM_FEATURES = 32
MOST_GIB = 4.0
HEADER = ("stage", "seconds", "own, GiB", "mapped, GiB")
ADAM = partial(torch.optim.Adam, lr=1e-3)


def attacks() -> list[Attack]:
    """The loss, two attacks in closed form, and one that trains networks on all answers."""
    networks = Recipe(epochs=2, batches_per_epoch=100, optimizer=ADAM)
    return [Loss(), Lira(), Rmia(online=False), Shokri(training=networks)]


def make_population(num_records: int, num_classes: int) -> Population:
    numbers = generator(SEED, "benchmark", "memory")
    return Population(
        name="random",
        x_N=torch.randn(num_records, NUM_FEATURES, generator=numbers),
        label_N=torch.randint(num_classes, (num_records,), generator=numbers),
        class_names=tuple(map(str, range(num_classes))),
    )


def observe(population: Population, num_models: int, room: Room) -> Observation:
    engine = Engine(seed=SEED, settings=mia.TrainerSettings(accelerator="cpu", progress_bar=False))
    audit = mia.Audit(
        population,
        model=partial(MLP, hidden=[16]),
        membership=mia.Halves(),
        shadow=mia.Real(count=num_models),
        training=Recipe(epochs=1, batch_size=250, optimizer=ADAM),
        attacks=attacks(),
        seed=SEED,
    )
    return observe_models(engine, audit, room=room)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Seconds, and the most memory of each kind in GiB."""

    name: str
    seconds: float
    own: float
    mapped: float

    def row(self) -> tuple[str, ...]:
        return (self.name, f"{self.seconds:.1f}", f"{self.own:.2f}", f"{self.mapped:.2f}")


class Sampler:
    """Reads the memory of this process every 10 ms, in a thread.

    Attributes:
        looks: how often it has read it.
    """

    def __init__(self) -> None:
        self._ended, self._looking = threading.Event(), threading.Lock()
        self.looks = 0
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._most = dict.fromkeys(("RssAnon", "RssFile"), 0)
        self.stages: list[Stage] = []

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with self._looking:  # so that nothing that was read before counts
            self._most = dict.fromkeys(self._most, 0)
        start = time.perf_counter()
        yield
        self._look()
        seconds = time.perf_counter() - start
        own, mapped = (kib / 2**20 for kib in self._most.values())
        self.stages.append(Stage(name=name, seconds=seconds, own=own, mapped=mapped))

    def _look(self) -> None:
        with self._looking:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in self._most:
                    self._most[name] = max(self._most[name], int(value.split()[0]))
            self.looks += 1

    def _sample(self) -> None:
        while not self._ended.wait(0.01):
            self._look()


def measure(num_models: int, num_records: int, num_classes: int, room: Room) -> list[Stage]:
    with Sampler() as sampler:
        with sampler.stage("imports and records"):
            population = make_population(num_records, num_classes)
        with sampler.stage("training and answers"):
            observation = observe(population, num_models, room)
        for attack in attacks():
            with sampler.stage(attack.name):
                mia.attack(observation, attacks=[attack])
    return sampler.stages


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Memory of an audit whose answers are larger than it should hold.")
    parser.add_argument("--models", type=int, default=None, help="shadow models K, an even number (default: 256)")
    parser.add_argument("--records", type=int, default=None, help="records N (default: 60000)")
    parser.add_argument("--classes", type=int, default=None, help="classes C (default: 100)")
    parser.add_argument("--limit", type=float, default=None, help="GiB above which an array lies on disk (default: 1)")
    parser.add_argument("--folder", type=Path, default=None, help="where (default: the system's temporary folder)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="16 models, 500 records, 5 classes: a test of the script")
    parsed = parser.parse_args(given)
    for name, value, quick in (("models", 256, 16), ("records", 60_000, 500), ("classes", 100, 5), ("limit", 1.0, 0.0)):
        if getattr(parsed, name) is None:
            setattr(parsed, name, quick if parsed.quick else value)
    if parsed.models < 6 or parsed.models % 2:
        parser.error("--models must be an even number of at least 6")
    if parsed.records < 100 or parsed.classes < 2 or parsed.limit < 0:
        parser.error("--records must be at least 100, --classes at least 2 and --limit at least 0")
    return parsed


def main() -> int:
    args = arguments()
    heading = machine(torch.device("cpu"))
    room = Room(max_bytes=int(args.limit * 2**30), folder=args.folder)
    stages = measure(args.models, args.records, args.classes, room)
    answers = 4 * args.models * args.records * args.classes
    on_disk = answers / 2**30 if answers > args.limit * 2**30 else 0.0
    own = max(stage.own for stage in stages)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if args.json:
        setting = {name: getattr(args, name) for name in ("models", "records", "classes", "limit")}
        found = {"on_disk_gib": on_disk, "own_gib": own, "resident_gib": resident}
        print(
            json.dumps({"machine": heading, **setting, **found, "stages": [asdict(each) for each in stages]}, indent=2)
        )
    else:
        print(f"{heading}\n\n{render(HEADER, [each.row() for each in stages])}\n")
        print(
            f"K = {args.models} shadow models, N = {args.records} records, C = {args.classes} classes: answers of "
            f"{answers / 2**30:.2f} GiB, {on_disk:.2f} GiB of them on disk. The process had at most {own:.2f} GiB of "
            f"its own (limit {MOST_GIB:g}); with mapped pages it was {resident:.2f} GiB large (ru_maxrss)."
        )
    return int(own > MOST_GIB)


if __name__ == "__main__":
    sys.exit(main())
