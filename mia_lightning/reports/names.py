"""The names that a run's folder is recognised by; for readers that load neither torch nor the whole schema."""

from typing import Final, Literal

SCHEMA: Final[Literal["mia_lightning.report/2"]] = "mia_lightning.report/2"
REPORT: Final = "report.json"
PAGE: Final = "report.html"
SCORES: Final = "scores.parquet"
MEMBERS: Final = "members.csv"
COMPARISON: Final = "comparison.json"
