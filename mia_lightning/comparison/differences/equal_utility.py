"""Two recipes, each at several strengths, where their targets are equally good."""

from collections.abc import Mapping, Sequence

from mia_lightning.comparison.differences.checks import WORST, attacks_of, check_sides
from mia_lightning.comparison.differences.matching import Axis, observed, same_targets
from mia_lightning.comparison.differences.schema import EqualUtilityReport, UtilityPoint
from mia_lightning.comparison.differences.sides import KeptRun, Side, setting_of
from mia_lightning.comparison.differences.utility import RIGHT
from mia_lightning.errors import InputError
from mia_lightning.metrics.equal_utility import FEWEST_STRENGTHS, AtEqualUtility, Strength, at_equal_utility
from mia_lightning.reports.rows import ACCURACY
from mia_lightning.reports.schema import AuditReport
from mia_lightning.reports.words import NBSP, signed


def difference_at_equal_utility(
    first: Sequence[AuditReport],
    second: Sequence[AuditReport],
    *,
    attack: str = WORST,
    names: tuple[str, str] = ("the first", "the second"),
) -> EqualUtilityReport:
    """Whether the first of two recipes leaks more than the second where their targets have the same test accuracy.

    Args:
        first, second: of either recipe audits at three strengths or more, such as numbers of epochs, as
            `mia_lightning.audit` or `attack` returned them: of the same targets at every strength, with `gap` among the
            attacks.
        attack: the name of one, chosen beforehand; it may be left out where one was run beside `gap`.
        names: what the two recipes are called.

    Raises:
        InputError: fewer strengths, audits that do not say which records a target answers right, other targets at one
            strength than at another, other data, a task without test accuracy, or several attacks and no choice.
    """
    if names[0] == names[1]:
        raise InputError(f"`names` calls both recipes {names[0]!r}; give each a name of its own.")
    return _compared(
        {
            name: [Side(name=f"{name} ({number})", runs=(KeptRun.of(report),)) for number, report in enumerate(of, 1)]
            for name, of in zip(names, (first, second), strict=True)
        },
        names,
        attack,
    )


def compare_at_equal_utility(
    sides: Sequence[Side], *, by: str = "architecture", attack: str = WORST
) -> EqualUtilityReport:
    """As `difference_at_equal_utility`, of runs that were kept.

    Args:
        by: the setting that tells the recipes apart; sides of equal value are strengths of one recipe.

    Raises:
        InputError: also where `by` does not tell two recipes apart.
    """
    recipes: dict[str, list[Side]] = {}
    for side in sides:
        value = setting_of(side, by)
        if value is None:
            raise InputError(
                f"`--by` is {by!r}, a setting that {side.name} does not have; name one in which runs differ."
            )
        recipes.setdefault(value, []).append(side)
    if len(recipes) == 1:
        raise InputError(
            f"`--by` is {by!r}, of which all sides have {next(iter(recipes))!r}; name a setting in which two recipes "
            "differ."
        )
    if len(recipes) != 2:
        raise InputError(
            f"`--by` {by} tells {len(recipes)} recipes apart ({', '.join(recipes)}); equal utility compares two."
        )
    return _compared(recipes, list(recipes) if by == "architecture" else [f"{by}={value}" for value in recipes], attack)


def _compared(recipes: Mapping[str, Sequence[Side]], names: Sequence[str], attack: str) -> EqualUtilityReport:
    """Two recipes, by what tells them apart, each at several strengths.

    Args:
        names: what the recipes are called.
    """
    sides = [side for of in recipes.values() for side in of]
    check_sides(sides)
    _check_task(sides[0])
    for name, of in recipes.items():
        if len(of) < FEWEST_STRENGTHS:
            raise InputError(
                f"{name} was run at {len(of)} strength{'s' if len(of) != 1 else ''}; a curve takes at least "
                f"{FEWEST_STRENGTHS}, such as training.epochs=10,30,100."
            )
    name = _attack(sides, attack)
    first, second = recipes.values()
    (one, other), same, num_targets = _strengths(first, second, name)
    found = at_equal_utility(one, other, same_targets=same)
    return EqualUtilityReport(
        first=names[0],
        second=names[1],
        attack=name,
        strengths=(_ordered(first), _ordered(second)),
        num_targets=num_targets,
        points=tuple(
            UtilityPoint(utility=utility, first=a, second=b)
            for utility, a, b in zip(
                *(each.tolist() for each in (found.utility_U, found.first_U, found.second_U)), strict=True
            )
        ),
        value=found.value if len(found.utility_U) else None,
        low=found.low if len(found.utility_U) else None,
        high=found.high if len(found.utility_U) else None,
        sentence=_sentence(found, names, num_targets, _doubt(sides)),
    )


