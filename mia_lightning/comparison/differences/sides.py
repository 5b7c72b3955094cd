"""What is compared: one trained model, or several of one recipe, as their runs keep them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mia_lightning.comparison.matrix import base_name
from mia_lightning.errors import InputError
from mia_lightning.reports.names import REPORT, SCORES
from mia_lightning.reports.reading import read_report
from mia_lightning.reports.rows import RunRow
from mia_lightning.reports.schema import AttackSection, AuditReport
from mia_lightning.reports.scores import Scores, read_scores
from mia_lightning.settings.checking import shown

# Settings in which two runs of one recipe may differ.
_NOT_RECIPE = ("seed", "logger", "output", "store", "report", "gate", "sweep", "estimate", "save_models", "convergence")


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptRun:
    """A run as it was kept: its report, its scores, and the names of records by their places, where they have names."""

    report: AuditReport
    scores: Scores
    record_names: Mapping[int, str]

    @classmethod
    def of(cls, report: AuditReport) -> "KeptRun":
        """Of a report in memory.

        Raises:
            InputError: it is none, or was read back and has no scores.
        """
        if not isinstance(report, AuditReport):
            raise InputError(f"{shown(report)} is no report; give what `mia_lightning.audit` or `attack` returned.")
        if report.scores is None:
            raise InputError(
                "A report that was read back has no scores; give the reports that the audits returned, or give the "
                "folders of the runs to mia-compare."
            )
        return cls(report=report, scores=report.scores, record_names=dict(enumerate(report.record_names)))

    @classmethod
    def read(cls, folder: Path) -> "KeptRun":
        """From a run's folder.

        Raises:
            InputError: `report.json` or `scores.parquet` is gone, damaged, or of another version.
        """
        report = read_report(folder)
        scores, names = read_scores(folder / SCORES)
        return cls(report=report, scores=scores, record_names=names)

    @property
    def attacks(self) -> dict[str, AttackSection]:
        """By name, each in the form of the attacker who knows the defence, where there are two."""
        found: dict[str, AttackSection] = {}
        for section in self.report.attacks:
            name = base_name(section.name)
            if name not in found or section.adaptive:
                found[name] = section
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Side:
    """Runs of one recipe, whose targets count together; most often one run.

    Attributes:
        name: how it is called.
        runs: with equal settings, but for the seed.
    """

    name: str
    runs: tuple[KeptRun, ...]

    @property
    def report(self) -> AuditReport:
        """Of the first run, which stands for what all have in common."""
        return self.runs[0].report

    @property
    def num_targets(self) -> int:
        return sum(run.report.target.num_targets for run in self.runs)

    @property
    def void(self) -> str | None:
        """Why no figure of it is evidence; None where they may be."""
        for run in self.runs:
            if run.report.trust.verdict in ("void", "unconfirmed"):
                return f"{self.name} {RunRow.of(run.report).doubt}"
        return None

    @property
    def understated(self) -> str | None:
        """Why low figures of it are no evidence; None where they may be."""
        return next((run.report.understated for run in self.runs if run.report.understated), None)


def sides_in(paths: Sequence[Path]) -> list[Side]:
    """The sides beneath folders of runs, of sweeps and of experiments, in order.

    Runs beneath one folder that differ in nothing but the seed are one side: trainings of one recipe.

    Raises:
        InputError: a folder without a run, one run given twice, or a run that cannot be read.
    """
    seen: dict[Path, Path] = {}
    sides = []
    for path in paths:
        folders = _runs_beneath(path)
        for folder in folders:
            place = folder.resolve()
            if place in seen:
                raise InputError(f"The run {folder} is given twice, in {seen[place]} and {path}; give each run once.")
            seen[place] = path
        sides += _sides_of(path, [(folder, KeptRun.read(folder)) for folder in folders])
    return sides


def _runs_beneath(path: Path) -> list[Path]:
    if path.is_file() and path.name == REPORT:
        path = path.parent
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; give the folder of a run, of a sweep or of an experiment.")
    folders = [path] if (path / REPORT).is_file() else sorted(each.parent for each in path.rglob(REPORT))
    if not folders:
        raise InputError(f"There is no run beneath {path}; give a folder in which runs have left their {REPORT}.")
    return folders


def _sides_of(path: Path, runs: Sequence[tuple[Path, KeptRun]]) -> list[Side]:
    """One side for each recipe among the runs beneath a folder; a run from Python is one of its own.

    The runs of a side are in the order of their seeds, whatever their folders are called, so that target t of one side
    has the seed of target t of another.
    """
    if len(runs) == 1:
        return [Side(name=str(path), runs=(runs[0][1],))]
    recipes: dict[str, list[tuple[Path, KeptRun]]] = {}
    for folder, run in runs:
        config = run.report.run.config
        key = json.dumps(dict(_settings(config)), sort_keys=True) if config else str(folder)
        recipes.setdefault(key, []).append((folder, run))
    for of in recipes.values():
        of.sort(key=lambda each: each[1].report.run.seed)
    if len(recipes) == 1:
        return [Side(name=str(path), runs=tuple(run for of in recipes.values() for _, run in of))]
    flat = [dict(_settings(of[0][1].report.run.config)) for of in recipes.values()]
    varied = [name for name in sorted(set().union(*flat)) if len({each.get(name) for each in flat}) > 1]
    sides = []
    for settings, of in zip(flat, recipes.values(), strict=True):
        named = " ".join(f"{name}={settings[name]}" for name in varied if name in settings)
        alone = str(of[0][0])
        short = named if 0 < len(named) <= 60 else alone
        sides.append(Side(name=short, runs=tuple(run for _, run in of)))
    if len({side.name for side in sides}) < len(sides):
        return [Side(name=str(of[0][0]), runs=side.runs) for side, of in zip(sides, recipes.values(), strict=True)]
    return sides


def setting_of(side: Side, name: str) -> str | None:
    """The value of a setting such as `model.hidden`; `architecture` is that of the target."""
    if name == "architecture":
        return side.report.target.architecture
    return dict(_settings(side.report.run.config)).get(name)


def _settings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The settings of a recipe, flat."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            if name or key not in _NOT_RECIPE:
                yield from _settings(inner, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, value if isinstance(value, str) else json.dumps(value, default=str)
