"""The content of the page: one JSON object, compact enough for thousands of runs."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from mia_lightning.dashboard.curves import GRID_F
from mia_lightning.dashboard.finding import Place
from mia_lightning.dashboard.pairing import pairs_of
from mia_lightning.dashboard.settings import differing_settings
from mia_lightning.metrics.figures import Figure
from mia_lightning.metrics.intervals.simultaneous import largest
from mia_lightning.reports.names import PAGE
from mia_lightning.reports.rows import ACCURACIES, Limited, RunRow, shared_name
from mia_lightning.store.documents import DamagedError, read
from mia_lightning.sweep.rows import overrides_of, own_settings

FIGURES = (
    {"key": "auc", "title": "AUC", "chance": 0.5},
    {"key": "tpr_at_fpr_0.01", "title": "TPR at 1\u00a0% FPR", "chance": 0.01},
    {"key": "tpr_at_fpr_0.001", "title": "TPR at 0.1\u00a0% FPR", "chance": 0.001},
    {"key": "advantage", "title": "advantage", "chance": 0.0},
)
UNDEFENDED = "none"
# Of a run, as they are.
COLUMNS = ("created", "dataset", "num_records", "num_classes", "architecture", "seed", "num_shadows", "utility")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A run that was read, its place, and its curves by the name of the attack."""

    place: Place
    run: RunRow
    curves: Mapping[str, tuple[int, list[float]]]


def page_content(shown: Sequence[Shown], *, beside: Path) -> dict[str, Any]:
    """The content of the page.

    `figures` and `grid` (of false-positive rates) hold for all runs; `attacks` are their names, to which the attacks
    of a run point by place. A figure is `[value, low, high]`, or null where it has no value; `strongest` are those of
    the maximum over the attacks of a run. `utility` is what the test and train accuracies of a run are, and that of all
    runs, where it is one. `pairs` say how much the figures of two runs go together over shared records.

    Args:
        beside: the folder of the page, from which the links to reports begin.
    """
    attacks = sorted({attack.attack for each in shown for attack in each.run.attacks})
    titles, names = _titles(shown), _names([each.place for each in shown])
    return {
        "figures": list(FIGURES),
        "grid": [float(f"{rate:.6g}") for rate in GRID_F],
        "attacks": attacks,
        "utility": shared_name((each.run.utility for each in shown), "utility"),
        "runs": [_row(each, name, attacks, titles, beside) for each, name in zip(shown, names, strict=True)],
        "pairs": pairs_of([(each.run, each.place.folder) for each in shown], attacks),
        "settings": differing_settings([each.run.config for each in shown]),
    }


def _names(places: Sequence[Place]) -> list[str]:
    """The settings in which a run differs from the others of its sweep, or of all single runs; else its path.

    A variant of an experiment has the name of its folder. What would name two runs is followed by the path.
    """
    groups: dict[str | None, dict[str, Sequence[str]]] = {}
    for place in places:
        groups.setdefault(place.group, {})[place.name] = () if place.comparison else overrides_of(place.folder)
    own = {path: each for group in groups.values() for path, each in own_settings(group).items()}
    names = [
        f"{place.folder.name}" if place.comparison else " ".join(own[place.name]) or place.name for place in places
    ]
    return [
        name if names.count(name) == 1 else f"{name} ({place.name})" for name, place in zip(names, places, strict=True)
    ]


def _row(shown: Shown, name: str, attacks: Sequence[str], titles: Mapping[Path, str], beside: Path) -> dict[str, Any]:
    """A run by the names of its columns, and what the page alone has of it."""
    place, run = shown.place, shown.run
    title = None if place.comparison is None else titles.get(place.comparison)
    return {
        "name": name,
        "path": place.name,
        "doubt": run.doubt,
        "href": _link(place.folder / PAGE, beside),
        "project": _project(run) or place.root,
        "group": place.group if title is None else f"{title} ({place.group})",
        **{column: getattr(run, column) for column in COLUMNS},
        **{column: _rounded(getattr(run, column)) for column in ACCURACIES},
        "defense": UNDEFENDED if run.defense is None else run.defense,
        "attacks": [
            {
                "attack": attacks.index(each.attack),
                "figures": [_figure(each.figures.get(str(figure["key"]))) for figure in FIGURES],
                "roc": shown.curves.get(each.attack),
            }
            for each in run.attacks
        ],
        "strongest": [_figure(_largest(run, str(figure["key"]))) for figure in FIGURES],
    }


def _largest(run: RunRow, key: str) -> Figure | None:
    """The figure of the attack that is strongest in it, with the limits of the maximum over the attacks."""
    figures = [each.figures[key] for each in run.attacks if key in each.figures]
    return largest([Figure.model_construct(value=each.value, low=each.low, high=each.high) for each in figures])


def _figure(figure: Limited | Figure | None) -> list[float | None] | None:
    if figure is None or figure.value is None:
        return None
    return [None if each is None else _rounded(each) for each in (figure.value, figure.low, figure.high)]


def _rounded(value: float) -> float:
    return round(value, 5)


def _project(run: RunRow) -> str | None:
    """The project in wandb, if the run had one."""
    logger = run.config.get("logger")
    project = logger.get("project") if isinstance(logger, dict) else None
    return project if isinstance(project, str) and project else None


def _link(page: Path, beside: Path) -> str | None:
    """The relative address of a run's page; None where it has none, or where no relative way leads there."""
    if not page.is_file():
        return None
    try:
        way = os.path.relpath(page.resolve(), beside.resolve())
    except ValueError:  # another drive
        return None
    way = quote(Path(way).as_posix())
    return way if way.startswith("..") else f"./{way}"  # a folder's colon would read as a scheme


def _titles(shown: Sequence[Shown]) -> dict[Path, str]:
    """Titles of the experiments around the runs, as far as they can be read."""
    titles = {}
    for path in {each.place.comparison for each in shown if each.place.comparison is not None}:
        with contextlib.suppress(DamagedError):  # being written, or somebody else's: the folder names it
            titled = read(path, _Titled)
            if titled is not None:
                titles[path] = titled.title
    return titles


class _Titled(BaseModel):
    """What the page needs of a comparison."""

    title: str
