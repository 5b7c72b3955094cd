"""Milliseconds for a step of a convolutional network: bare PyTorch loops, the stack by vmap, the stack looped.

    python benchmarks/convolutions.py [--networks cnn resnet18 wide_resnet28_2] [--device cpu|cuda] [--models 4]
                                      [--rounds 3] [--processes N] [--json FILE] [--quick]

Images of 3 x 32 x 32 in 10 classes. Every variant trains the same K networks with Adam, from the same weights, on the
same batches in the same order:

- `bare loop`: plain PyTorch, one network after another, records resident in one tensor, fused Adam, in float32 or
  under bf16 autocast, contiguous or with network and records channels last;
- `compiled loop` (on CUDA alone): the same under torch.compile, channels last, its compilation left out;
- `stack`: `Engine.train` of this package with execution=stack: convolutions under vmap, which become grouped ones;
- `loop`: the same with execution=loop: the same stacked parameters, model by model; channels last, on CUDA also
  contiguous;
- `stack, compiled` and `loop, compiled` (on CUDA alone): the same two with compile=true, their compilation left out;
- `loop, streams`, `loop, graphs` and `loop, graphs, streams` (on CUDA alone): with what these switch on.

Loops with something switched on are channels last.

With `--processes N` (on a CPU), as many processes of one thread each take steps of the looped stack in float32 at the
same time, each with its share of the models, as an execution plan of several processes does. The time of a step is the
mean over processes, divided by their number; it follows the table.

Times are of the steps of an epoch, as the Trainer takes them for stacks, over steps and models; what is done once for a
training (inspecting the architecture, initialising, joining) is left out, since a few steps stand for many. After a
warm-up the variants take turns, round after round; medians are printed. `same (b)` is the time of the bare loop at the
same precision and memory format over that of the row, `(b)` that of the contiguous float32 loop over it: above 1 the
row is faster.

Ends with exit code 1 where the mean training losses differ: times of unequal work mean nothing.
"""

import argparse
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from tables import render
from this_machine import machine
from torch import Tensor, nn

from mia_lightning.datasets.form import one_tensor
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.models.cnn import CNN
from mia_lightning.models.resnet import ResNet18
from mia_lightning.models.wide_resnet import WideResNet
from mia_lightning.seeds import derive, generator, isolated
from mia_lightning.training.devices.local_shard import HandedOver, LocalShard
from mia_lightning.training.devices.processes import seconds_side_by_side
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.plan.execution import ExecutionPlan
from mia_lightning.training.stack.architecture import Architecture, bind_shapes, inspect_architecture
from mia_lightning.training.step.batches import StackBatches
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

