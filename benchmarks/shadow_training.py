"""Seconds per shadow model: a `pl.Trainer` loop, a bare PyTorch loop, and stacks of several sizes.

    python benchmarks/shadow_training.py [--settings location digits] [--device cpu|cuda] [--epochs 50] [--rounds 3]
                                         [--compiled] [--precision 32|bf16] [--markdown] [--json FILE] [--quick]

One run prints one table; its ratios compare times of this run alone. Three ways train the same shadow models
(model k has the same initial weights and the same records in all of them) for the same number of optimiser steps:

- `trainer loop`: one `pl.Trainer` for each model, written as a user would: automatic optimisation, a DataLoader
  over a TensorDataset, torch's Adam as it comes; nothing is logged, which favours it.
- `bare loop`: one plain PyTorch loop for each model, written for speed: records resident in one tensor, an order
  drawn per epoch, `index_select`, fused Adam; on a CPU in a process of its own (`alone.py`).
- `compiled loop (c)`, where asked for: the bare loop with forward pass and loss under torch.compile, compiled once, for
  all models; compiling is left out.
- `stack K`: `Engine.train` of this package, K models at once, with all that it does around the steps. Of texts and
  recordings also `loop`, model by model over the same stacked parameters, and `chosen`, what the package takes of both
  by itself, with the time in which it finds out.

What is trained, on which records, and how its floating-point operations are counted: `training_settings.py`. After a
warm-up the variants take turns, round after round, and the medians are printed.

Ends with exit code 1 where the final training losses differ between the variants: times of unequal work mean nothing.
"""

import argparse
import gc
import json
import logging
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import alone
import pytorch_lightning as pl
import torch
from this_machine import MatrixProduct, accelerator_of, large_products, machine, synchronise
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset
from training_settings import (
    DIGITS,
    LOCATION,
    PURCHASE,
    RECORDINGS,
    SEED,
    TEXTS,
    Case,
    Execution,
    Setting,
    make_case,
)

from mia_lightning.seeds import generator
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

TakeOut = Callable[[], nn.Module]  # gives a trained network in eval mode: looked at once the clock has stopped
Train = Callable[[Case, Sequence[int]], list[TakeOut]]

LEARNING_RATE = 1e-3
LARGEST_LOSS_RATIO = 1.25  # of the variants' final losses; they differ in the order of records alone
SETTINGS: tuple[Setting, ...] = (LOCATION, DIGITS, PURCHASE, TEXTS, RECORDINGS)
USUAL = ("location", "digits")  # purchase takes a quarter of an hour, texts and recordings ten minutes each


