"""Limits that hold for the largest of several figures at once."""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit, ndtri

from mia_lightning.metrics.figures import Figure, Interval

TAIL = 0.025  # of the intervals of single figures


def widened(figure: Figure, count: int) -> Interval:
    """The 95 % interval of a share at 1 − 0.05 / count, so that `count` such intervals hold together (Bonferroni).

    On the logit scale each limit moves away from the value by the ratio of the normal quantiles, which is exact for
    intervals that are normal there. A limit that stands alone, above a value of 0 or below one of 1, is moved as the
    exact one of a binomial share of the same size, 1 − tail^(1/n).
    """
    if count <= 1 or figure.value is None:
        return Interval(figure.low, figure.high, figure.interval or "")
    ratio = float(ndtri(TAIL / count) / ndtri(TAIL))
    method = f"{figure.interval}; of {count} attacks at once"
    low = None if figure.low is None else _moved(figure.value, figure.low, ratio, count)
    high = None if figure.high is None else 1 - _moved(1 - figure.value, 1 - figure.high, ratio, count)
    return Interval(low, high, method)


def largest(figures: Sequence[Figure]) -> Figure | None:
    """The largest of several figures, its interval from the largest of the lower to the largest of the upper limits at
    0.05 / m: the largest of the true values is in it with 95 %. None where no figure has a value.

    Its upper limit is None where a figure has none, since nothing bounds that one. The other fields are those of the
    figure of the largest value, the first of equals.
    """
    defined = [each for each in figures if each.value is not None]
    if not defined:
        return None
    best = max(defined, key=lambda each: each.value or 0.0)
    wide = [widened(each, len(defined)) for each in defined]
    lows, highs = ([each.low for each in wide], [each.high for each in wide])
    low = max((each for each in lows if each is not None), default=None)
    high = None if None in highs else max(each for each in highs if each is not None)
    return best.model_copy(update={"low": low, "high": high})


def _moved(value: float, limit: float, ratio: float, count: int) -> float:
    """A lower limit below `value`, farther away."""
    if limit <= 0.0 or limit >= value:
        return limit
    if value >= 1.0:
        return float(limit ** (np.log(TAIL / count) / np.log(TAIL)))
    return float(expit(logit(value) - (logit(value) - logit(limit)) * ratio))
