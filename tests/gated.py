"""Reports of made-up scores, as far as a gate reads them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mia_lightning.reports.schema import TrustSection
from mia_lightning.reports.scores import Scores

Numbers = NDArray[np.float64]


def report_of(scores: dict[str, Numbers], n: int, *, threshold: float = 0.0, targets: int = 1) -> Any:
    """A report, as far as the gate reads it: of each attack `[T * 2n]` scores, members first within each target."""
    rows = targets * 2 * n
    every = np.concatenate(list(scores.values()))
    return SimpleNamespace(
        trust=TrustSection(verdict="not checked"),
        understated=None,
        attacks=[SimpleNamespace(name=name) for name in scores],
        membership=SimpleNamespace(num_members=n, num_nonmembers=n, plan="halves", duplicates_across_boundary=0),
        scores=Scores(
            attack=np.repeat(list(scores), rows),
            target=np.tile(np.repeat(np.arange(targets), 2 * n), len(scores)),
            record=np.tile(np.arange(2 * n), len(scores) * targets),
            label=np.zeros(len(every), dtype=np.int64),
            is_member=np.tile(np.arange(2 * n) < n, len(scores) * targets),
            score=every,
            is_flagged=every >= threshold,
        ),
    )


def counted(tpr: float, fpr: float, n: int) -> Numbers:
    """Scores of 1 and -1 with exactly these rates at the threshold 0."""
    of_members, of_others = round(tpr * n), round(fpr * n)
    return np.concatenate([np.repeat([1.0, -1.0], [of, n - of]) for of in (of_members, of_others)])