class Classifier(pl.LightningModule):
    """A classifier as a user of Lightning writes it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        x_B, label_B = batch
        return nn.functional.cross_entropy(self.network(x_B), label_B)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)


def train_by_trainer(case: Case, models: Sequence[int]) -> list[TakeOut]:
    """Variant (a)."""
    trained: list[TakeOut] = []
    for k in models:
        x_M, label_M = (tensor.cpu() for tensor in case.tensors(k))
        loader = DataLoader(
            TensorDataset(x_M, label_M),
            batch_size=case.setting.batch_size,
            shuffle=True,
            num_workers=0,
            generator=generator(SEED, "benchmark", "trainer loop", k),
        )
        trainer = pl.Trainer(
            accelerator=accelerator_of(case.device),
            devices=1,
            max_epochs=case.epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            precision="bf16-mixed" if case.precision == "bf16" else "32-true",
        )
        module = Classifier(case.initial_network(k))
        trainer.fit(module, loader)
        trained.append(module.network.eval)
    return trained


@cache
def compiled_loss(case: Case) -> Callable[..., Tensor]:
    """Mean cross-entropy from parameters, records and labels: one compilation serves all networks of a case."""
    network = case.initial_network(0).to(case.device)

    def loss(parameters: dict[str, Tensor], x_B: Tensor, label_B: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(network, parameters, (x_B,)), label_B)

    return torch.compile(loss, dynamic=False)


def train_by_bare_loop(case: Case, models: Sequence[int], compiled: bool = False) -> list[TakeOut]:
    """Variants (b) and (c)."""
    trained: list[TakeOut] = []
    for k in models:
        x_M, label_M = case.tensors(k)
        network = case.initial_network(k).to(case.device).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)
        parameters = dict(network.named_parameters())
        loss_of = compiled_loss(case) if compiled else None
        numbers = generator(SEED, "benchmark", "bare loop", k, device=case.device)
        for _ in range(case.epochs):
            order_M = torch.randperm(len(x_M), generator=numbers, device=case.device)
            for index_B in order_M.split(case.setting.batch_size):
                x_B, label_B = x_M.index_select(0, index_B), label_M.index_select(0, index_B)
                with torch.autocast(case.device.type, torch.bfloat16, enabled=case.precision == "bf16"):
                    if loss_of is None:
                        loss = nn.functional.cross_entropy(network(x_B), label_B)
                    else:
                        loss = loss_of(parameters, x_B, label_B)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        trained.append(network.eval)
    return trained


def train_by_stack(case: Case, models: Sequence[int], size: int, execution: Execution = "stack") -> list[TakeOut]:
    """Variant (c): stacks of `size` models, one after another."""
    engine = Engine(
        seed=SEED,
        settings=TrainerSettings(
            accelerator=accelerator_of(case.device), devices=1, precision=case.precision, progress_bar=False
        ),
    )
    recipe = Recipe(
        epochs=case.epochs,
        batch_size=case.setting.batch_size,
        optimizer=partial(torch.optim.Adam, lr=LEARNING_RATE),
        execution=execution,
    )
    trained: list[TakeOut] = []
    for start in range(0, len(models), size):
        part = models[start : start + size]
        records_K = [case.records(k) for k in part]
        job = TrainingJob(
            seed=engine.seed,
            role="shadow",
            make_network=case.make_network,
            population=case.population,
            records_K=records_K,
            recipe=recipe,
            models=part,
        )
        stack = engine.run(job).stack
        trained += [partial(stack.model, j) for j in range(len(part))]
    return trained


def measured(train: Train, case: Case, num_models: int, compared: int) -> tuple[float, list[float]]:
    """Seconds per model; final losses of the first `compared` models."""
    gc.collect()
    synchronise(case.device)
    start = time.perf_counter()
    networks = train(case, range(num_models))
    synchronise(case.device)
    seconds = (time.perf_counter() - start) / num_models
    return seconds, [case.loss(k, networks[k]()) for k in range(compared)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Variant:
    """A way to train `num_models` models, with what was measured of it."""

    name: str
    case: Case
    num_models: int
    train: Train
    seconds_R: list[float]
    loss_K: list[float]

    def warm_up(self) -> None:
        self._measured(replace(self.case, epochs=1), 0)

    def measure(self, compared: int) -> None:
        """One round: seconds per model; final losses of the first `compared` models, which all variants train."""
        seconds, self.loss_K[:] = self._measured(self.case, compared)
        self.seconds_R.append(seconds)

    def _measured(self, case: Case, compared: int) -> tuple[float, list[float]]:
        if self.train is train_by_bare_loop and case.device.type == "cpu":
            name, epochs, precision = case.setting.name, case.epochs, case.precision
            return alone.process().submit(alone.bare_loop, name, epochs, precision, self.num_models, compared).result()
        return measured(self.train, case, self.num_models, compared)


def make_variants(case: Case, sizes: Sequence[int], looped: int, *, compiled: bool = False) -> list[Variant]:
    """All variants of one setting; loops and small stacks train `looped` models a round, to average over starts."""
    ways: list[tuple[str, int, Train]] = [
        ("trainer loop (a)", looped, train_by_trainer),
        ("bare loop (b)", looped, train_by_bare_loop),
        *([("compiled loop (c)", looped, partial(train_by_bare_loop, compiled=True))] if compiled else []),
        *(
            (name, max(looped, size), partial(train_by_stack, size=size, execution=execution))
            for name, size, execution in case.setting.executions(sizes)
        ),
    ]
    return [
        Variant(name=name, case=case, num_models=count, train=train, seconds_R=[], loss_K=[])
        for name, count, train in ways
    ]


HEADER = (
    *("setting", "variant", "s / model", "min to max", "(a) / this", "(b) / this"),
    *("GFLOP/s", "of large mm", "final loss"),
)


def rows(variants: Sequence[Variant], large_rate: float) -> list[tuple[str, ...]]:
    """One row for each variant of one setting; ratios and rates are quotients of the times as printed."""
    printed = [f"{statistics.median(variant.seconds_R):#.4g}" for variant in variants]
    by_trainer, bare = float(printed[0]), float(printed[1])
    table: list[tuple[str, ...]] = []
    for variant, text in zip(variants, printed, strict=True):
        case, seconds = variant.case, float(text)
        rate = case.setting.operations(case.initial_network(0), case.epochs) / seconds / 1e9
        table.append(
            (
                *(case.setting.name, variant.name, text),
                f"{min(variant.seconds_R):#.3g} to {max(variant.seconds_R):#.3g}",
                *(f"{by_trainer / seconds:.2f}", f"{bare / seconds:.2f}"),
                *(f"{rate:.1f}", f"{100 * rate / large_rate:.1f} %"),
                f"{statistics.median(variant.loss_K):#.3g}",
            )
        )
    return table


def render(table: Sequence[tuple[str, ...]], *, markdown: bool) -> str:
    """The table as aligned text or as Markdown; the first two columns are words, the others numbers."""
    widths = [max(len(row[i]) for row in (HEADER, *table)) for i in range(len(HEADER))]
    is_word = [i < 2 for i in range(len(HEADER))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if word else cell.rjust(width)
            for cell, width, word in zip(cells, widths, is_word, strict=True)
        ]
        return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()

    rule = [
        "-" * width if word or not markdown else "-" * (width - 1) + ":"
        for width, word in zip(widths, is_word, strict=True)
    ]
    return "\n".join([line(HEADER), line(rule), *(line(row) for row in table)])


def unequal(variants: Sequence[Variant]) -> str | None:
    """A sentence on variants of one setting that did not learn the same, or None."""
    median = {variant.name: statistics.median(variant.loss_K) for variant in variants}
    loss = {name: value if math.isfinite(value) else math.inf for name, value in median.items()}
    least, most = min(loss, key=loss.__getitem__), max(loss, key=loss.__getitem__)
    if math.isfinite(loss[most]) and loss[most] <= LARGEST_LOSS_RATIO * loss[least]:
        return None
    return (
        f"{variants[0].case.setting.name}: the final loss of {most} is {loss[most]:.3g}, of {least} {loss[least]:.3g}; "
        "the variants did not do the same work, so the times cannot be compared."
    )


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seconds per shadow model of a Trainer loop, a bare loop and stacks.")
    names = [setting.name for setting in SETTINGS]
    parser.add_argument("--settings", nargs="+", choices=names, default=USUAL, metavar="NAME", help=", ".join(names))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32", help="of all variants (default: 32)")
    parser.add_argument(
        "--compiled", action="store_true", help="with a loop under torch.compile (needs a C++ compiler)"
    )
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the measurements there, too")
    parser.add_argument(
        "--epochs", type=int, default=None, help="of every model (default: 50, of texts 10, of recordings 20)"
    )
    parser.add_argument("--rounds", type=int, default=None, help="of all variants in turn (default: 3)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--quick", action="store_true", help="2 epochs, 1 round, stacks up to 4: a test of the script")
    parsed = parser.parse_args(given)
    if parsed.epochs is None and parsed.quick:
        parsed.epochs = 2
    if parsed.rounds is None:
        parsed.rounds = 1 if parsed.quick else 3
    if min(parsed.epochs or 1, parsed.rounds) < 1:
        parser.error("--epochs and --rounds must be at least 1")
    if parsed.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, but torch sees no GPU; use --device cpu")
    return parsed


def main() -> int:
    args = arguments()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice on workers, once for each model
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # where Slurm is installed
    device = torch.device(args.device)
    sizes, looped, product_seconds = ((1, 4), 2, 0.01) if args.quick else ((1, 4, 16, 64), 4, 0.3)
    heading = machine(device)
    settings = [setting for setting in SETTINGS if setting.name in args.settings]
    cases = [make_case(setting, device, args.epochs, args.precision) for setting in settings]
    variants_S = [make_variants(case, sizes, looped, compiled=args.compiled) for case in cases]
    fitting = [MatrixProduct(s.name, *s.first_product, device=device) for s in settings]
    large = large_products(device, largest=512 if args.quick else 4096)
    for variants in variants_S:
        for variant in variants:
            variant.warm_up()
    for _ in range(args.rounds):
        for variants in variants_S:
            for variant in variants:
                variant.measure(looped)
        for product in (*fitting, *large):
            product.measure(product_seconds)
    best = max(large, key=lambda product: product.rate)
    print(f"{heading}\n")
    print(f"float32 torch.mm: {'; '.join(map(str, (*fitting, best)))}\n")
    table = [row for variants in variants_S for row in rows(variants, best.rate)]
    print(f"{render(table, markdown=args.markdown)}\n")
    for case in cases:
        setting = case.setting
        one = setting.operations(case.initial_network(0), case.epochs)
        print(
            f"{setting.name}: {setting.network}, {setting.records} records, batch size "
            f"{setting.batch_size}, Adam, {case.epochs} epochs: {one / 1e9:.3f} GFLOP a model."
        )
    rounds = f"{args.rounds} round" if args.rounds == 1 else f"{args.rounds} rounds"
    print(
        f"Medians over {rounds}, variants in turn, after a warm-up; a variant trains at least {looped} models a round."
    )
    if args.json is not None:
        measured = [
            {"setting": v.case.setting.name, "variant": v.name, "precision": v.case.precision, "seconds": v.seconds_R}
            for variants in variants_S
            for v in variants
        ]
        rates = {product.name: product.rate_R for product in (*fitting, best)}
        args.json.write_text(json.dumps({"machine": heading, "rows": measured, "matrix_products": rates}, indent=2))
    complaints = [complaint for variants in variants_S if (complaint := unequal(variants))]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
