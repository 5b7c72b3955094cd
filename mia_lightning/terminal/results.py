"""Results of a command go to stdout, for a pipe to read; everything else goes to stderr.

`output=text` prints text for a person. `output=json` prints one JSON document: for a run its `report.json`, for an
experiment `comparison.json`, for a series of experiments `summary.json`, for `experiment=remedies` `remedies.json`, or
an estimate; a sweep prints one document on a line for each run. `output=markdown` and `output=junit` print one document
of the run or of all runs of a sweep (`mia_lightning.sweep.documents`).
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from mia_lightning.errors import InputError, first_line

DOCUMENTS = ("report.json", "comparison.json", "summary.json", "remedies.json")
STDOUT, STDERR = 1, 2


@contextmanager
def nothing_on_stdout() -> Iterator[None]:
    """Within the context all output goes to stderr: that of libraries, the user's code and processes that it starts."""
    _flush()
    kept = _duplicate(STDOUT)
    if kept is not None and _duplicate(STDERR, STDOUT) is None:
        os.close(kept)
        kept = None
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            os.dup2(kept, STDOUT)
            os.close(kept)


def print_json(content: Any, *, on_a_line: bool) -> None:
    """Print a document, in ASCII, which every terminal and locale can show."""
    print(json.dumps(content, indent=None if on_a_line else 2))


def print_document(folder: Path, *, on_a_line: bool) -> None:
    """Print the document in the folder of a run; nothing where there is none, as after a failure.

    Raises:
        InputError: it is damaged.
    """
    path = next((folder / name for name in DOCUMENTS if (folder / name).is_file()), None)
    if path is None:
        return
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}); start the same command again.") from None
    print_json(content, on_a_line=on_a_line)


def _flush() -> None:
    if sys.stdout is not None:  # it is None where the descriptor is closed
        sys.stdout.flush()


def _duplicate(descriptor: int, onto: int | None = None) -> int | None:
    """A duplicate of the descriptor; None where it is closed."""
    try:
        return os.dup(descriptor) if onto is None else os.dup2(descriptor, onto)
    except OSError:
        return None
