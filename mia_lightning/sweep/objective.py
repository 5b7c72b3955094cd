"""What a sweeper that optimises is given of each run: figures of its report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from mia_lightning.errors import InputError, nearest
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Text
from mia_lightning.settings.words import Such, Words

_OF_TARGET = ("train_accuracy", "test_accuracy", "generalization_gap")


@settings("sweep")
class SweepSettings:
    """The `sweep` section of the configuration.

    Attributes:
        objective: the figure, or the figures, of each run that a sweeper such as Optuna's is given: `target.` and an
            accuracy, or `leakage.`, the name of an attack and a figure; None gives the exit code.
    """

    objective: Annotated[
        Text | list[Text] | None, Words("a figure, or a list of figures"), Such("leakage.loss.auc")
    ] = None

    def __post_init__(self) -> None:
        if self.objective == []:
            raise InputError("`sweep.objective` is []; name a figure, such as target.test_accuracy, or leave it null.")

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of the figures."""
        if self.objective is None:
            return ()
        return (self.objective,) if isinstance(self.objective, str) else tuple(self.objective)

    def check_attacks(self, names: Sequence[str]) -> None:
        """Refuse what this run, which has the attacks `names`, cannot have."""
        twins = [f"{name}{suffix}" for name in names for suffix in ("-unaware", "-adaptive")]
        for figure in self.figures:
            family, _, rest = figure.partition(".")
            if family == "target" and rest in _OF_TARGET:
                continue
            if family == "leakage" and any(rest.startswith(f"{name}.") for name in (*names, *twins)):
                continue
            known = [f"target.{each}" for each in _OF_TARGET] + [f"leakage.{name}.auc" for name in names]
            raise InputError(
                f"`sweep.objective` is {figure!r}{nearest(figure, known)}, which this run has not; choose one of "
                f"{', '.join(known)}, or another figure of an attack."
            )


def objective_of(folder: Path, figures: Sequence[str]) -> float | tuple[float, ...]:
    """The figures of the run in `folder`, one as a number, several as a tuple.

    Raises:
        InputError: the run has no report, or a figure is undefined.
    """
    from mia_lightning.reports.reading import read_report
    from mia_lightning.reports.rows import headline_scalars

    report = read_report(folder)
    scalars = {name.replace("/", "."): value for name, value in headline_scalars(report).items()}
    scalars |= {f"target.{name}": getattr(report.target, name) for name in _OF_TARGET}  # also of another utility
    for attack in report.attacks:  # an output defence is no part of the name here
        if attack.defense is not None:
            shown = f"{attack.defense}_adaptive" if attack.adaptive else attack.defense
            before = f"leakage.{attack.name}.{shown}.".replace("/", ".")
            scalars |= {
                f"leakage.{attack.name}.{name.removeprefix(before)}": value
                for name, value in list(scalars.items())
                if name.startswith(before)
            }
    missing = [figure for figure in figures if figure not in scalars]
    if missing:
        raise InputError(
            f"`sweep.objective` is {missing[0]!r}{nearest(missing[0], sorted(scalars))}, which the report in {folder} "
            "has not, or not as a number; choose a figure that is defined in every run."
        )
    values = tuple(scalars[figure] for figure in figures)
    return values[0] if len(values) == 1 else values
