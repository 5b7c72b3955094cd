"""Folders of runs with nothing in them but what other runs are compared with: quick to write."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mia_lightning.reports.schema import AuditReport


def keep(report: AuditReport, folder: Path) -> None:
    """Write `report.json` and `scores.parquet`."""
    assert report.scores is not None
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(report.scores.columns), folder / "scores.parquet", write_page_checksum=True)
    (folder / "report.json").write_text(report.model_dump_json(by_alias=True))
