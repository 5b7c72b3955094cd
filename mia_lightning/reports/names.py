"""The names that a run's folder is recognised by; for readers that load neither torch nor the whole schema."""

from pathlib import PurePosixPath
from typing import Annotated, Final, Literal

from annotated_types import Predicate

SCHEMA: Final[Literal["mia_lightning.report/2"]] = "mia_lightning.report/2"
REPORT: Final = "report.json"
PAGE: Final = "report.html"
SCORES: Final = "scores.parquet"
MEMBERS: Final = "members.csv"
COMPARISON: Final = "comparison.json"
REMEDIES: Final = "remedies.json"


def _is_below(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\0" not in name


FolderBelow = Annotated[str, Predicate(_is_below)]
"""A folder below that of the file that names it, and nowhere else."""
