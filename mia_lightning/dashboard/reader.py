"""Runs read from disk, each again only when its files have changed."""

from pathlib import Path

from mia_lightning.dashboard.content import Shown
from mia_lightning.dashboard.curves import read_curves
from mia_lightning.dashboard.finding import Complain, Place
from mia_lightning.errors import InputError
from mia_lightning.reports.names import PAGE, REPORT, SCORES
from mia_lightning.reports.rows import read_run

State = tuple[tuple[int, int] | None, ...]


class Reader:
    """Remembers what it has read, and what it could not read."""

    def __init__(self, complain: Complain) -> None:
        self._complain = complain
        self._read: dict[Path, tuple[State, Shown | None]] = {}

    def read(self, place: Place) -> Shown | None:
        """The run at `place`; None, after one sentence about it, if it cannot be read."""
        state = state_of(place)
        known = self._read.get(place.folder)
        if known is None or known[0] != state:
            known = self._read[place.folder] = (state, self._fresh(place))
        return known[1]

    def _fresh(self, place: Place) -> Shown | None:
        try:
            run = read_run(place.folder)
        except InputError as error:
            self._complain(str(error))
            return None
        return Shown(place=place, run=run, curves=read_curves(place.folder, self._complain))


def state_of(place: Place) -> State:
    """Differs whenever the files of the run have changed."""
    files = [place.folder / name for name in (REPORT, SCORES, PAGE)]
    return tuple(_state(path) for path in [*files, *([] if place.comparison is None else [place.comparison])])


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
