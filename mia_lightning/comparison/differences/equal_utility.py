"""Two recipes, each at several strengths, where their targets are equally good."""

from collections.abc import Sequence

from mia_lightning.comparison.differences.checks import attacks_of, check_sides
from mia_lightning.comparison.differences.matching import Axis, observed, same_targets
from mia_lightning.comparison.differences.schema import EqualUtilityReport, UtilityPoint
from mia_lightning.comparison.differences.sides import Side, setting_of
from mia_lightning.comparison.differences.utility import RIGHT
from mia_lightning.comparison.differences.verdicts import signed
from mia_lightning.errors import InputError
from mia_lightning.metrics.equal_utility import FEWEST_STRENGTHS, AtEqualUtility, Strength, at_equal_utility
from mia_lightning.reports.rows import ACCURACY
from mia_lightning.reports.words import NBSP


def compare_at_equal_utility(
    sides: Sequence[Side], *, by: str = "architecture", attack: str = "worst"
) -> EqualUtilityReport:
    """The difference in AUC of two recipes where their targets have the same test accuracy.

    Args:
        by: the setting that tells the recipes apart; sides of equal value are strengths of one recipe.
        attack: the name of one; it may be left out where one was run beside `gap`.

    Raises:
        InputError: not two recipes with three strengths each, a task whose utility is no accuracy, runs that do not say
            which records a target answers right, other targets at one strength than at another, or as `compare_sides`.
    """
    check_sides(sides)
    utility = sides[0].report.task.utility
    if utility != ACCURACY:
        raise InputError(
            f"{sides[0].name} has the task {sides[0].report.task.name}, whose utility is {utility}, and curves over "
            "utility are drawn for accuracy alone; leave --equal-utility out."
        )
    recipes: dict[str, list[Side]] = {}
    for side in sides:
        value = setting_of(side, by)
        if value is None:
            raise InputError(
                f"`--by` is {by!r}, a setting that {side.name} does not have; name one in which runs differ."
            )
        recipes.setdefault(value, []).append(side)
    if len(recipes) != 2:
        raise InputError(
            f"`--by` {by} tells {len(recipes)} recipes apart ({', '.join(recipes)}); equal utility compares two."
        )
    for name, of in recipes.items():
        if len(of) < FEWEST_STRENGTHS:
            raise InputError(
                f"{name} was run at {len(of)} strength{'s' if len(of) > 1 else ''}; a curve takes at least "
                f"{FEWEST_STRENGTHS}, such as training.epochs=10,30,100."
            )
    name = _attack(sides, attack)
    first, second = recipes.values()
    (one, other), same, num_targets = _strengths(first, second, name)
    found = at_equal_utility(one, other, same_targets=same)
    names = list(recipes) if by == "architecture" else [f"{by}={value}" for value in recipes]
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


def _attack(sides: Sequence[Side], attack: str) -> str:
    for side in sides:
        if not all(RIGHT in run.attacks for run in side.runs):
            raise InputError(
                f"{side.name} does not say which records its targets answer right, which a curve over accuracy needs; "
                f"run it again with {RIGHT} among the attacks, such as attack=[loss,{RIGHT}]."
            )
    names = [name for name in sides[0].runs[0].attacks if name != RIGHT]
    if attack == "worst" and len(names) != 1:
        raise InputError(f"`--attack` is to name one of {', '.join(names)}, whose AUC is compared at equal utility.")
    chosen = names[0] if attack == "worst" else attack
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
