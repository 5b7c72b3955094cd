"""How much the figures of two runs go together over the records that they share: what pairs their difference.

The influence of a record on a figure is its derivative by the weight of the record; the products of those on two
figures, summed over shared records, are their covariance. As `metrics.intervals.influence`, of one target each, without
torch.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mia_lightning.errors import InputError
from mia_lightning.reports.names import SCORES
from mia_lightning.reports.rows import RunRow
from mia_lightning.reports.scores import Scores, read_scores

Array = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

FIGURES = ("auc", "advantage")
MOST_RUNS = 64  # on one data set, all pairs of which are counted
TRIALS = "one_canary"  # a plan of trials, which are one record


def pairs_of(runs: Sequence[tuple[RunRow, Path]], attacks: Sequence[str]) -> list[dict[str, Any]]:
    """For each data set and attack: `attack` and `runs`, both by place, and for each figure the correlations of every
    run with those before it, one run after another.

    Runs of one target each count, on data sets with 2 to `MOST_RUNS` of them. What cannot be read is left out.
    """
    single = [
        (str(run.fingerprint), place, folder)
        for place, (run, folder) in enumerate(runs)
        if run.fingerprint is not None and run.num_targets == 1 and run.plan != TRIALS
    ]
    pairs: list[dict[str, Any]] = []
    for _, group in groupby(sorted(single), key=lambda each: each[0]):
        of = list(group)
        if 2 <= len(of) <= MOST_RUNS:
            scores = {place: found for _, place, folder in of if (found := _scores(folder)) is not None}
            pairs += (each for name in attacks if (each := _pairs(scores, name, attacks.index(name))) is not None)
    return pairs


def _scores(folder: Path) -> Scores | None:
    try:
        return read_scores(folder / SCORES)[0]
    except InputError:  # said already, where the curves are read
        return None


def _pairs(scores: dict[int, Scores], name: str, attack: int) -> dict[str, Any] | None:
    rows = {place: each.attack == name for place, each in scores.items()}
    rows = {place: of for place, of in rows.items() if min(_counts(scores[place].is_member[of])) >= 2}
    if len(rows) < 2:
        return None
    length = 1 + max(int(scores[place].record[of].max()) for place, of in rows.items())
    found: dict[str, Any] = {"attack": attack, "runs": list(rows)}
    for figure in FIGURES:
        part_RN = np.zeros((len(rows), length))
        for row, (place, of) in enumerate(rows.items()):
            each = scores[place]
            part_RN[row, each.record[of]] = influence(figure, each.score[of], each.is_flagged[of], each.is_member[of])
        table_RR = correlations(part_RN)
        found[figure] = [round(float(value), 3) for row in range(1, len(rows)) for value in table_RR[row, :row]]
    return found


def _counts(is_member_N: Flags) -> tuple[int, int]:
    return int(is_member_N.sum()), int((~is_member_N).sum())


def influence(figure: str, score_N: Array, is_flagged_N: Flags, is_member_N: Flags) -> Array:
    """Of each record on the AUC, or on the advantage of the attack's own decision; two of either kind at least."""
    part_N = np.empty(len(score_N))
    for kind_N, sign in ((is_member_N, 1), (~is_member_N, -1)):
        value_M = is_flagged_N[kind_N].astype(np.float64)
        if figure == "auc":
            others = np.sort(score_N[~kind_N])
            below_M = np.searchsorted(others, score_N[kind_N]) + np.searchsorted(others, score_N[kind_N], "right")
            value_M = below_M / (2 * len(others))
        part_N[kind_N] = sign * (value_M - value_M.mean()) / np.sqrt(len(value_M) * (len(value_M) - 1))
    return part_N


def correlations(part_RN: Array) -> Array:
    """Of the figures of R runs, `[R, R]`; below 1, as if one record more told two runs apart."""
    size_R = np.sqrt((part_RN**2).sum(1) + (part_RN**2).max(1) / 2)
    size_R[size_R == 0] = 1.0
    table_RR: Array = part_RN @ part_RN.T / np.outer(size_R, size_R)
    return table_RR
