"""The recorded letters of Debian's package klettres-data, of which nothing lies in this repository."""

import os
from pathlib import Path

import pytest

FOLDER = "/usr/share/klettres"
REQUIRED = "MIA_KLETTRES"  # `required` where missing recordings are a failure, not a reason to skip


def klettres() -> Path:
    """The folder with one folder for each language; the test is skipped, or fails, where there is none."""
    folder = Path(FOLDER)
    if not folder.is_dir():
        reason = f"needs the recordings in {FOLDER}: apt-get install klettres-data"
        if os.environ.get(REQUIRED) == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
