"""Rows as CSV, of which a spreadsheet takes no cell for a formula."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

# A text that begins so is a formula to a spreadsheet; some skip what is no letter before it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def csv_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> bytes:
    """The rows, with a header; a text that a spreadsheet would take for a formula stands behind an apostrophe.

    Args:
        columns: in order; by default those of the first row.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA) else value
