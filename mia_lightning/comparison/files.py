"""The files of a comparison: all of them are written whole, and `comparison.json` last."""

import json
from collections.abc import Sequence
from pathlib import Path

from mia_lightning.comparison.html import comparison_page, index_page
from mia_lightning.comparison.pictures import comparison_pictures
from mia_lightning.comparison.reading import read_comparison as read_comparison
from mia_lightning.comparison.schema import ComparisonReport
from mia_lightning.comparison.tables import comparison_csv
from mia_lightning.reports.names import COMPARISON as COMPARISON
from mia_lightning.store.atomic import write_whole
from mia_lightning.store.run_folder import written_to_run


def save_comparison(report: ComparisonReport, folder: Path) -> list[Path]:
    """Write `comparison.csv`, `figures/*.png`, `comparison.html` and, last, `comparison.json`.

    Raises:
        InputError: the folder cannot be written.
    """
    with written_to_run():
        (folder / COMPARISON).unlink(missing_ok=True)
    pictures = comparison_pictures(report)
    contents = {"comparison.csv": comparison_csv(report)}
    contents |= {f"figures/{name}": picture.wide for name, picture in pictures.items()}
    contents["comparison.html"] = comparison_page(report, pictures).encode()
    contents[COMPARISON] = report.model_dump_json(by_alias=True, indent=2).encode() + b"\n"
    with written_to_run():
        return [write_whole(folder / name, content) for name, content in contents.items()]


def save_index(comparisons: Sequence[tuple[Path, ComparisonReport]], folder: Path) -> list[Path]:
    """Write `index.html`, which lists comparisons with their statements, and `summary.json`.

    Args:
        comparisons: each with the folder where it was saved, below `folder`.

    Raises:
        InputError: the folder cannot be written.
    """
    placed = [(place.relative_to(folder).as_posix(), report) for place, report in comparisons]
    summary = [
        {
            "folder": place,
            "title": report.title,
            "command": report.command,
            "seconds": report.seconds,
            "statements": [statement.model_dump() for statement in report.statements],
            "not_run": {variant.name: variant.skipped for variant in report.variants if variant.skipped},
        }
        for place, report in placed
    ]
    contents = {
        "index.html": index_page(placed).encode(),
        "summary.json": json.dumps(summary, indent=2, ensure_ascii=False).encode(),
    }
    with written_to_run():
        return [write_whole(folder / name, content) for name, content in contents.items()]
