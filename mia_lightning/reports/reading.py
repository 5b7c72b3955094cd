"""`report.json` as plain JSON, refused where it is none; loads neither torch nor the whole schema."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mia_lightning.errors import InputError
from mia_lightning.reports.names import REPORT, SCHEMA

if TYPE_CHECKING:
    from pydantic import ValidationError


def report_content(path: Path) -> dict[str, Any]:
    """The content of a `report.json` of this version, not validated beyond its schema.

    Raises:
        InputError: there is no such file, it is not JSON, or it is not a report of this version.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"There is no report at {path}; give the {REPORT} of a finished run.") from None
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


def first_violation(error: "ValidationError") -> str:
    """The first thing that is wrong with a file, and where."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "its beginning"
    return f"{first['msg']} at `{place}`"
