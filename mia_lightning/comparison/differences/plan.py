"""What it takes to see a difference, for `mia-compare --plan`: records, targets and shadow models, before a sweep."""

from pathlib import Path

from mia_lightning.comparison.differences.sides import KeptRun
from mia_lightning.errors import InputError
from mia_lightning.metrics.intervals.power import PLANNED_TARGETS, members_needed, variance_of_one_member
from mia_lightning.reports.rows import figures_by_name
from mia_lightning.reports.words import title


def plan_lines(difference: float, figure: str, value: float, *, spread: float, correlation: float) -> list[str]:
    """A line for each number of targets.

    Raises:
        InputError: a size, spread or correlation that no difference has.
    """
    if not 0 < difference < 1:
        raise InputError(f"`--plan` is {difference:g}; a difference to be seen is above 0 and below 1.")
    if not spread >= 0:
        raise InputError(f"`--spread` is {spread:g}; a standard deviation is at least 0.")
    if not -1 < correlation < 1:
        raise InputError(f"`--correlation` is {correlation:g}; it must be above -1 and below 1.")
    of_member = variance_of_one_member(figure, value)
    lines = [
        f"To see a difference of {difference:g} in {title(figure)} at {value:.3g}, in 80 of 100 cases and with 95 % "
        "intervals:"
    ]
    for targets in (1, *PLANNED_TARGETS):
        need = members_needed(
            difference, of_member=of_member, correlation=correlation, training=spread, targets=targets
        )
        members = "no number of records is enough"
        if need.members is not None:
            members = f"{need.members:,} members and as many non-members of each"
        if targets == 1:
            lines.append(f"  between two models (not their recipes): {members}")
        else:
            lines.append(f"  between two recipes, {targets:2} targets each: {members}")
    lines.append(
        f"Trainings are taken to vary by {spread:g}, and the figures to correlate by {correlation:g} over shared "
        "records. Targets come from seed=0,1,2,... or, with membership=halves target=leave_one_out, from as many "
        "shadow models."
    )
    return lines


def value_in(folder: Path, attack: str, figure: str) -> float:
    """The value of a figure in a run: of one attack, or the largest.

    Raises:
        InputError: the run cannot be read, or has no such attack or figure.
    """
    attacks = KeptRun.read(folder).attacks
    if attack != "worst" and attack not in attacks:
        raise InputError(f"`--attack` is {attack!r}; {folder} was attacked with {', '.join(attacks)}.")
    chosen = attacks.values() if attack == "worst" else [attacks[attack]]
    flat = [figures_by_name(each.overall) for each in chosen]
    values = [each[figure].value for each in flat if figure in each and each[figure].value is not None]
    if not values:
        raise InputError(f"`--figure` is {figure!r}, and {folder} has none; give another, or --value.")
    return float(max(values))
