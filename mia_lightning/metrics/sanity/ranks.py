"""Two tests of a target's answers: whether their ranks follow others, and whether other predictions are better."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, norm, rankdata

from mia_lightning.metrics.sanity.answers import Array


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Stratified rank correlation, with its null standard score; `per_unit` is the score of a correlation of one."""

    rho: float
    z: float
    per_unit: float


def stratified_correlation(first_N: Array, second_N: Array, stratum_N: Array) -> Correlation | None:
    """Spearman's correlation within strata; None where either has ties alone.

    The variance of the score is the exact one of random ranks within each stratum.
    """
    cov = ss_first = ss_second = variance = 0.0
    for stratum in np.unique(stratum_N):
        inside = stratum_N == stratum
        n = int(inside.sum())
        if n < 3:
            continue
        one, two = (rankdata([first_N[inside], second_N[inside]], axis=1) - (n + 1) / 2) / n
        own, other = float(one @ one), float(two @ two)
        cov, ss_first, ss_second = cov + float(one @ two), ss_first + own, ss_second + other
        variance += own * other / (n - 1)
    scale = float(np.sqrt(ss_first * ss_second))
    if variance == 0 or scale == 0:
        return None
    return Correlation(rho=cov / scale, z=cov / variance**0.5, per_unit=scale / variance**0.5)


def gain(old_N: Array, new_N: Array, label_N: Array) -> float:
    """One-sided p-value that new predictions are better than old ones, beyond what their frequencies explain.

    The larger of two: McNemar's exact test of the records that one of them has right alone; and the score of their
    difference under labels in random order, since predicting the commonest class more often is no repair.
    """
    old_right, new_right = old_N == label_N, new_N == label_N
    better, worse = int((new_right & ~old_right).sum()), int((old_right & ~new_right).sum())
    if better <= worse:
        return 1.0
    paired = float(binom.sf(better - 1, better + worse, 0.5))
    n = len(label_N)
    pairs, count_P = np.unique(np.stack([old_N, new_N]), axis=1, return_counts=True)
    names_Y, count_Y = np.unique(label_N, return_counts=True)
    a_PY = (pairs[1][:, None] == names_Y).astype(float) - (pairs[0][:, None] == names_Y)
    share_P, share_Y = count_P / n, count_Y / n
    row_P, column_Y = a_PY @ share_Y, share_P @ a_PY
    mean = float(share_P @ row_P)
    centred_PY = a_PY - row_P[:, None] - column_Y + mean
    variance = float(count_P @ centred_PY**2 @ count_Y) / max(n - 1, 1)
    if variance <= 0:
        return 1.0
    return max(paired, float(norm.sf((better - worse - n * mean) / variance**0.5)))


def ranks_within(value_FN: Array, stratum_N: Array) -> Array:
    """Ranks of each row within strata, in (0, 1]."""
    rank_FN = np.zeros(value_FN.shape)
    for stratum in np.unique(stratum_N):
        inside = stratum_N == stratum
        rank_FN[:, inside] = rankdata(value_FN[:, inside], axis=1) / inside.sum()
    return rank_FN
