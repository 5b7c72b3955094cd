"""Finds the runs beneath folders."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mia_lightning.errors import InputError
from mia_lightning.reports.names import COMPARISON, REPORT

SWEEP = "multirun.yaml"  # which Hydra writes into the folder of a sweep

Complain = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Place:
    """The folder of one run.

    Attributes:
        folder: holds the run's report.json.
        name: its path from the last part of the folder that was given: "outputs/2026-11-24/22-28-11".
        root: that last part.
        group: the name, likewise, of the nearest folder of an experiment or a sweep around it; None for a single run.
        comparison: of the experiment around it; None without one.
    """

    folder: Path
    name: str
    root: str
    group: str | None
    comparison: Path | None


def find_runs(folders: Sequence[Path], complain: Complain) -> list[Place]:
    """The runs beneath `folders`, in the order of their names, each once; hidden folders are not looked into.

    Args:
        complain: is called with one sentence about every folder that cannot be read.

    Raises:
        InputError: one of `folders` does not exist or is not a folder.
    """
    found: dict[Path, Place] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; give folders with runs, such as outputs/ or multirun/.")
        for place in _beneath(folder, complain):
            found.setdefault(place.folder.resolve(), place)
    return sorted(found.values(), key=lambda place: (place.name, place.folder))


def _beneath(root: Path, complain: Complain) -> Iterator[Place]:
    root_name = root.resolve().name or "/"
    groups: dict[Path, tuple[str | None, Path | None]] = {}

    def unreadable(error: OSError) -> None:
        complain(f"{error.filename} cannot be read ({error.strerror}); the runs beneath it are left out.")

    for path, below, files in os.walk(root, onerror=unreadable):
        folder = Path(path)
        name = "/".join((root_name, *folder.relative_to(root).parts))
        group = groups.get(folder.parent, (None, None)) if folder != root else (None, None)
        if COMPARISON in files:
            group = (name, folder / COMPARISON)
        elif SWEEP in files:
            group = (name, None)
        groups[folder] = group
        below[:] = sorted(each for each in below if not each.startswith("."))
        if REPORT in files:
            yield Place(folder=folder, name=name, root=root_name, group=group[0], comparison=group[1])
