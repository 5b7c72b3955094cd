"""ROC curves of a run, from its scores, on one grid of false-positive rates: a few dozen numbers for each attack."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mia_lightning.errors import first_line
from mia_lightning.reports.names import SCORES

Array = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

GRID_F: Array = 10.0 ** (np.arange(-40, 1) / 8)  # eight rates a decade, from 0.00001 to 1
_ROUNDING = 1 + 1e-12  # of k / n beside the same rate written as a decimal


def largest_tpr(score_N: Array, is_member_N: Flags, max_fpr_F: Array) -> Array:
    """Largest true-positive rate among thresholds whose false-positive rate is at most each of `max_fpr_F`: `[F]`.

    The ROC behind it is exact: tied scores move together, nothing is interpolated.

    Args:
        score_N: any real range, no NaN; higher means more likely a member. Members and non-members are both there.
        is_member_N: True is the positive class.
        max_fpr_F: in [0, 1].
    """
    falling = np.argsort(-score_N, kind="stable")
    score_N, is_member_N = score_N[falling], is_member_N[falling]
    is_last_N = np.append(score_N[1:] != score_N[:-1], True)
    tpr = np.append(0.0, np.cumsum(is_member_N)[is_last_N] / is_member_N.sum())
    fpr = np.append(0.0, np.cumsum(~is_member_N)[is_last_N] / (~is_member_N).sum())
    return np.asarray(tpr[np.searchsorted(fpr, max_fpr_F * _ROUNDING, side="right") - 1])


def thinned_roc(score_N: Array, is_member_N: Flags) -> tuple[int, list[float]] | None:
    """Where on `GRID_F` the curve begins, and its true-positive rates from there on, to three digits.

    It begins at the last rate below that of one false positive, where the rate is that of no false positive at all.
    None without members or without non-members.
    """
    if is_member_N.all() or not is_member_N.any():
        return None
    smallest = 1 / int((~is_member_N).sum())
    start = max(int(np.searchsorted(GRID_F, smallest / _ROUNDING)) - 1, 0)
    return start, [float(f"{rate:.3g}") for rate in largest_tpr(score_N, is_member_N, GRID_F[start:])]


def read_curves(folder: Path, complain: Callable[[str], None]) -> dict[str, tuple[int, list[float]]]:
    """The curve of every attack of a run; none if its scores are absent or cannot be read.

    Args:
        complain: is called with one sentence about scores that cannot be read.
    """
    path = folder / SCORES
    if not path.is_file():
        return {}
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["attack", "is_member", "score"], page_checksum_verification=True)
        attack_N = np.asarray(table["attack"].to_numpy(zero_copy_only=False)).astype(str)
        is_member_N = table["is_member"].to_numpy(zero_copy_only=False).astype(bool)
        score_N = table["score"].to_numpy(zero_copy_only=False).astype(np.float64)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        complain(f"{path} cannot be read ({first_line(error)}); its run is shown without curves.")
        return {}
    if np.isnan(score_N).any():
        complain(f"{path} has NaN scores; its run is shown without curves.")
        return {}
    curves = {}
    for name in np.unique(attack_N):
        rows = attack_N == name
        curve = thinned_roc(score_N[rows], is_member_N[rows])
        if curve is not None:
            curves[str(name)] = curve
    return curves
