"""Seconds per shadow model of a user's LightningModule: an ordinary `pl.Trainer` loop, and this package's stack.

    python benchmarks/lightning_module.py [--settings location mnist] [--rounds 3] [--markdown] [--json FILE] [--quick]

One run prints one table; its ratios compare times of this run alone. Three ways train the same models (model k has
the same initial weights and the same records in all of them) for the same number of optimiser steps:

- `trainer loop`: one `pl.Trainer` for each module, as its user trains it: a DataLoader over a TensorDataset; nothing
  is logged, which favours it.
- `own step, K`: K modules trained here by their own `training_step` and `configure_optimizers`.
- `plain, K`: the same network as a plain module, trained by a recipe with the same optimiser, under `vmap` as well:
  what the user's own step costs beside ours. (A plain multilayer perceptron would take a faster path without `vmap`.)

Settings: *location*, a network 446-128-30 with tanh on 1,200 records, batch 100, 50 epochs, K = 64, under `vmap`;
*mnist*, the paper's convolutional network on 1,000 images, batch 100, 8 epochs, K = 16, by the execution plan that a
probe finds, whose time counts. Records are synthetic, since no time depends on their values. After a warm-up the
variants take turns, round after round, and medians are printed: seconds, and CPU seconds of the process, which other
work on the machine disturbs less (with OMP_NUM_THREADS=1 they are what the work takes). Ratios are of CPU seconds.

Ends with exit code 1 where the final training losses differ between the variants: times of unequal work mean nothing.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from this_machine import machine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mia_lightning.datasets.form import one_tensor
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import generator, isolated
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.own.making import made_for_stacks
from mia_lightning.training.own.taken import taken
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings, quiet_lightning

SEED = 0
LARGEST_LOSS_RATIO = 1.25  # of the variants' final losses; they differ in the order of records alone
Make = Callable[[], nn.Module]


class Plain(nn.Module):
    """The network of a setting inside a module of its own, which `vmap` runs."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.net = make()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


