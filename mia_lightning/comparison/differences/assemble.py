"""From runs to their differences."""

from collections.abc import Sequence
from dataclasses import dataclass

from mia_lightning.comparison.differences.checks import WORST, attacks_of, check_sides
from mia_lightning.comparison.differences.matching import Axis, observed, same_targets
from mia_lightning.comparison.differences.schema import DifferenceReport, FigureDifference, PairDifference
from mia_lightning.comparison.differences.sides import KeptRun, Side
from mia_lightning.comparison.differences.utility import utility_differences
from mia_lightning.comparison.differences.verdicts import Asked, family_of, judged, pair_sentence
from mia_lightning.comparison.differences.words import notes_on, pairing
from mia_lightning.errors import InputError
from mia_lightning.metrics.figures import Figure
from mia_lightning.metrics.intervals.differences import (
    FEWEST_TARGETS,
    Difference,
    Measured,
    difference_of_models,
    difference_of_recipes,
)
from mia_lightning.metrics.intervals.families import holm
from mia_lightning.metrics.intervals.influence import Observed, influence
from mia_lightning.metrics.intervals.power import targets_needed
from mia_lightning.reports.rows import figures_by_name
from mia_lightning.reports.schema import AuditReport

FIGURES = ("auc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001", "advantage", "precision_balanced")
ESTIMANDS = ("auto", "models", "recipes")
# With an error that all targets of a run have in common, since they share a learnt threshold; in its own interval.
SHARED_THRESHOLD = ("precision_balanced",)
# Of the AUC over trainings, where one target each says nothing of it.
USUAL_SPREAD = 0.02


def difference(
    first: AuditReport,
    second: AuditReport,
    *,
    attack: str = WORST,
    figure: str = "auc",
    margin: float = 0.02,
    estimand: str = "auto",
    names: tuple[str, str] = ("the first", "the second"),
) -> DifferenceReport:
    """Whether the first of two audits found more leakage than the second.

    Records that are evidence about both models pair them: where both were audited on one data set, or records have
    names. Of one target each the answer is about *these models*; of several it is about *these recipes*, and other
    trainings are counted in.

    Args:
        first, second: as `mia_lightning.audit` returned them.
        attack: the name of one, chosen beforehand, or `worst`: the largest figure over all attacks of either.
        figure: that `sentence` is about: `auc`, `tpr_at_fpr_0.01`, `tpr_at_fpr_0.001`, `advantage` or
            `precision_balanced`.
        margin: a difference up to this counts as none.
        estimand: `models`, `recipes`, or `auto`: recipes where there are targets enough.
        names: what the two are called.

    Raises:
        InputError: the audits have no data set, task or attack in common, are the same, or have too few targets for
            what is asked.

    Example:
        >>> import mia_lightning as mia
        >>> from sklearn.datasets import load_digits
        >>> from torch import nn
        >>> x, label = load_digits(return_X_y=True)
        >>> options = {"membership": mia.Disjoint(train_size=50), "shadow": mia.Real(count=4), "attacks": [mia.Loss()]}
        >>> linear, deep = (
        ...     mia.audit(x / 16, label, model=make, **options)
        ...     for make in (lambda: nn.Linear(64, 10), lambda: nn.Sequential(nn.Linear(64, 99), nn.Linear(99, 10)))
        ... )
        >>> mia.difference(deep, linear).pairs[0].attack
        'loss'
    """
    sides = [Side(name=name, runs=(KeptRun.of(report),)) for name, report in zip(names, (first, second), strict=True)]
    return compare_sides(sides, attack=attack, figure=figure, margin=margin, estimand=estimand)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Pair:
    """Two sides on one axis, and the differences of their figures before they are judged."""

    sides: tuple[Side, Side]
    attack: str
    estimand: str
    seen: tuple[Observed, Observed]
    same: bool
    by: str
    values: dict[str, tuple[float | None, float | None]]
    changes: dict[str, Difference]
    utility: tuple[FigureDifference, ...]


def compare_sides(
    sides: Sequence[Side], *, attack: str = WORST, figure: str = "auc", margin: float = 0.02, estimand: str = "auto"
) -> DifferenceReport:
    """The first side against each of the others.

    Raises:
        InputError: as for `difference`.
    """
    if figure not in FIGURES:
        raise InputError(f"`figure` is {figure!r}; it must be one of {', '.join(FIGURES)}.")
    if estimand not in ESTIMANDS:
        raise InputError(f"`estimand` is {estimand!r}; it must be one of {', '.join(ESTIMANDS)}.")
    if not 0 < margin < 1:
        raise InputError(f"`margin` is {margin:g}; it must be above 0 and below 1.")
    check_sides(sides)
    pairs = [_pair(sides[0], other, attack, estimand) for other in sides[1:]]
    tested = [(p, name) for p, pair in enumerate(pairs) for name, each in pair.changes.items() if each.has_limits]
    adjusted = holm([pairs[p].changes[name].p for p, name in tested])
    sure = dict(zip(tested, adjusted, strict=True))
    family = family_of([pairs[p].changes[name] for p, name in tested], len(pairs))
    return DifferenceReport(
        margin=margin,
        family=family,
        pairs=tuple(
            _judged(pair, {name: sure.get((p, name)) for name in pair.changes}, len(tested), figure, margin)
            for p, pair in enumerate(pairs)
        ),
    )


