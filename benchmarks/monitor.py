"""What `LeakageMonitor` costs, and what its screening of records finds.

    python benchmarks/monitor.py overhead [--root MNIST_ROOT] [--epochs 3] [--quick]
    python benchmarks/monitor.py screening [--data location|mnist] [--root FOLDER] [--shadows 128] [--targets 12]

`overhead` trains an MLP and the paper's CNN on MNIST's 60,000 training images by an ordinary `pl.Trainer`, with a
monitor at 2,000 + 2,000 records. Times are CPU seconds of the process, under OMP_NUM_THREADS=1 those of one thread, so
that other work on the machine does not count. The choice of records, with the first fetch of each, happens once for a
fit and stands apart.

`screening` asks whether LT-IQR, which needs no shadow model, finds the records that an attack with shadow models finds.
T targets train on random halves of Location, or of 6,000 images of MNIST, by an ordinary `pl.Trainer` with a monitor of
all members. Online LiRA of each target from one half of the shadow models says which members are vulnerable: those
above every non-member but a share of `FPR`. Precision at k is the share of vulnerable ones among the k members that a
score ranks first: LT-IQR; the final loss, high and low; LiRA of the other half of the shadow models, as a ceiling; and
chance, the share of vulnerable members. `missed` is the share of the vulnerable members that are not among the first k,
at k the number of vulnerable ones. Intervals are Student's, over targets: these records and shadow models, new
trainings.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from scipy.stats import t as student
from tables import render
from this_machine import machine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import mia_lightning as mia
from mia_lightning.attacks.statistics import scaled_logit
from mia_lightning.datasets.form import one_tensor
from mia_lightning.datasets.location import load_location
from mia_lightning.datasets.mnist import load_mnist
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import generator, isolated
from mia_lightning.training.signals import Signals
from mia_lightning.training.trainer import quiet_lightning

SEED = 0
FPR = 0.01
SHARES = (0.01, 0.05, 0.1)  # of the members, at which precision is taken
OVERHEAD = (
    "network",
    "records",
    "epoch, CPU s",
    "look, CPU s",
    "overhead",
    "once a fit, CPU s",
    "AUC after the last epoch",
)
SCREENING = ("ranked by", *(f"precision at {share:.0%}" for share in SHARES), "missed")


class Lit(pl.LightningModule):
    """A classifier as Lightning's documentation writes one."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__()
        self.net, self.lr = net, lr

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class TimedMonitor(mia.LeakageMonitor):
    """Notes the seconds of each look, and of what comes before the first epoch."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seconds: list[float] = []
        self.before = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        started = time.process_time()
        super().on_train_start(trainer, pl_module)
        self.before = time.process_time() - started

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        started = time.process_time()
        super().on_train_epoch_end(trainer, pl_module)
        self.seconds.append(time.process_time() - started)


class Epochs(pl.Callback):
    """Seconds of each epoch, the looks at its end among them."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: object) -> None:
        self.started = time.process_time()

    def on_train_epoch_end(self, *_: object) -> None:
        self.seconds.append(time.process_time() - self.started)


def fit(module: Lit, members: TensorDataset, monitor: mia.LeakageMonitor, epochs: int, batch: int, *more: Any) -> None:
    """Train by an ordinary Trainer on the CPU."""
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=[monitor, *more],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(members, batch_size=batch, shuffle=True))


