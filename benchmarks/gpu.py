"""What a GPU makes of it: a thousand networks of Purchase-100's size, convolutional networks, and the sizes of a stack.

    python benchmarks/gpu.py [--models 1024] [--rounds 3] [--json FOLDER] [--quick]

Prints `no CUDA device` and ends with 0 where there is none. Otherwise three tables, one after another:

- Purchase-100: `--models` networks (600-128-100, tanh, 10,000 records, batch 100, 50 epochs, Adam) as one stack in
  float32, TF32 and bf16, beside a `pl.Trainer` loop and a bare loop over a few of them. `floor` is the time that the
  memory alone would take: seven passes over all parameters, gradients and moments a step (the forward and the backward
  product read the weights, the gradient is written, and Adam, one fused kernel, reads it and reads and writes what is
  left), and the gathered batches twice, at the bandwidth of a large copy that is measured in the same run.
- `convolutions.py --device cuda`, with a compiled loop as its baseline.
- `scaling.py --device cuda`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from shadow_training import LEARNING_RATE, train_by_bare_loop, train_by_trainer
from this_machine import machine
from training_settings import PURCHASE, SEED, Case, make_case

from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

HEADER = (
    "variant",
    "models",
    "s",
    "min to max",
    "models / s",
    "times (a)",
    "times the floor",
    "peak GiB",
    "final loss",
)
_LARGE_COPY = 2**30  # bytes


@dataclass(kw_only=True)
class Variant:
    """A way to train `num_models` networks, with the seconds of each round."""

    name: str
    num_models: int
    train: Callable[[], float]
    seconds_R: list[float] = field(default_factory=list)
    peak: int = 0
    loss: float = 0.0

    def measure(self) -> None:
        """One round."""
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        start = time.perf_counter()
        self.loss = self.train()
        torch.cuda.synchronize()
        self.seconds_R.append(time.perf_counter() - start)
        self.peak = torch.cuda.max_memory_allocated()

    @property
    def rate(self) -> float:
        """Models per second."""
        return self.num_models / statistics.median(self.seconds_R)


def train_stack(case: Case, num_models: int, precision: str) -> float:
    """The mean final loss of one stack, trained with all that the engine does around the steps."""
    engine = Engine(
        seed=SEED, settings=TrainerSettings(accelerator="gpu", devices=1, precision=precision, progress_bar=False)
    )
    recipe = Recipe(
        epochs=case.epochs,
        batch_size=case.setting.batch_size,
        optimizer=partial(torch.optim.Adam, lr=LEARNING_RATE),
        execution="stack",
    )
    records_K = [case.records(k) for k in range(num_models)]
    trained = engine.run(
        TrainingJob(
            seed=engine.seed,
            role="shadow",
            make_network=case.make_network,
            population=case.population,
            records_K=records_K,
            recipe=recipe,
        )
    )
    return float(trained.train_loss_EK[-1].mean())


def train_loop(
    train: Callable[[Case, Sequence[int]], list[Callable[[], torch.nn.Module]]], case: Case, n: int
) -> float:
    """The mean final loss of networks trained one after another."""
    take_outs = train(case, range(n))
    return statistics.fmean(case.loss(k, take_out()) for k, take_out in enumerate(take_outs))


def bandwidth() -> float:
    """Bytes per second of a large copy on the device, read and written bytes both counted."""
    source = torch.empty(_LARGE_COPY, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    rates = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        rates.append(2 * _LARGE_COPY / (time.perf_counter() - start))
    return statistics.median(rates)


def floor_seconds(case: Case, num_models: int, bytes_per_second: float) -> float:
    """Seconds that the memory traffic of the docstring takes."""
    setting = case.setting
    parameters = sum(p.numel() for p in case.make_network().parameters())
    steps = case.epochs * -(-setting.records // setting.batch_size)
    batch = setting.batch_size * case.population.x_N[0].numel()
    return steps * num_models * 4 * (7 * parameters + 2 * batch) / bytes_per_second


def purchase(num_models: int, epochs: int, looped: int, rounds: int) -> list[tuple[str, ...]]:
    """The rows of the first table."""
    case = make_case(PURCHASE, torch.device("cuda"), epochs)
    variants = [
        Variant(name="trainer loop (a)", num_models=looped, train=partial(train_loop, train_by_trainer, case, looped)),
        Variant(name="bare loop", num_models=looped, train=partial(train_loop, train_by_bare_loop, case, looped)),
        *(
            Variant(
                name=f"stack {precision}",
                num_models=num_models,
                train=partial(train_stack, case, num_models, precision),
            )
            for precision in ("32", "tf32", "bf16")
        ),
    ]
    warm_up = make_case(PURCHASE, torch.device("cuda"), 1)
    for precision in ("32", "tf32", "bf16"):
        train_stack(warm_up, min(4, num_models), precision)
    for _ in range(rounds):
        for variant in variants:
            variant.measure()
    floor = floor_seconds(case, num_models, bandwidth())
    print(f"Memory floor of {num_models} networks for {epochs} epochs: {floor:.2f} s.\n")
    return [
        (
            *(variant.name, str(variant.num_models), f"{statistics.median(variant.seconds_R):.2f}"),
            f"{min(variant.seconds_R):.2f} to {max(variant.seconds_R):.2f}",
            *(f"{variant.rate:.3g}", f"{variant.rate / variants[0].rate:.1f}"),
            f"{num_models / variant.rate / floor:.1f}" if variant.name.startswith("stack") else "–",
            *(f"{variant.peak / 2**30:.2f}", f"{variant.loss:#.3g}"),
        )
        for variant in variants
    ]


def main(given: Sequence[str] | None = None) -> int:
    """Print the three tables; 0."""
    options = arguments(given)
    if not torch.cuda.is_available():
        print("no CUDA device")
        return 0
    num_models, epochs, looped = (8, 2, 1) if options.quick else (options.models, 50, 2)
    about = machine(torch.device("cuda"))
    print(f"{about}\n")
    table = purchase(num_models, epochs, looped, 1 if options.quick else options.rounds)
    for line in (HEADER, ("---",) * len(HEADER), *table):
        print(f"| {' | '.join(line)} |")
    if options.json:
        options.json.mkdir(parents=True, exist_ok=True)
        content = {"machine": about, "table": [dict(zip(HEADER, line, strict=True)) for line in table]}
        (options.json / "gpu_purchase.json").write_text(json.dumps(content, indent=2) + "\n")
    for name in ("convolutions", "scaling"):
        print(f"\n{name}\n", flush=True)
        command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), "--device", "cuda"]
        command += ["--quick"] if options.quick else []
        command += ["--json", str(options.json / f"gpu_{name}.json")] if options.json else []
        subprocess.run(command, check=True)
    return 0


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="folder for the tables as JSON")
    parser.add_argument("--quick", action="store_true", help="a few networks for two epochs, to test the script")
    options = parser.parse_args(given)
    if min(options.models, options.rounds) < 1:
        parser.error("--models and --rounds must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
