"""Fits of forests and of boosting models in the pool of processes, beside a plain loop of scikit-learn.

64 forests and 64 boosting models on halves of 10,000 records of Adult: once as the shadow models of an audit, in the
pool, and once in a loop that calls `fit` and `predict_proba`, one thread each. The two take turns for three rounds;
times are medians, with their range. The answers of both must be equal, and the pool must be at least 1.7 times as fast
on two cores or more: else the exit code is 1.

    python benchmarks/estimators.py           # as text; MIA_DATA names the folder of the data
    python benchmarks/estimators.py --quick   # 4 models on the digits, to test the script; its times mean nothing
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from mia_lightning.datasets.adult import load_adult
from mia_lightning.datasets.digits import load_digits
from mia_lightning.datasets.population import Population
from mia_lightning.membership.draws import blocks
from mia_lightning.seeds import derive
from mia_lightning.training.engine import Engine
from mia_lightning.training.estimators.answers import log_probabilities, way_of
from mia_lightning.training.estimators.estimators import fit_estimators
from mia_lightning.training.estimators.frames import Layout
from mia_lightning.training.estimators.making import Making, ready, seeded_alone
from mia_lightning.training.plan.cores import available_cores

LEAST = 1.7  # times as fast as the loop, on two cores


def in_loop(make: Any, population: Population, rows_K: Sequence[torch.Tensor]) -> np.ndarray[Any, Any]:
    """The log probabilities of every model, `[K, N, C]`, one model after the other."""
    x_NF, label_N = population.x_N.flatten(1).float().numpy(), population.label_N.numpy()
    classes = range(population.num_classes)
    answers = []
    for k, rows in enumerate(rows_K):
        seed = derive(0, "estimator", "shadow", k)
        with seeded_alone(seed):
            x_n, label_n = x_NF[rows.numpy()], label_N[rows.numpy()]
            model = ready(make, Layout(), seed).fit(x_n, label_n)
            way = way_of(model, x_n, label_n, classes)
            answers.append(log_probabilities(model, way, x_NF, len(classes), classes))
    return np.stack(answers)


def in_pool(make: Any, population: Population, rows_K: Sequence[torch.Tensor]) -> np.ndarray[Any, Any]:
    asked_KN = torch.ones(len(rows_K), len(population), dtype=torch.bool)
    models = fit_estimators(
        Making(make=make), Engine(seed=0), population, rows_K, asked_KN, role="shadow", looks_at_leaves=False
    )
    return models.observe(population).log_probability_KANC[:, 0].numpy()


def timed(work: Callable[[], np.ndarray[Any, Any]]) -> tuple[float, np.ndarray[Any, Any]]:
    begun = time.perf_counter()
    answers = work()
    return time.perf_counter() - begun, answers


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small data set, to test the script")
    quick = parser.parse_args(given).quick
    whole = load_digits() if quick else load_adult(root=f"{os.environ.get('MIA_DATA', 'data')}/adult")
    chosen = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[: 300 if quick else 10_000]
    population = whole.chosen(torch.zeros(len(whole), dtype=torch.bool).index_fill(0, chosen, True))
    count, cores = 4 if quick else 64, available_cores()
    everyone = torch.ones(len(population), dtype=torch.bool)
    rows_K = [row.nonzero().squeeze(1) for row in blocks(everyone, count // 2, 2, 0, "shadow").flatten(0, 1)]
    kinds = {
        "forest": RandomForestClassifier(5 if quick else 100),
        "boosting": HistGradientBoostingClassifier(max_iter=3 if quick else 100),
    }
    print(f"{cores} cores, scikit-learn {sklearn.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"{'estimator':<10} {'models':>6} {'records':>8} {'loop s':>18} {'pool s':>18} {'ratio':>6}  same")
    is_well = True
    for name, make in kinds.items():
        seconds: dict[str, list[float]] = {"loop": [], "pool": []}
        answers: dict[str, np.ndarray[Any, Any]] = {}
        for _ in range(1 if quick else 3):
            for way, work in (("loop", in_loop), ("pool", in_pool)):
                taken, answers[way] = timed(lambda work=work, make=make: work(make, population, rows_K))  # type: ignore[misc]
                seconds[way].append(taken)
        loop, pool = (statistics.median(seconds[way]) for way in ("loop", "pool"))
        same = np.array_equal(answers["loop"], answers["pool"])
        ranges = [f"{min(each):.2f} to {max(each):.2f}" for each in seconds.values()]
        print(
            f"{name:<10} {count:>6} {len(population):>8,} {ranges[0]:>18} {ranges[1]:>18} {loop / pool:>6.2f}  "
            f"{'yes' if same else 'no'}",
            flush=True,
        )
        is_well = is_well and same and (quick or cores < 2 or loop / pool >= LEAST)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