def _pair(first: Side, second: Side, attack: str, estimand: str) -> _Pair:
    names = attacks_of(first, second, attack)
    runs = (*first.runs, *second.runs)
    axis = Axis.of(runs)
    starts = (0, len(first.runs))
    measured: list[list[dict[str, Measured]]] = []
    seen: list[Observed] = []
    for side, start in zip((first, second), starts, strict=True):
        of_side = []
        for name in names:
            chosen = {number: run.attacks[name].name for number, run in enumerate(side.runs)}
            what = observed(side, chosen, axis, start)
            of_side.append(_measured(side, name, what))
        measured.append(of_side)
        seen.append(what)
    fewest = min(first.num_targets, second.num_targets)
    if estimand == "recipes" and fewest < FEWEST_TARGETS:
        raise InputError(
            f"`estimand` is recipes, and {first.name} and {second.name} have {first.num_targets} and "
            f"{second.num_targets} targets; it takes at least {FEWEST_TARGETS} each, and "
            f"{targets_needed(0.02, training=USUAL_SPREAD)} to see a difference of 0.02 between trainings that vary by "
            f"{USUAL_SPREAD:g}."
        )
    of_recipes = estimand == "recipes" or (estimand == "auto" and fewest >= FEWEST_TARGETS)
    same = same_targets(*seen)
    changes, values = {}, {}
    for name in FIGURES:
        columns = [[each[name] for each in of_side if name in each] for of_side in measured]
        if not columns[0] or len(columns[0]) != len(columns[1]):
            continue
        values[name] = (_largest(columns[0]), _largest(columns[1]))
        if of_recipes and name in SHARED_THRESHOLD and any(run.report.target.num_targets > 1 for run in runs):
            changes[name] = difference_of_models(*([each.alone for each in side] for side in columns))
        elif of_recipes:
            changes[name] = difference_of_recipes(*columns, same_targets=same)
        else:
            changes[name] = difference_of_models(*columns)
    return _Pair(
        sides=(first, second),
        attack=names[0] if len(names) == 1 else attack,
        estimand="recipes" if of_recipes else "models",
        seen=(seen[0], seen[1]),
        same=same,
        by=axis.by,
        values=values,
        changes=changes,
        utility=utility_differences((first, second), axis, starts, of_recipes=of_recipes, same_targets=same),
    )


def _measured(side: Side, name: str, seen: Observed) -> dict[str, Measured]:
    """The figures of an attack: as reported by a single run; of several the means over all targets, without limits."""
    flat = [figures_by_name(run.attacks[name].overall) for run in side.runs]
    found = {}
    for figure in FIGURES:
        reported: list[Figure] = [each[figure] for each in flat if figure in each]
        if len(reported) < len(flat):
            continue
        of = reported[0]
        if len(reported) > 1:
            values = [each.value for each in reported]
            weights = [run.report.target.num_targets for run in side.runs]
            total = None if None in values else sum(
                (value or 0.0) * weight for value, weight in zip(values, weights, strict=True)
            ) / sum(weights)  # fmt: skip
            reason = next((each.reason for each in reported if each.value is None), None)
            of = Figure(value=total, n=sum(each.n for each in reported), reason=reason)
        found[figure] = Measured(of, influence(figure, seen))
    return found


def _largest(of_attacks: Sequence[Measured]) -> float | None:
    return max((each.figure.value for each in of_attacks if each.figure.value is not None), default=None)


def _judged(pair: _Pair, adjusted: dict[str, float | None], count: int, figure: str, margin: float) -> PairDifference:
    first, second = pair.sides
    asked = Asked(
        first=first, second=second, margin=margin, count=count, of_recipes=pair.estimand == "recipes", seen=pair.seen
    )
    found = tuple(
        judged(name, pair.values[name], change, adjusted[name], asked) for name, change in pair.changes.items()
    )
    shared = int((pair.seen[0].scored_TN.any(0) & pair.seen[1].scored_TN.any(0)).sum())
    chosen = next((each for each in found if each.figure == figure), None)
    if chosen is None:
        raise InputError(
            f"`figure` is {figure}, which {first.name} and {second.name} do not both have; choose another."
        )
    return PairDifference(
        first=first.name,
        second=second.name,
        attack=pair.attack,
        estimand="recipes" if pair.estimand == "recipes" else "models",
        num_targets=(first.num_targets, second.num_targets),
        num_shared=shared,
        pairing=pairing(pair.seen, shared, same=pair.same, by=pair.by),
        sentence=pair_sentence(chosen, asked),
        differences=found,
        utility=pair.utility,
        notes=notes_on(first, second, pair.attack, chosen, of_recipes=pair.estimand == "recipes", spread=USUAL_SPREAD),
    )
