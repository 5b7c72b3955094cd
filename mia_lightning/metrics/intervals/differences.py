"""The difference of a figure between two runs, with limits that use what the runs share.

There are two questions, and an interval answers one of them. *These models*: do these two trained models leak
differently to other records of the same population? Records vary, models do not. *These recipes*: would other models,
trained in the same two ways on other records, leak differently? Models vary too, so that each recipe needs several.

A value of `first` less one of `second` is positive where the first leaks more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, nan, sqrt
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from mia_lightning.metrics.figures import Figure
from mia_lightning.metrics.intervals import crossed
from mia_lightning.metrics.intervals.influence import Influence
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.seeds import derive

Numbers = NDArray[np.float64]

ERROR = 2 * TAIL
# Below which a verdict on recipes is refused.
FEWEST_TARGETS = 4
PAIRED = "from the limits of both and their correlation over shared records"
UNPAIRED = "from the limits of both, as if they shared no record"
OVER_RECORDS = "normal, from the influences of records"
OVER_TARGETS = "Student's t over targets and records"
WORST = ", for the largest over the attacks"
NO_LIMITS = "none: a figure has no interval"
FEW_FALSE_POSITIVES = "none: with fewer than 10 false positives allowed to a target it takes {} targets each"
TOO_FEW_TARGETS = f"none: with fewer than {FEWEST_TARGETS} targets each nothing is known of how trainings vary"
EQUAL = "none: no target and no record tells the two apart"
_DRAWS = 20_000
_FEWEST_BEYOND = 20  # draws, for a tail to be read off them


class Law(Protocol):
    """The distribution of the largest of several standardised errors."""

    def critical(self, error: float) -> float:
        """What it exceeds with the probability `error`, two-sided."""

    def p(self, statistic: float) -> float:
        """The probability that it is at least this."""


@dataclass(frozen=True)
class Student:
    """Student's t, normal with infinite degrees of freedom; of `count` errors by Bonferroni's inequality."""

    freedom: float = inf
    count: int = 1

    def critical(self, error: float) -> float:
        tail = 1 - error / 2 / self.count
        return float(ndtri(tail) if self.freedom == inf else stdtrit(self.freedom, tail))

    def p(self, statistic: float) -> float:
        tail = ndtr(-statistic) if self.freedom == inf else stdtr(self.freedom, -statistic)
        return min(1.0, 2 * self.count * float(tail))


@dataclass(frozen=True, eq=False)
class Largest:
    """The largest of `count` correlated normal errors, by draws, and by Bonferroni's inequality beyond these.

    Attributes:
        drawn_B: their largest absolute values, ascending.
    """

    drawn_B: Numbers
    count: int

    def critical(self, error: float) -> float:
        bound = Student(count=self.count).critical(error)
        if error * len(self.drawn_B) < _FEWEST_BEYOND:
            return bound
        return min(bound, float(np.quantile(self.drawn_B, 1 - error)))

    def p(self, statistic: float) -> float:
        beyond = len(self.drawn_B) - int(np.searchsorted(self.drawn_B, statistic))
        bound = Student(count=self.count).p(statistic)
        return min(bound, max(beyond, _FEWEST_BEYOND) / len(self.drawn_B))


@dataclass(frozen=True, eq=False)
class Difference:
    """A difference of two figures, or of the largest figures over several attacks.

    With A_a and B_b the figures of attacks a and b on either side, max A − max B = max_a min_b (A_a − B_b). If all
    A_a − B_b are within their limits at once, it is between max_a min_b of the lower and of the upper ones.

    Attributes:
        value: of the first less the second; NaN where one is undefined.
        change_AB: A_a − B_b, one by one for a single attack.
        below_AB, above_AB: the standard errors towards either side; NaN without limits.
        law: of the largest of the standardised errors.
        method: how the limits were found, or "none: " and why there are none.
        trainings, records: of recipes, the variances of the strongest attacks that either adds; NaN else.
        num_targets: of the smaller side.
    """

    value: float
    change_AB: Numbers
    below_AB: Numbers
    above_AB: Numbers
    law: Law
    method: str
    trainings: float = nan
    records: float = nan
    num_targets: int = 1

    @property
    def has_limits(self) -> bool:
        return not self.method.startswith("none")

    def limits(self, error: float = ERROR) -> tuple[float, float] | tuple[None, None]:
        """Of an interval that misses the truth with the probability `error`; None without limits."""
        if not self.has_limits:
            return None, None
        reach = self.law.critical(error)
        low = (self.change_AB - reach * self.below_AB).min(1).max()
        high = (self.change_AB + reach * self.above_AB).min(1).max()
        return float(low), float(high)

    @property
    def p(self) -> float:
        """Two-sided: the smallest `error` at which the limits exclude 0; NaN without limits."""
        if not self.has_limits:
            return nan
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.value > 0:
                statistic = float(np.nan_to_num(self.change_AB / self.below_AB, nan=0.0, posinf=inf).min(1).max())
            else:
                statistic = float(np.nan_to_num(-self.change_AB / self.above_AB, nan=0.0, posinf=inf).max(1).min())
        return self.law.p(max(0.0, statistic))

    def factor_to_settle(self, distance: float, error: float = ERROR) -> float:
        """How many times as many records bring a limit on the nearer side to within `distance` of the value."""
        low, high = self.limits(error)
        if low is None or high is None or distance <= 0:
            return nan
        reach = self.value - low if self.value > 0 else high - self.value
        return (reach / distance) ** 2

    def targets_to_settle(self, distance: float, error: float = ERROR, most: int = 4096) -> int | None:
        """The number of targets each that brings the limits to within `distance`; None where records must do it."""
        for count in range(max(self.num_targets, FEWEST_TARGETS), most + 1):
            variance = self.trainings * self.num_targets / count + self.records
            if Student(_freedom(self.trainings, count, self.records)).critical(error) * sqrt(variance) < distance:
                return count
        return None


@dataclass(frozen=True, eq=False)
class Measured:
    """A figure of one attack on one side: as reported, and what its records contribute."""

    figure: Figure
    influence: Influence

    @property
    def is_paired(self) -> bool:
        """Whether its influences are good enough for a correlation."""
        return not (self.influence.missing or self.influence.is_coarse)

    @property
    def alone(self) -> "Measured":
        """With its limits, and nothing said of its records."""
        nothing_TN = torch.zeros_like(self.influence.part_TN[:1])
        return Measured(self.figure, Influence(nothing_TN[:, 0], nothing_TN, NO_LIMITS))


def difference_of_models(first: Sequence[Measured], second: Sequence[Measured]) -> Difference:
    """Of these trained models, for other records of the same population.

    Of one target each, the limits come from those of either figure, (l, u) of A and of B, which are right for each by
    itself, and from the correlation r of the two over records:

        low = A − B − √((A − l_A)² + (u_B − B)² − 2 r (A − l_A)(u_B − B)),

    the upper one likewise. Where both errors are normal this is A − B ± z √(V_A + V_B − 2 r √(V_A V_B)), and of the AUC
    DeLong's interval. A record that was a member of one model and not of the other counts in r, too; records of one
    model alone do not. Where a rate rests on fewer than ten false positives nothing is redrawn: its limits are
    conservative, and r is taken for 0. Of several targets the limits are normal, with the variance of the mean.

    Several attacks on each side stand for the largest figure over them. The largest of their standardised errors has
    the law of correlated normal numbers.

    Args:
        first, second: of each attack.

    Source: Zou and Donner, "Construction of confidence limits about effect measures: a general approach" (2008), and
        Zou, "Toward using confidence intervals to compare correlations" (2007), for r; DeLong, DeLong and
        Clarke-Pearson (1988) for the AUC.
    """
    change_AB = _changes(first, second)
    of_one = all(len(each.influence.value_T) == 1 for each in (*first, *second))
    if not np.isfinite(change_AB).all():
        return _without_limits(change_AB, _reason((*first, *second), of_limits=of_one))
    if of_one:
        first, second = ([each if each.is_paired else each.alone for each in side] for side in (first, second))
    gram = _gram(first, second)
    below_AB, above_AB = np.full_like(change_AB, nan), np.full_like(change_AB, nan)
    for a, one in enumerate(first):
        for b, other in enumerate(second):
            covariance = gram[np.ix_([a, len(first) + b], [a, len(first) + b])]
            if of_one:
                below_AB[a, b], above_AB[a, b] = _from_limits(one.figure, other.figure, _correlation(covariance))
            elif one.is_paired and other.is_paired:
                below_AB[a, b] = above_AB[a, b] = sqrt(
                    max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
                )
    if not (np.isfinite(below_AB).all() and np.isfinite(above_AB).all()):
        return _without_limits(change_AB, _reason((*first, *second), of_limits=of_one))
    if not (below_AB.any() and above_AB.any()):
        return _without_limits(change_AB, EQUAL)
    is_known = all(not each.influence.missing for each in (*first, *second))
    is_paired = is_known and bool(gram[: len(first), len(first) :].any())
    method = (PAIRED if is_paired else UNPAIRED) if of_one else OVER_RECORDS
    law: Law = Student()
    if change_AB.size > 1:
        law = _law(gram, (below_AB > 0) | (above_AB > 0)) if is_known else Student(count=change_AB.size)
        method += WORST
    return _of_some_width(Difference(float(change_AB.min(1).max()), change_AB, below_AB, above_AB, law, method))


def difference_of_recipes(first: Sequence[Measured], second: Sequence[Measured], *, same_targets: bool) -> Difference:
    """Of other models that are trained in the same two ways, on other records of the same population.

    Let D_t be the difference on target t, where target t of either side has the same members; Z_tn the difference of
    the influences of record n on target t; T the number of targets. As in an analysis of variance with two crossed
    factors, rows of the targets, columns of the records,

        V_rows = Σ_t (D_t − D̄)² / T (T − 1),     V_columns = Σ_n (Σ_t Z_tn)² / T²,     V_cells = Σ_tn Z_tn² / T².

    What single answers add is in rows and in columns, and is taken off once: V = V_rows + V_columns − V_cells, but no
    less than the larger of the two. Limits are those of Student's t, with (T − 1) V² / V_rows² degrees of freedom. Of
    targets with other members the variances of either side are added up; records that both sides share stay paired.

    Args:
        first, second: of each attack; those of one side have the same targets.
        same_targets: target t has the same members on either side.

    Source: Owen, "The pigeonhole bootstrap" (2007), for the variances; Satterthwaite (1946) for the degrees of freedom.
    """
    change_AB = _changes(first, second)
    targets = [len(side[0].influence.value_T) for side in (first, second)]
    if min(targets) < FEWEST_TARGETS:
        return _without_limits(change_AB, TOO_FEW_TARGETS)
    if not np.isfinite(change_AB).all() or any(each.influence.missing for each in (*first, *second)):
        return _without_limits(change_AB, _reason((*first, *second), of_limits=False))
    if any(each.influence.is_coarse for each in (*first, *second)) and min(targets) < crossed.FEWEST_TARGETS:
        return _without_limits(change_AB, FEW_FALSE_POSITIVES.format(crossed.FEWEST_TARGETS))
    gram = _gram(first, second)
    rows_AB, error_AB, freedom = np.zeros_like(change_AB), np.zeros_like(change_AB), inf
    for a, one in enumerate(first):
        for b, other in enumerate(second):
            place = np.ix_([a, len(first) + b], [a, len(first) + b])
            columns = float(gram[place][0, 0] + gram[place][1, 1] - 2 * gram[place][0, 1])
            rows, cells, own = _rows(one.influence, other.influence, same_targets=same_targets)
            variance = max(rows + columns - cells, rows, columns)
            rows_AB[a, b], error_AB[a, b] = rows, sqrt(variance)
            freedom = min(freedom, own * (variance / rows) ** 2 if rows > 0 else inf)
    if not error_AB.any():
        return _without_limits(change_AB, EQUAL)
    strongest = np.unravel_index(int(np.argmin(change_AB.min(1).max() != change_AB)), change_AB.shape)
    method = OVER_TARGETS + (WORST if change_AB.size > 1 else "")
    found = Difference(
        value=float(change_AB.min(1).max()),
        change_AB=change_AB,
        below_AB=error_AB,
        above_AB=error_AB,
        law=Student(freedom, change_AB.size),
        method=method,
        trainings=float(rows_AB[strongest]),
        records=float(max(error_AB[strongest] ** 2 - rows_AB[strongest], 0.0)),
        num_targets=min(targets),
    )
    return _of_some_width(found)


def _changes(first: Sequence[Measured], second: Sequence[Measured]) -> Numbers:
    values = [
        np.array([nan if each.figure.value is None else each.figure.value for each in side]) for side in (first, second)
    ]
    changes: Numbers = values[0][:, None] - values[1]
    return changes


def _gram(first: Sequence[Measured], second: Sequence[Measured]) -> Numbers:
    """Covariances over records of the figures of both sides, those of the first side before those of the second."""
    part_FN = np.stack([each.influence.part_N.numpy() for each in (*first, *second)])
    products: Numbers = part_FN @ part_FN.T
    return products


def _correlation(covariance: Numbers) -> float:
    """0 where an influence is not known."""
    size = sqrt(covariance[0, 0] * covariance[1, 1])
    return float(np.clip(covariance[0, 1] / size, -1, 1)) if size > 0 else 0.0


def _from_limits(first: Figure, second: Figure, correlation: float) -> tuple[float, float]:
    """Standard errors of the difference towards either side, from the limits of both."""
    if None in (first.low, first.high, second.low, second.high):
        return nan, nan
    assert first.value is not None
    assert second.value is not None
    z = -float(ndtri(TAIL))
    below = _joined(first.value - (first.low or 0.0), (second.high or 0.0) - second.value, correlation)
    above = _joined((first.high or 0.0) - first.value, second.value - (second.low or 0.0), correlation)
    return below / z, above / z


def _joined(one: float, other: float, correlation: float) -> float:
    return sqrt(max(0.0, one**2 + other**2 - 2 * correlation * one * other))


def _rows(first: Influence, second: Influence, *, same_targets: bool) -> tuple[float, float, float]:
    """The variances of targets and of single answers, and the degrees of freedom of the former."""
    if same_targets:
        change_T, part_TN = first.value_T - second.value_T, first.part_TN - second.part_TN
        T = len(change_T)
        return float(change_T.var()) / T, float(part_TN.square().sum()) / T**2, T - 1
    rows = [float(each.value_T.var()) / len(each.value_T) for each in (first, second)]
    cells = sum(float(each.part_TN.square().sum()) / len(each.value_T) ** 2 for each in (first, second))
    own = [len(each.value_T) - 1 for each in (first, second)]
    total = sum(rows)
    weight = sum(row**2 / freedom for row, freedom in zip(rows, own, strict=True))
    return total, cells, total**2 / weight if weight > 0 else float(min(own))


def _freedom(trainings: float, count: int, records: float) -> float:
    return (count - 1) * ((trainings + records) / trainings) ** 2 if trainings > 0 else inf


def _law(gram: Numbers, has_error_AB: NDArray[np.bool_]) -> Law:
    """The law of the largest standardised difference.

    By Bonferroni's inequality where a difference has limits of which the influences know nothing, such as that of two
    attacks that flag every record, which no record moves.
    """
    num_first = len(has_error_AB)
    if bool((has_error_AB & ~_is_known(_variances(gram, num_first), gram)).any()):
        return Student(count=has_error_AB.size)
    return _largest(gram, num_first)


def _largest(gram: Numbers, num_first: int) -> Largest:
    """The law of the largest standardised difference, from the covariances of all figures."""
    value, vector = np.linalg.eigh(gram)
    random = np.random.default_rng(derive(0, "largest difference"))
    drawn_BF = (random.normal(size=(_DRAWS, len(value))) * np.sqrt(value.clip(min=0))) @ vector.T
    change_BAB = drawn_BF[:, :num_first, None] - drawn_BF[:, None, num_first:]
    variance_AB = _variances(gram, num_first)
    is_known_AB = _is_known(variance_AB, gram)
    standard_BAB = np.where(is_known_AB, np.abs(change_BAB), 0.0) / np.sqrt(np.where(is_known_AB, variance_AB, 1.0))
    return Largest(np.sort(standard_BAB.max((1, 2))), variance_AB.size)


def _variances(gram: Numbers, num_first: int) -> Numbers:
    """Over records, of each figure of the first side less each of the second."""
    size = np.diag(gram)
    variances: Numbers = size[:num_first, None] + size[num_first:] - 2 * gram[:num_first, num_first:]
    return variances


def _is_known(variance_AB: Numbers, gram: Numbers) -> NDArray[np.bool_]:
    """Where a variance is more than rounding."""
    is_known_AB: NDArray[np.bool_] = variance_AB > 1e-12 * np.diag(gram).max()
    return is_known_AB


def _reason(sides: Sequence[Measured], *, of_limits: bool) -> str:
    """Why there are no limits, of the first figure that says so.

    Args:
        of_limits: whether they would come from the limits of the figures, and not from influences.
    """
    for each in sides:
        if each.figure.value is None:
            return f"none: {each.figure.reason or 'it is undefined'}"
    for each in sides:
        if of_limits and None in (each.figure.low, each.figure.high):
            return each.figure.interval or NO_LIMITS
    return next((each.influence.missing for each in sides if each.influence.missing), NO_LIMITS)


def _of_some_width(found: Difference) -> Difference:
    """Without limits where these are one number: the strongest attacks give all records one score."""
    low, high = found.limits()
    return _without_limits(found.change_AB, EQUAL) if low == high else found


def _without_limits(change_AB: Numbers, reason: str) -> Difference:
    value = float(change_AB.min(1).max())
    unknown_AB = np.full_like(change_AB, nan)
    return Difference(value if isfinite(value) else nan, change_AB, unknown_AB, unknown_AB, Student(), reason)