class LitNet(pl.LightningModule):
    """A classifier as a user of Lightning writes it."""

    def __init__(self, make: Make, lr: float = 1e-3) -> None:
        super().__init__()
        self.net, self.lr = make(), lr

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The sizes of one case."""

    name: str
    shape: tuple[int, ...]
    levels: int
    classes: int
    population: int
    records: int
    epochs: int
    batch_size: int
    models: int
    looped: int  # models of the Trainer loop in a round
    execution: str
    make: Make

    def made_population(self) -> Population:
        """Records around a centre for each class: learnable, and not trivially so."""
        numbers = generator(SEED, "benchmark", self.name)
        label_N = torch.randint(self.classes, (self.population,), generator=numbers)
        centre_C = torch.rand(self.classes, *self.shape, generator=numbers)
        noise_N = torch.rand(self.population, *self.shape, generator=numbers)
        x_N = ((centre_C[label_N] + noise_N) / 2 * (self.levels - 1)).round().to(torch.uint8)
        names = [str(c) for c in range(self.classes)]
        return make_population(x_N, label_N, name=self.name, class_names=names, scale=1 / (self.levels - 1))

    def records_of(self, k: int) -> Tensor:
        drawn = torch.randperm(self.population, generator=generator(SEED, "benchmark", "records", k))
        return drawn[: self.records].sort().values


SETTINGS = {
    "location": Setting(
        name="location",
        shape=(446,),
        levels=2,
        classes=30,
        population=5010,
        records=1200,
        epochs=50,
        batch_size=100,
        models=64,
        looped=8,
        execution="stack",
        make=partial(MLP, (446,), 30, (128,)),
    ),
    "mnist": Setting(
        name="mnist",
        shape=(1, 28, 28),
        levels=256,
        classes=10,
        population=4000,
        records=1000,
        epochs=8,
        batch_size=100,
        models=16,
        looped=3,
        execution="auto",
        make=partial(CNN, (1, 28, 28), 10),
    ),
}


def quick(setting: Setting) -> Setting:
    """So small that it ends at once; its times mean nothing."""
    return Setting(**{**vars(setting), "epochs": 1, "models": 2, "looped": 1, "records": 100, "batch_size": 50})


def by_trainer(setting: Setting, population: Population) -> list[float]:
    """The final losses of modules that are trained one by one."""
    losses = []
    for k in range(setting.looped):
        with isolated(SEED, "shadow", k, "initialisation"):
            module = LitNet(setting.make)
        index = setting.records_of(k)
        x_M, label_M = one_tensor(population.records(index)), population.label_N[index]
        loader = DataLoader(
            TensorDataset(x_M, label_M),
            batch_size=setting.batch_size,
            shuffle=True,
            generator=generator(SEED, "benchmark", "trainer loop", k),
        )
        with quiet_lightning():
            trainer = pl.Trainer(
                accelerator="cpu",
                max_epochs=setting.epochs,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(module, loader)
        losses.append(_loss(module.eval(), x_M, label_M))
    return losses


def by_stack(setting: Setting, population: Population, *, own: bool) -> list[float]:
    """The final losses of models that are trained here, by their own step or as plain networks."""
    recipe = Recipe(
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        optimizer=Recipe().optimizer if own else partial(torch.optim.Adam, lr=1e-3),
        execution=setting.execution,  # type: ignore[arg-type]
        chunk=None if setting.execution == "stack" else "auto",
    )
    kind = LitNet if own else Plain
    made, _ = made_for_stacks(partial(kind, setting.make), population, max_epochs=setting.epochs)
    make_network = bind_records(made, population)
    how = taken(make_network, population, recipe, num_records=setting.records)
    job = TrainingJob(
        seed=SEED,
        role="shadow",
        make_network=make_network,
        architecture=how.architecture,
        population=population,
        records_K=[setting.records_of(k) for k in range(setting.models)],
        recipe=how.recipe,
    )
    stack = Engine(seed=SEED, settings=TrainerSettings(accelerator="cpu", progress_bar=False)).run(job).stack
    losses = []
    for k in range(setting.looped):
        index = setting.records_of(k)
        losses.append(_loss(stack.model(k), one_tensor(population.records(index)), population.label_N[index]))
    return losses


@torch.no_grad()
def _loss(network: nn.Module, x_M: Tensor, label_M: Tensor) -> float:
    return float(nn.functional.cross_entropy(network(x_M), label_M))


@dataclass(kw_only=True)
class Variant:
    """A way to train the models of a setting, with its seconds per model in each round."""

    setting: str
    name: str
    num_models: int
    train: Callable[[], list[float]]
    seconds_R: list[float] = field(default_factory=list)
    cpu_R: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def measure(self) -> None:
        gc.collect()
        start, cpu = time.perf_counter(), time.process_time()
        self.losses = self.train()
        self.seconds_R.append((time.perf_counter() - start) / self.num_models)
        self.cpu_R.append((time.process_time() - cpu) / self.num_models)

    @property
    def seconds(self) -> float:
        return statistics.median(self.seconds_R)

    @property
    def cpu(self) -> float:
        return statistics.median(self.cpu_R)

    @property
    def loss(self) -> float:
        return statistics.median(self.losses)


def variants_of(setting: Setting) -> list[Variant]:
    population, K = setting.made_population(), setting.models
    ways: list[tuple[str, int, Callable[[], list[float]]]] = [
        ("trainer loop", setting.looped, partial(by_trainer, setting, population)),
        (f"own step, {K}", K, partial(by_stack, setting, population, own=True)),
        (f"plain, {K}", K, partial(by_stack, setting, population, own=False)),
    ]
    return [Variant(setting=setting.name, name=name, num_models=count, train=train) for name, count, train in ways]


HEADER = (
    "setting",
    "variant",
    "s / model",
    "min to max",
    "CPU s / model",
    "trainer loop / this",
    "this / plain",
    "final loss",
)


def rows(variants: Sequence[Variant]) -> list[tuple[str, ...]]:
    """One row for each variant of one setting."""
    loop, _, plain = (variant.cpu for variant in variants)
    return [
        (
            each.setting,
            each.name,
            f"{each.seconds:#.4g}",
            f"{min(each.seconds_R):#.3g} to {max(each.seconds_R):#.3g}",
            f"{each.cpu:#.4g}",
            f"{loop / each.cpu:.2f}",
            f"{each.cpu / plain:.2f}",
            f"{each.loss:#.3g}",
        )
        for each in variants
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown")
    parser.add_argument("--json", type=Path, help="a file for the measurements")
    parser.add_argument("--quick", action="store_true", help="to test the script")
    arguments = parser.parse_args()
    table: list[tuple[str, ...]] = [HEADER]
    measured, is_equal = [], True
    for name in arguments.settings:
        setting = quick(SETTINGS[name]) if arguments.quick else SETTINGS[name]
        variants = variants_of(setting)
        for variant in variants_of(replace(setting, epochs=1, models=setting.looped)):
            variant.train()  # warms up
        for _ in range(1 if arguments.quick else arguments.rounds):
            for variant in variants:
                variant.measure()
        table += rows(variants)
        measured += [
            {key: value for key, value in vars(each).items() if key != "train"} | {"seconds": each.seconds}
            for each in variants
        ]
        losses = [each.loss for each in variants]
        is_equal = is_equal and (arguments.quick or max(losses) <= LARGEST_LOSS_RATIO * min(losses))
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]
    for i, row in enumerate(table):
        if arguments.markdown:
            print(f"| {' | '.join(row)} |")
            if i == 0:
                print(f"|{' --- |' * len(HEADER)}")
        else:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\n{machine(torch.device('cpu'))}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": machine(torch.device("cpu")), "variants": measured}, indent=1))
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
