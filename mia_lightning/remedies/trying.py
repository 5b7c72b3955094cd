"""The same recipe with and without each remedy: several targets each, one stack of models for each way of training."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

from mia_lightning.audit import attack_observed, entered
from mia_lightning.defenses.interface import Defense
from mia_lightning.errors import InputError
from mia_lightning.remedies.catalogue import ALL, Remedy, chosen
from mia_lightning.remedies.measuring import Way, way_of
from mia_lightning.remedies.reporting import Results, report_of
from mia_lightning.remedies.schema import RemedyReport
from mia_lightning.remedies.setting_up import Tried, set_up
from mia_lightning.run.definition import Audit
from mia_lightning.run.observation import Observation, observe_models
from mia_lightning.run.preparation import engine_of
from mia_lightning.settings.checking import shown
from mia_lightning.store.run_folder import written_to_run
from mia_lightning.terminal.progress import Stages

GIVE_UP = 0.01
NOTHING = "nothing"
R = TypeVar("R")


def try_remedies(
    audit: Audit, *, remedies: Sequence[str] | str = ALL, give_up: float = GIVE_UP, command: str | None = None
) -> RemedyReport:
    """Train the recipe of an audit with and without each remedy, and measure what each does to leakage and utility.

    Models are trained anew, also where the audit's target is trained already: `shadow.count` of them for each way of
    training (as many more as fill whole blocks), on as many records each as the audit's target has members, and each of
    them is attacked with the others as its shadow models. Which records a model trains on, and its initial weights, are
    the same in every way of training.

    Args:
        audit: its data, model, training, trainer, attacks, defences, store, seed, output and console are used.
        remedies: `all`, or some of their names (`mia_lightning.remedies.catalogue`).
        give_up: of utility, at which remedies are compared: each by the least AUC that it reaches at the utility of
            doing nothing less this.
        command: that the report repeats.

    Returns:
        The report; with `output` its files are there, too.

    Raises:
        InputError: a remedy that is named cannot apply, or the audit trains no networks.

    Example:
        >>> import mia_lightning as mia
        >>> from sklearn.datasets import load_digits
        >>> from mia_lightning.models.mlp import MLP
        >>> x, label = load_digits(return_X_y=True)
        >>> audit = mia.Audit(x / 16, label, model=MLP, shadow=mia.Real(count=4), attacks=[mia.Loss()],
        ...                   training=mia.Recipe(epochs=5))
        >>> report = mia.try_remedies(audit, remedies=["fewer_epochs", "rounding"])
        >>> [each.name for each in report.remedies if each.skipped is None]  # doctest: +SKIP
        ['fewer_epochs', 'rounding']
    """
    if not isinstance(audit, Audit):
        raise InputError(f"`audit` is {shown(audit)}; give an Audit, such as mia.Audit(x, label, model=Net).")
    if not 0 <= give_up < 1:
        raise InputError(f"`give_up` is {give_up}; it must be at least 0 and below 1.")
    with entered():
        return _tried(audit, chosen(remedies), remedies != ALL, give_up, command)


def _tried(audit: Audit, remedies: Sequence[Remedy], named: bool, give_up: float, command: str | None) -> RemedyReport:
    begun = time.perf_counter()
    tried = set_up(audit, remedies, named=named)
    series = _Series(tried)
    nothing, of_answers = series.nothing()
    results = {}
    for remedy in tried.remedies:
        results[remedy.name] = of_answers.get(remedy.name) or [
            (each, series.trained(each, nothing)) for each in remedy.strengths
        ]
    report = report_of(tried, nothing, results, give_up=give_up)
    said = {"command": command, "warnings": series.warnings, "broken": series.broken}
    report = report.model_copy(update=said | {"seconds": round(time.perf_counter() - begun, 1)})
    if audit.folder is not None:
        from mia_lightning.remedies.files import save_remedies

        with written_to_run():
            save_remedies(report, audit.folder)
    return report


class _Series:
    """One way of training after another, each said where progress is shown."""

    def __init__(self, tried: Tried) -> None:
        self._tried, self._number = tried, 0
        self._count = 1 + sum(len(each.strengths) for each in tried.remedies if each.trains)
        self.warnings: tuple[str, ...] = ()  # of doing nothing
        self.broken: tuple[str, ...] = ()

    def nothing(self) -> tuple[Way, Results]:
        """Doing nothing, with its report where the audit has a folder, and the remedies that change answers alone."""
        audit, folder = self._tried.audit, self._tried.folder
        audit = audit if folder is None else replace(audit, output=folder / NOTHING)

        def all_of(observation: Observation) -> tuple[Way, Results]:
            found = way_of(observation)
            report = attack_observed(observation, audit)
            self.warnings, self.broken = report.warnings, report.broken
            return found, {
                remedy.name: [(each, _answered(observation, audit, each)) for each in remedy.strengths]
                for remedy in self._tried.remedies
                if not remedy.trains
            }

        return self._observed(audit, NOTHING, all_of)

    def trained(self, defense: Defense, nothing: Way) -> Way | str:
        """With a remedy; the reason where it cannot be measured."""
        audit = replace(self._tried.audit, defenses=(*self._tried.audit.defenses, defense))
        try:
            found = self._observed(audit, defense.describe(), way_of)
        except InputError as error:
            return str(error)
        if found.left_out != nothing.left_out:
            lost = len(set(found.left_out) - set(nothing.left_out))
            return f"the loss of models was no longer finite, and {lost} of them were left out with their blocks"
        return found

    def _observed(self, audit: Audit, name: str, read: Callable[[Observation], R]) -> R:
        self._number += 1
        if audit.console is not None:
            line = f"[{self._number}/{self._count}] {name}"
            audit.console.print(line, highlight=False, markup=False)
        with (
            Stages(audit.console) as stages,
            closing(observe_models(engine_of(audit, stages), audit)) as observation,
        ):
            return read(observation)


def _answered(observation: Observation, audit: Audit, defense: Defense) -> Way | str:
    """The observed models behind a defence of their answers."""
    engine = replace(observation.engine, stages=Stages())  # all remarks are made already
    audit = replace(audit, defenses=(*audit.defenses, defense))
    try:
        return way_of(replace(observation, engine=engine, audit=audit))
    except InputError as error:
        return str(error)