def overhead(root: Path, epochs: int, quick: bool) -> list[tuple[str, ...]]:
    """One row for each network."""
    data = load_mnist(root=root)
    train, held_out = (torch.arange(2000), torch.arange(2000, 4000)) if quick else split_of_mnist()
    members = TensorDataset(one_tensor(data.records(train)), data.label_N[train])
    others = TensorDataset(one_tensor(data.records(held_out)), data.label_N[held_out])
    rows: list[tuple[str, ...]] = []
    for name, make in (
        ("mlp 784-256-10", flat_mlp),
        ("cnn", lambda: CNN(data.input_shape, data.num_classes)),
    ):
        with isolated(SEED, "benchmark", name):
            module = Lit(make(), 1e-3)
            monitor, clock = TimedMonitor(members=2000, nonmembers=2000, held_out_records=others), Epochs()
            fit(module, members, monitor, epochs, 64, clock)
        look, epoch = statistics.median(monitor.seconds), statistics.median(clock.seconds)
        seen = monitor.trace[-1]
        rows.append(
            (
                *(name, f"{seen.num_members:,} + {seen.num_nonmembers:,}", f"{epoch - look:.2f}", f"{look:.3f}"),
                *(f"{look / (epoch - look):.1%}", f"{monitor.before:.2f}"),
                f"{seen.auc:.3f} [{seen.auc_low:.3f}, {seen.auc_high:.3f}]",
            )
        )
    return rows


def split_of_mnist() -> tuple[Tensor, Tensor]:
    """Its 60,000 training images, and its 10,000 test images."""
    return torch.arange(60_000), torch.arange(60_000, 70_000)


def flat_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))


