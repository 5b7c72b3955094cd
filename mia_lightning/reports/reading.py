"""`report.json`, refused where it is none; torch is not loaded, nor the whole schema before a whole report is read."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mia_lightning.errors import InputError
from mia_lightning.reports.names import REPORT, SCHEMA
from mia_lightning.store.documents import DamagedError, understood

if TYPE_CHECKING:
    from mia_lightning.reports.schema import AuditReport


def report_content(path: Path) -> dict[str, Any]:
    """The content of a `report.json` of this version, not validated beyond its schema.

    Raises:
        InputError: there is no such file, it is not JSON, or it is not a report of this version.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"There is no report at {path}; give the {REPORT} of a finished run.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give it to whoever runs this command.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); give the {REPORT} of a finished run.") from None
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise InputError(
            f"{path} has the schema {found!r}; this version of mia_lightning reads {SCHEMA!r}: run the audit again, or "
            "read it with the version that wrote it."
        )
    assert isinstance(content, dict)
    return content


def read_report(path: Path | str) -> "AuditReport":
    """The report in `path`, a `report.json` or a folder with one; without scores and training curves.

    Raises:
        InputError: there is no such file, it is not JSON, or it is not a report of this version.
    """
    from mia_lightning.reports.schema import AuditReport

    path = Path(path)
    path = path / REPORT if path.is_dir() else path
    try:
        return understood(report_content(path), AuditReport)
    except DamagedError as damage:
        raise InputError(
            f"{path} is not a valid report: {damage.violation}; write it again by running the audit."
        ) from None
