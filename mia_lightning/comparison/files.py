"""The files of a comparison: all of them are written whole, and `comparison.json` last."""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from mia_lightning.comparison.html import comparison_page, index_page
from mia_lightning.comparison.pictures import comparison_pictures
from mia_lightning.comparison.schema import ComparisonReport
from mia_lightning.comparison.tables import comparison_csv
from mia_lightning.errors import InputError
from mia_lightning.reports.names import COMPARISON as COMPARISON
from mia_lightning.reports.reading import first_violation
from mia_lightning.store.atomic import write_whole


def save_comparison(report: ComparisonReport, folder: Path) -> list[Path]:
    """Write `comparison.csv`, `figures/*.png`, `comparison.html` and, last, `comparison.json`."""
    (folder / COMPARISON).unlink(missing_ok=True)
    pictures = comparison_pictures(report)
    contents = {"comparison.csv": comparison_csv(report).encode()}
    contents |= {f"figures/{name}": content for name, (_, content) in pictures.items()}
    contents["comparison.html"] = comparison_page(report, pictures).encode()
    contents[COMPARISON] = report.model_dump_json(by_alias=True, indent=2).encode() + b"\n"
    return [write_whole(folder / name, content) for name, content in contents.items()]


def read_comparison(path: Path) -> ComparisonReport:
    """The comparison in `path`, a `comparison.json` or a folder with one.

    Raises:
        InputError: there is no such file, or it is no comparison of this version.
    """
    path = path / COMPARISON if path.is_dir() else path
    try:
        return ComparisonReport.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"There is no comparison at {path}; give the {COMPARISON} of an experiment.") from None
    except ValidationError as error:
        sentence = f"{path} is not a valid comparison: {first_violation(error)}; run the experiment again."
        raise InputError(sentence) from None


def save_index(comparisons: Sequence[tuple[Path, ComparisonReport]], folder: Path) -> list[Path]:
    """Write `index.html`, which lists comparisons with their statements, and `summary.json`.

    Args:
        comparisons: each with the folder where it was saved, below `folder`.
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
    return [
        write_whole(folder / "index.html", index_page(placed).encode()),
        write_whole(folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False).encode()),
    ]