def screening(data: Population, num_shadows: int, num_targets: int, quick: bool) -> tuple[list[tuple[str, ...]], str]:
    """One row for each score, and a sentence on what was ranked."""
    if quick:
        data = make_population(data.x_N[:600].numpy(), data.label_N[:600].numpy())
    epochs = 8 if quick else 50
    make = partial(MLP, hidden=[128], activation="tanh")
    observed = mia.observe(
        data,
        model=make,
        membership=mia.Halves(),
        shadow=mia.Real(count=num_shadows),
        training=mia.Recipe(epochs=epochs, batch_size=100, optimizer=partial(torch.optim.Adam, lr=1e-3)),
        attacks=[mia.Lira()],
        seed=SEED,
    )
    member_KN = observed.membership.member_KN[observed.membership.shadows]
    phi_KN = scaled_logit(observed.shadow_signals, data.label_N)
    half_K = torch.arange(len(member_KN)) // 2 % 2 == 0  # whole complementary pairs
    found: dict[str, list[list[float]]] = {}
    shares = []
    for target in range(num_targets):
        is_member_N = torch.zeros(len(data), dtype=torch.bool)
        chosen = torch.randperm(len(data), generator=generator(SEED, "benchmark", "target", target))[: len(data) // 2]
        is_member_N[chosen] = True
        monitor, phi_N = watched(data, is_member_N, make, epochs, target)
        labels, other = (lira(phi_N, phi_KN[half], member_KN[half]) for half in (half_K, ~half_K))
        threshold = labels[~is_member_N].quantile(1 - FPR)
        vulnerable_M = (labels > threshold)[is_member_N]
        shares.append(float(vulnerable_M.double().mean()))
        screened = monitor.screening()
        order = screened.record_N.argsort()
        scores = {
            "LiRA, the other shadow models (ceiling)": other[is_member_N],
            "LT-IQR (screening)": screened.score_N[order],
            "final loss, highest first": screened.final_loss_N[order],
            "final loss, lowest first": -screened.final_loss_N[order],
        }
        for name, score_M in scores.items():
            found.setdefault(name, []).append(precisions(score_M, vulnerable_M))
    rows = [(name, *(interval([each[i] for each in found[name]]) for i in range(len(SHARES) + 1))) for name in found]
    chance = interval(shares)
    rows.append(("chance", *[chance] * len(SHARES), interval([1 - share for share in shares])))
    about = (
        f"{data.name}, {len(data) // 2:,} members of {len(data):,}, {epochs} epochs, {num_targets} targets, "
        f"{int(half_K.sum())} + {int((~half_K).sum())} shadow models; vulnerable at an FPR of {FPR:.0%}: "
        f"{chance} of the members."
    )
    return rows, about


def watched(
    data: Population, is_member_N: Tensor, make: Any, epochs: int, target: int
) -> tuple[mia.LeakageMonitor, Tensor]:
    """A target that an ordinary Trainer trains under a monitor, and its scaled logits for all records."""
    places = is_member_N.nonzero().squeeze(1), (~is_member_N).nonzero().squeeze(1)
    members, others = (TensorDataset(one_tensor(data.records(place)), data.label_N[place]) for place in places)
    with isolated(SEED, "benchmark", "target", target):
        module = Lit(make(data.input_shape, data.num_classes), 1e-3)
        monitor = mia.LeakageMonitor(members="all", nonmembers="all", held_out_records=others)
        fit(module, members, monitor, epochs, 100)
    with torch.no_grad():
        logits = module.eval()(data.records(torch.arange(len(data))))
    signals = Signals(log_probability_KANC=logits.double().log_softmax(-1).float()[None, None])
    return monitor, scaled_logit(signals, data.label_N)[0]


def lira(phi_N: Tensor, phi_KN: Tensor, member_KN: Tensor) -> Tensor:
    """Online LiRA with a variance for each record: the log likelihood ratio of a target's scaled logits."""
    ratio_N = torch.zeros_like(phi_N)
    for kind_KN, sign in ((member_KN, 1.0), (~member_KN, -1.0)):
        masked_KN = phi_KN.masked_fill(~kind_KN, torch.nan)
        mean_N = masked_KN.nanmean(0)
        count_N = kind_KN.sum(0)
        variance_N = (masked_KN - mean_N).square().nansum(0) / (count_N - 1) + 1e-6
        ratio_N += sign * (-(phi_N - mean_N).square() / (2 * variance_N) - variance_N.log() / 2)
    return ratio_N


def precisions(score_M: Tensor, vulnerable_M: Tensor) -> list[float]:
    """Precision at each share of the members, and the share of the vulnerable ones beyond the first so many."""
    order = score_M.argsort(descending=True, stable=True)
    ranked_M = vulnerable_M[order].double()
    at = [float(ranked_M[: max(1, round(share * len(ranked_M)))].mean()) for share in SHARES]
    count = int(vulnerable_M.sum())
    return [*at, float(1 - ranked_M[:count].mean()) if count else float("nan")]


def interval(values: Sequence[float]) -> str:
    """The mean, with Student's 95 % limits."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.2f}"
    reach = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return f"{mean:.2f} [{max(0.0, mean - reach):.2f}, {min(1.0, mean + reach):.2f}]"


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What LeakageMonitor costs, and what its screening finds.")
    parser.add_argument("what", choices=("overhead", "screening"))
    parser.add_argument("--data", choices=("location", "mnist"), default="location", help="of screening")
    parser.add_argument("--root", type=Path, default=None, help="of MNIST or Location (default: in shared/data)")
    parser.add_argument("--epochs", type=int, default=3, help="of overhead")
    parser.add_argument("--shadows", type=int, default=128)
    parser.add_argument("--targets", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="a test of the script")
    return parser.parse_args(given)


def main() -> int:
    args = arguments()
    print(machine(torch.device("cpu")), end="\n\n")
    if args.what == "overhead":
        rows = overhead(args.root or Path("shared/data"), 1 if args.quick else args.epochs, args.quick)
        print(render(OVERHEAD, rows, words=2))
        return 0
    if args.data == "location":
        data = load_location(root=args.root or Path("shared/data/location"))
    else:
        every = load_mnist(root=args.root or Path("shared/data"))
        few = torch.randperm(len(every), generator=generator(SEED, "benchmark", "mnist"))[:6000]
        x_N = one_tensor(every.records(few)).flatten(1)
        data = make_population(x_N.numpy(), every.label_N[few].numpy(), name="mnist")
    rows, about = screening(data, args.shadows, args.targets, args.quick)
    print(render(SCREENING, rows), end=f"\n\n{about}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