SEED = 0
LEARNING_RATE = 1e-3
LARGEST_LOSS_RATIO = 1.1  # of mean training losses: the variants differ in rounding alone, bf16 included
HEADER = ("network", "variant", "precision", "format", "ms / step", "min to max", "same (b)", "(b)", "mean loss")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A network, and how many steps of which batch size a measurement takes."""

    network: str
    make: Callable[..., nn.Module]
    steps: int
    batch_size: int


SETTINGS = (
    Setting(network="cnn", make=CNN, steps=40, batch_size=64),
    Setting(network="resnet18", make=ResNet18, steps=2, batch_size=32),
    Setting(network="wide_resnet28_2", make=WideResNet, steps=4, batch_size=32),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """A setting with its records and architecture; model k is the same in every variant."""

    setting: Setting
    population: Population
    make_network: Callable[[], nn.Module]
    architecture: Architecture
    device: torch.device
    num_models: int

    @property
    def records_K(self) -> list[Tensor]:
        count = self.setting.steps * self.setting.batch_size
        return [
            torch.randperm(len(self.population), generator=generator(SEED, "benchmark", "records", k))[:count]
            for k in range(self.num_models)
        ]


def make_case(setting: Setting, device: torch.device, num_models: int) -> Case:
    """Random images: no time depends on what they show."""
    numbers = generator(SEED, "benchmark", setting.network)
    count = 2 * setting.steps * setting.batch_size
    population = make_population(
        torch.randint(256, (count, 3, 32, 32), generator=numbers).to(torch.uint8),
        torch.randint(10, (count,), generator=numbers),
        name="random images",
        class_names=[str(c) for c in range(10)],
        scale=1 / 255,
    ).to(device)
    make_network = bind_shapes(setting.make, population.input_shape, population.num_classes)
    return Case(
        setting=setting,
        population=population,
        make_network=make_network,
        architecture=inspect_architecture(make_network, population),
        device=device,
        num_models=num_models,
    )


class Clock(pl.Callback):
    """Seconds from start to stop, which a Trainer calls at the two ends of an epoch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0

    def __deepcopy__(self, memo: object) -> "Clock":  # the engine gives every Trainer a copy; this one is read later
        return self

    def start(self) -> None:
        self._synchronise()
        self.started = time.perf_counter()

    def stop(self) -> None:
        self._synchronise()
        self.seconds += time.perf_counter() - self.started

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:  # those before it compile
            self.start()

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            self.stop()

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(kw_only=True)
class Variant:
    """A way to train, with what was measured of it: one time for each round, in milliseconds for a model's step."""

    name: str
    case: Case
    bf16: bool
    channels_last: bool
    milliseconds_R: list[float] = field(default_factory=list)
    loss: float = math.nan

    def measure(self) -> None:
        """One round."""
        gc.collect()
        clock = Clock(self.case.device)
        loss_K = train_bare(self, clock) if self.name.endswith(" loop") else train_stack(self, clock)
        self.milliseconds_R.append(1e3 * clock.seconds / (self.case.num_models * self.case.setting.steps))
        self.loss = float(loss_K.mean())

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds_R)

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "32"

    @property
    def memory_format(self) -> str:
        return "channels_last" if self.channels_last else "contiguous"


