"""Rows that models answer in an audit: about the records that attacks read, and about all records.

Targets and shadow models are trained once. Then all of them are asked as an audit asks them, and about every record of
the data set, in turn. Rows are exact; seconds are medians over three rounds, and of one for all records.

    python benchmarks/answers.py           # the CNN on MNIST, 8 shadow models of 200 records, as text
    python benchmarks/answers.py --quick   # the digits, 2 epochs
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

import mia_lightning as mia
from mia_lightning.datasets.digits import load_digits
from mia_lightning.datasets.mnist import load_mnist
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP

ATTACKS = {
    "shokri, loss": (mia.Shokri(), mia.Loss()),
    "lira_offline": (mia.Lira(online=False),),
}


def seconds_of(ask: Callable[[], object]) -> float:
    begun = time.perf_counter()
    ask()
    return time.perf_counter() - begun


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small data set, to test the script")
    quick = parser.parse_args(given).quick
    population = load_digits() if quick else load_mnist(root=os.environ.get("MIA_DATA", "data"))
    recipe = mia.Recipe(epochs=2, batch_size=50, optimizer=partial(torch.optim.Adam, lr=0.001))
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'attacks':<14} {'rows read':>12} {'all rows':>12} {'seconds':>9} {'all':>9}")
    whole: float | None = None
    for name, attacks in ATTACKS.items():
        observation = mia.observe(
            population,
            model=partial(MLP, hidden=[16]) if quick else CNN,
            membership=mia.Disjoint(train_size=50 if quick else 200),
            shadow=mia.Real(count=4 if quick else 8),
            training=recipe,
            attacks=attacks,
        )
        targets, shadows = observation.targets, observation.shadows
        read = targets.num_models * int(observation.membership.asked_N.sum()) + int(observation.asked_KN.sum())
        everything = (targets.num_models + shadows.num_models) * len(population)

        def asked(about: mia.Observation = observation) -> None:
            about.asked_targets.observe(about.population)
            about.asked_shadows.observe(about.population)

        def all_asked(about: mia.Observation = observation) -> None:
            about.targets.observe(about.population)
            about.shadows.observe(about.population)

        few = statistics.median(seconds_of(asked) for _ in range(1 if quick else 3))
        if whole is None:  # the same for all attacks, and long
            whole = seconds_of(all_asked)
        print(f"{name:<14} {read:>12,} {everything:>12,} {few:>9.3f} {whole:>9.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
