"""`comparison.json`, read; loads nothing that draws."""

from pathlib import Path

from mia_lightning.comparison.schema import ComparisonReport
from mia_lightning.errors import InputError
from mia_lightning.reports.names import COMPARISON
from mia_lightning.store.documents import DamagedError, read


def read_comparison(path: Path) -> ComparisonReport:
    """The comparison in `path`, a `comparison.json` or a folder with one.

    Raises:
        InputError: there is no such file, or it is no comparison of this version.
    """
    path = path / COMPARISON if path.is_dir() else path
    try:
        found = read(path, ComparisonReport)
    except DamagedError as damage:
        raise InputError(f"{path} is not a valid comparison: {damage.violation}; run the experiment again.") from None
    if found is None:
        raise InputError(f"There is no comparison at {path}; give the {COMPARISON} of an experiment.")
    return found