def train_bare(variant: Variant, clock: Clock) -> Tensor:
    """Mean training loss of each model, `[K]`."""
    case, loss_K = variant.case, []
    memory_format = torch.channels_last if variant.channels_last else torch.contiguous_format
    for k, records in enumerate(case.records_K):
        x_M = one_tensor(case.population.records(records.to(case.device))).contiguous(memory_format=memory_format)
        label_M = case.population.label_N[records.to(case.device)]
        with isolated(SEED, "shadow", k, "initialisation"):  # the name under which a stack initialises its model k
            network = case.make_network().to(case.device).to(memory_format=memory_format).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)
        batches = StackBatches(
            [torch.arange(len(records))],
            torch.tensor([derive(SEED, "shadow", k, "order")]),
            batches_per_epoch=case.setting.steps,
            device=case.device,
        )
        losses = []
        forward = torch.compile(network) if variant.name == "compiled loop" else network
        with torch.autocast(case.device.type, torch.bfloat16, enabled=variant.bf16):
            forward(x_M[: case.setting.batch_size]).sum().backward()  # compiles, once for all that follows
        clock.start()
        for index_KB, _ in batches:
            x_B = x_M.index_select(0, index_KB[0]).contiguous(memory_format=memory_format)
            with torch.autocast(case.device.type, torch.bfloat16, enabled=variant.bf16):
                loss = nn.functional.cross_entropy(forward(x_B), label_M.index_select(0, index_KB[0]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        clock.stop()
        loss_K.append(torch.stack(losses).mean())
    return torch.stack(loss_K)


def train_stack(variant: Variant, clock: Clock) -> Tensor:
    """Mean training loss of each model, `[K]`."""
    case = variant.case
    engine = Engine(
        seed=SEED,
        settings=TrainerSettings(
            accelerator="gpu" if case.device.type == "cuda" else "cpu",
            precision=variant.precision,
            progress_bar=False,
            callbacks=[clock],
        ),
    )
    way, *switches = variant.name.split(", ")
    recipe = Recipe(
        epochs=2 if switches else 1,  # in the first of two, steps are compiled and recorded
        batch_size=case.setting.batch_size,
        optimizer=partial(torch.optim.Adam, lr=LEARNING_RATE),
        execution="loop" if way == "loop" else "stack",
        compile="compiled" in switches,
        cuda_graphs="graphs" in switches,
        streams="streams" in switches,
        channels_last=variant.channels_last,
    )
    job = TrainingJob(
        seed=engine.seed,
        role="shadow",
        make_network=case.make_network,
        architecture=case.architecture,
        population=case.population,
        records_K=case.records_K,
        recipe=recipe,
    )
    return engine.run(job).train_loss_EK[0]


def make_variants(case: Case, *, compiles: bool | None = None) -> list[Variant]:
    """Of both precisions: the bare loop in both memory formats, then the stack's two executions.

    Args:
        compiles: whether these are compiled, recorded and queued in several streams, too; None on a CUDA device.
    """
    ways = [("bare loop", False), ("bare loop", True), ("stack", False), ("loop", True)]
    if case.device.type == "cuda":
        ways[2:2] = [("compiled loop", True), ("loop", False)]
    if case.device.type == "cuda" if compiles is None else compiles:
        ways += [("stack, compiled", False)]
        ways += [(f"loop, {on}", True) for on in ("compiled", "streams", "graphs", "graphs, streams")]
    return [
        Variant(name=name, case=case, bf16=bf16, channels_last=channels_last)
        for bf16 in (False, True)
        for name, channels_last in ways
    ]


def train_in_processes(case: Case, count: int) -> float:
    """Milliseconds of a model's step where `count` processes of one thread each train at the same time."""
    settings = TrainerSettings(accelerator="cpu", progress_bar=False)
    recipe = Recipe(
        epochs=1000,
        batch_size=case.setting.batch_size,
        optimizer=partial(torch.optim.Adam, lr=LEARNING_RATE),
        execution="loop",
    )
    job = TrainingJob(
        seed=SEED,
        role="shadow",
        make_network=case.make_network,
        architecture=case.architecture,
        population=case.population,
        records_K=case.records_K,
        recipe=recipe,
    )
    shards = [
        LocalShard(
            place=place,
            device=case.device,
            settings=settings,
            places=places,
            num_threads=1,
            folder=Path(),
        )
        for place, places in enumerate(job.shards(count))
    ]
    plan = ExecutionPlan(
        role=job.role,
        num_models=job.num_models,
        epochs=recipe.epochs,
        signature={},
        execution="loop",
        chunk=len(shards[0].places),
        measured=(),
        reason="",
        seconds=0.0,
        bytes=0,
        threads=1,
        processes=count,
    )
    found = seconds_side_by_side(HandedOver(job=job, plan=plan, shards=shards, store=None), 20.0)
    if found is None:
        raise SystemExit(f"{count} processes could not be measured")
    steps = [seconds / len(shard.places) for (_, seconds), shard in zip(found[1], shards, strict=True)]
    return 1e3 * statistics.fmean(steps) / count


def rows(variants: Sequence[Variant]) -> list[tuple[str, ...]]:
    """One row for each variant of one network."""
    bare = {(v.bf16, v.channels_last): v.median for v in variants if v.name == "bare loop"}
    return [
        (
            *(v.case.setting.network, v.name, v.precision, v.memory_format, f"{v.median:#.4g}"),
            f"{min(v.milliseconds_R):#.3g} to {max(v.milliseconds_R):#.3g}",
            f"{bare[v.bf16, v.channels_last] / v.median:.2f}",
            f"{bare[False, False] / v.median:.2f}",
            f"{v.loss:#.4g}",
        )
        for v in variants
    ]


def unequal(variants: Sequence[Variant]) -> str | None:
    """A sentence on variants of one network that did not learn the same, or None."""
    loss = {f"{v.name} {v.precision} {v.memory_format}": v.loss for v in variants}
    if all(map(math.isfinite, loss.values())) and max(loss.values()) <= LARGEST_LOSS_RATIO * min(loss.values()):
        return None
    listed = ", ".join(f"{name} {value:.3g}" for name, value in loss.items())
    return (
        f"{variants[0].case.setting.network}: the mean losses are {listed}; the variants did not do the same work, so "
        "the times cannot be compared."
    )


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    names = [setting.network for setting in SETTINGS]
    parser = argparse.ArgumentParser(description="Milliseconds for a step of a convolutional network, looped, stacked.")
    parser.add_argument("--networks", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", type=int, default=None, help="K (default: 4)")
    parser.add_argument("--rounds", type=int, default=None, help="of all variants in turn (default: 3)")
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="of one thread each, beside the others")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the measurements there, too")
    parser.add_argument("--quick", action="store_true", help="2 models, 2 steps of 4 images: a test of the script")
    parsed = parser.parse_args(given)
    for name, value, quick in (("models", 4, 2), ("rounds", 3, 1)):
        if getattr(parsed, name) is None:
            setattr(parsed, name, quick if parsed.quick else value)
    if min(parsed.models, parsed.rounds) < 1:
        parser.error("--models and --rounds must be at least 1")
    if parsed.processes < 0 or (parsed.processes and parsed.device == "cuda"):
        parser.error("--processes must be at least 0, and is for --device cpu")
    if parsed.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, but torch sees no GPU; use --device cpu")
    return parsed


def main() -> int:
    args = arguments()
    device = torch.device(args.device)
    heading = machine(device)
    chosen = [setting for setting in SETTINGS if setting.network in args.networks]
    if args.quick:
        chosen = [replace(setting, steps=2, batch_size=4) for setting in chosen]
    variants_S = [make_variants(make_case(setting, device, args.models)) for setting in chosen]
    every = [variant for variants in variants_S for variant in variants]
    for variant in every:
        variant.measure()
        variant.milliseconds_R.clear()  # a warm-up
    for _ in range(args.rounds):
        for variant in every:
            variant.measure()
    print(f"{heading}\n\n{render(HEADER, [row for variants in variants_S for row in rows(variants)], words=4)}\n")
    for setting in chosen:
        print(f"{setting.network}: K = {args.models}, {setting.steps} steps of {setting.batch_size} images a round.")
    rounds = f"{args.rounds} round" if args.rounds == 1 else f"{args.rounds} rounds"
    print(f"Medians over {rounds}, variants in turn, after a warm-up.")
    of_processes: dict[str, list[float]] = {}
    for variants in variants_S if args.processes else []:
        case, name = variants[0].case, variants[0].case.setting.network
        of_processes[name] = [train_in_processes(case, args.processes) for _ in range(args.rounds)]
        milliseconds = statistics.median(of_processes[name])
        best = min((v for v in variants if v.name == "bare loop" and not v.bf16), key=lambda v: v.median)
        print(
            f"{name}: {args.processes} processes of one thread: {milliseconds:#.4g} ms / step "
            f"({min(of_processes[name]):#.3g} to {max(of_processes[name]):#.3g}), {best.median / milliseconds:.2f} x "
            f"the fastest bare loop in float32 ({best.memory_format}, {torch.get_num_threads()} threads)."
        )
    if args.json is not None:
        content = {"machine": heading, "rows": [record(v) for v in every], "processes": of_processes}
        args.json.write_text(json.dumps(content, indent=2))
    complaints = [complaint for variants in variants_S if (complaint := unequal(variants))]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


def record(variant: Variant) -> dict[str, object]:
    """What JSON says of a variant."""
    return {
        "network": variant.case.setting.network,
        "variant": variant.name,
        "precision": variant.precision,
        "memory_format": variant.memory_format,
        "models": variant.case.num_models,
        "steps": variant.case.setting.steps,
        "batch_size": variant.case.setting.batch_size,
        "milliseconds": variant.milliseconds_R,
        "mean_loss": variant.loss,
    }


if __name__ == "__main__":
    sys.exit(main())
