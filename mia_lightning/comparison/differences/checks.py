"""Whether runs can be compared at all; each refusal is one sentence."""

from collections.abc import Sequence
from itertools import combinations

from mia_lightning.comparison.differences.sides import KeptRun, Side
from mia_lightning.errors import InputError

WORST = "worst"


def check_sides(sides: Sequence[Side]) -> None:
    """Refuse what has no difference.

    Raises:
        InputError: a single side, trials of one canary, other data or another task, or one run twice.
    """
    if len(sides) < 2:
        raise InputError(
            f"There is one recipe alone, that of {sides[0].name}; give two runs, or a sweep over a setting "
            "other than the seed."
            if sides
            else "There are no runs to compare; give two."
        )
    first = sides[0]
    for side in sides:
        for run in side.runs:
            if run.report.privacy is not None and run.report.privacy.trials is not None:
                raise InputError(
                    f"{side.name} has trials of one canary (membership=one_canary), which are one record; compare the "
                    "bounds on epsilon in its report."
                )
    for other in sides[1:]:
        one, two = first.report.dataset, other.report.dataset
        if one.name != two.name and one.fingerprint != two.fingerprint:
            raise InputError(
                f"{first.name} was audited on {one.name} and {other.name} on {two.name}; compare runs on one."
            )
        if first.report.task.name != other.report.task.name:
            raise InputError(
                f"{first.name} has the task {first.report.task.name} and {other.name} {other.report.task.name}; "
                "compare runs of one task."
            )
    for (one_name, one_run), (two_name, two_run) in combinations(
        [(side.name, run) for side in sides for run in side.runs], 2
    ):
        if _is_same(one_run, two_run):
            raise InputError(
                f"One run is given twice, in {one_name} and {two_name}: settings, seed and figures are the same; give "
                "runs that differ, if only in their seed."
            )


def attacks_of(first: Side, second: Side, attack: str) -> list[str]:
    """The attacks whose figures are compared.

    Args:
        attack: the name of one, or `worst` for all, which must then be the same on either side.

    Raises:
        InputError: a side was not attacked with it, or the sides with different attacks.
    """
    names = [[name for name in side.runs[0].attacks if all(name in run.attacks for run in side.runs)]
             for side in (first, second)]  # fmt: skip
    shared = [name for name in names[0] if name in names[1]]
    if attack == WORST:
        if set(names[0]) != set(names[1]):
            known = f"choose one that both have, such as attack {shared[0]}" if shared else "run the same on both"
            raise InputError(
                f"{first.name} was attacked with {', '.join(names[0])} and {second.name} with {', '.join(names[1])}, "
                f"so that their worst figures mean different things; {known}."
            )
        return shared
    if attack not in shared:
        known = f"both were attacked with {', '.join(shared)}" if shared else "they have no attack in common"
        raise InputError(f"`attack` is {attack!r}, and not both {first.name} and {second.name} have it; {known}.")
    return [attack]


def _is_same(one: KeptRun, two: KeptRun) -> bool:
    if one.report is two.report:
        return True
    first, second = one.report, two.report
    return (
        first.run.seed == second.run.seed
        and first.target == second.target
        and first.defense == second.defense
        and first.shadow == second.shadow
        and [(each.name, each.overall) for each in first.attacks]
        == [(each.name, each.overall) for each in second.attacks]
    )