def _check_task(side: Side) -> None:
    utility = side.report.task.utility
    if utility != ACCURACY:
        raise InputError(
            f"{side.name} has the task {side.report.task.name}, whose utility is the {utility}; equal utility compares "
            "test accuracies alone."
        )


def _attack(sides: Sequence[Side], attack: str) -> str:
    for side in sides:
        if not all(RIGHT in run.attacks for run in side.runs):
            raise InputError(
                f"{side.name} does not say which records its targets answer right, which a curve over accuracy needs; "
                f"run it again with {RIGHT} among the attacks, such as attack=[loss,{RIGHT}]."
            )
    names = [name for name in sides[0].runs[0].attacks if name != RIGHT]
    if attack == WORST and len(names) != 1:
        raise InputError(
            f"`attack`, on the command line `--attack`, is to name one of {', '.join(names)}, whose AUC is compared at "
            "equal utility."
        )
    chosen = names[0] if attack == WORST else attack
    for side in sides[1:]:
        attacks_of(sides[0], side, chosen)
    return chosen


def _strengths(first: Sequence[Side], second: Sequence[Side], attack: str) -> tuple[list[list[Strength]], bool, int]:
    """Of both recipes, whether their targets are the same, and how many there are."""
    runs = [run for side in (*first, *second) for run in side.runs]
    axis, start, sides = Axis.of(runs), 0, []
    for of in (first, second):
        strengths = []
        for side in of:
            seen, right = (
                observed(side, {n: run.attacks[name].name for n, run in enumerate(side.runs)}, axis, start)
                for name in (attack, RIGHT)
            )
            start += len(side.runs)
            strengths.append(Strength(seen, (right.score_TN > 0.5).numpy()))
            if not same_targets(strengths[0].seen, seen):
                raise InputError(
                    f"{of[0].name} and {side.name} have targets with other members, so that no target has a curve; run "
                    "all strengths with the same seeds and the same plan."
                )
        sides.append(strengths)
    ends = [of[0].seen for of in sides]
    if len(ends[0].score_TN) != len(ends[1].score_TN):
        raise InputError(
            f"{first[0].name} has {len(ends[0].score_TN)} targets and {second[0].name} {len(ends[1].score_TN)}; run "
            "both with equally many."
        )
    return sides, same_targets(*ends), len(ends[0].score_TN)


def _ordered(sides: Sequence[Side]) -> tuple[str, ...]:
    return tuple(side.name for side in sorted(sides, key=lambda side: side.report.target.test_accuracy))


def _doubt(sides: Sequence[Side]) -> str | None:
    return next((f"{side.name} may leak more than was found" for side in sides if side.void or side.understated), None)


def _sentence(found: AtEqualUtility, names: Sequence[str], num_targets: int, doubt: str | None) -> str:
    first, second = names
    if not len(found.utility_U):
        reaches = " and ".join(
            f"{name} from {low:.3f} to {high:.3f}" for name, (low, high) in zip(names, found.reach, strict=True)
        )
        return (
            f"{first} and {second} are never equally good: all targets of {reaches} in test accuracy; more or "
            "other strengths may let the curves overlap."
        )
    span = f"[{signed(found.low)},{NBSP}{signed(found.high)}]"
    where = f"at test accuracies from {found.utility_U[0]:.3f} to {found.utility_U[-1]:.3f}"
    about = "these models" if num_targets == 1 else f"other trainings, from {num_targets} targets each"
    figures = f"AUC {signed(found.value)} {span} {where}, for {about}"
    if doubt is not None:
        return f"{first} and {second} are not judged at equal utility, since {doubt}: {figures}."
    if found.low > 0 or found.high < 0:
        return f"At equal utility {first} leaks {'more' if found.low > 0 else 'less'} than {second}: {figures}."
    return f"At equal utility it is undecided whether {first} leaks more than {second}: {figures}."
