"""What a command found goes to stdout, for a pipe to read; everything else goes to stderr.

`output=text` prints what a person reads, `output=json` one JSON document for a run (its `report.json`), an experiment
(`comparison.json`), a series of them (`summary.json`) or a plan, and in a sweep one such document on a line for each
run.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

FORMATS = ("text", "json")
DOCUMENTS = ("report.json", "comparison.json", "summary.json")
STDOUT, STDERR = 1, 2


@contextmanager
def nothing_on_stdout() -> Iterator[None]:
    """Whatever is printed within is on stderr: by any library, by the user's code and by processes that it starts."""
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


@contextmanager
def for_a_reader() -> Iterator[None]:
    """A reader that has read enough, such as `head`, is no mistake: the rest is printed to nobody."""
    try:
        yield
        _flush()
    except (BrokenPipeError, SystemExit):  # the second is what rich makes of the first
        nobody = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nobody, sys.stdout.fileno())
        os.close(nobody)


def print_json(content: Any, *, on_a_line: bool) -> None:
    """Print a document; in ASCII, so that any terminal and any locale can show it."""
    with for_a_reader():
        print(json.dumps(content, indent=None if on_a_line else 2))


def print_document(folder: Path, *, on_a_line: bool) -> None:
    """Print what a run has left in its folder; nothing where it has left none, as one that failed."""
    path = next((folder / name for name in DOCUMENTS if (folder / name).is_file()), None)
    if path is not None:
        print_json(json.loads(path.read_bytes()), on_a_line=on_a_line)


def _flush() -> None:
    if sys.stdout is not None:  # as it is where the descriptor is closed
        sys.stdout.flush()


def _duplicate(descriptor: int, onto: int | None = None) -> int | None:
    """None where it is closed."""
    try:
        return os.dup(descriptor) if onto is None else os.dup2(descriptor, onto)
    except OSError:
        return None
