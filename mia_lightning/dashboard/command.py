"""`mia-dashboard`: one page over the runs beneath folders, written once or whenever a run is added."""

import argparse
import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from mia_lightning.dashboard.content import Shown, page_content
from mia_lightning.dashboard.finding import Place, find_runs
from mia_lightning.dashboard.page import dashboard_page
from mia_lightning.dashboard.reader import Reader, state_of
from mia_lightning.dashboard.workspace import create, is_meant
from mia_lightning.errors import InputError
from mia_lightning.store.atomic import write_whole
from mia_lightning.terminal.entry import run
from mia_lightning.terminal.exit_codes import BELOW
from mia_lightning.terminal.parser import Parser, tell

PROGRAM = "mia-dashboard"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """`mia-dashboard`; ends the process with 0, 2 (bad input), 130 or 143.

    Under `--watch` Ctrl-C and SIGTERM are the end that is meant, and the process ends with 0.
    """
    given = sys.argv[1:] if arguments is None else arguments
    run(PROGRAM, lambda: _workspace(given[1:]) if is_meant(given) else _page(given))


def _workspace(arguments: Sequence[str]) -> int:
    print(create(arguments))
    return BELOW


def _page(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    command = shlex.join([PROGRAM, *arguments])
    if options.watch is None:
        _once(options, command)
    else:
        with contextlib.suppress(KeyboardInterrupt):
            watch(options.folders, options.output, seconds=options.watch, command=command)
    return BELOW


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=PROGRAM,
        description="Draws all runs in the folders on one self-contained page: leakage against generalisation gap and "
        "utility, over time, and side by side.",
        epilog=f"{PROGRAM} outputs/ multirun/ --output dashboard.html; {PROGRAM} wandb ENTITY/PROJECT for a workspace",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="of runs: outputs/, multirun/, that of an experiment"
    )
    parser.add_argument("--output", type=Path, default=Path("dashboard.html"), help="the page (default: %(default)s)")
    parser.add_argument(
        "--watch",
        type=_seconds,
        metavar="SECONDS",
        help="look for new runs every so many seconds, until Ctrl-C, and rewrite the page",
    )
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 86400")
    return seconds


def _once(options: argparse.Namespace, command: str) -> None:
    reader = Reader(_complain)
    places = find_runs(options.folders, _complain)
    shown = [each for place in places if (each := reader.read(place)) is not None]
    if not shown:
        raise InputError(
            f"There is no run beneath {', '.join(map(str, options.folders))} that can be read; give folders in which "
            "runs have left their report.json."
        )
    _write(shown, options.output, command=command, watched=None)


def watch(
    folders: Sequence[Path],
    output: Path,
    *,
    seconds: float,
    command: str,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Write the page now, if there are runs, and whenever one is added, changed or removed; never returns by itself.

    Args:
        wait: is called between two looks; an exception that it raises ends the watch.

    Raises:
        InputError: one of `folders` is not there, or `output` cannot be written.
    """
    reader = Reader(_complain)
    told: set[str] = set()

    def once(sentence: str) -> None:
        if sentence not in told:
            told.add(sentence)
            _complain(sentence)

    before: object = None
    while True:
        places = find_runs(folders, once)
        now = [(place, state_of(place)) for place in places]
        if now != before:
            _look(reader, places, output, command=command, seconds=seconds)
            before = now
        wait(seconds)


def _look(reader: Reader, places: Sequence[Place], output: Path, *, command: str, seconds: float) -> None:
    shown = [each for place in places if (each := reader.read(place)) is not None]
    if shown:
        _write(shown, output, command=command, watched=seconds)
    else:
        _complain("there is no run yet that can be read; waiting for the first.")


def _write(shown: Sequence[Shown], output: Path, *, command: str, watched: float | None) -> None:
    content = page_content(shown, beside=output.parent)
    page = dashboard_page(content, made=datetime.now(UTC), command=command, watched=watched)
    try:
        write_whole(output, page.encode())
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror}); give another --output.") from None
    print(f"{output}: {len(shown)} {'run' if len(shown) == 1 else 'runs'}", flush=True)


def _complain(sentence: str) -> None:
    tell(PROGRAM, sentence)


if __name__ == "__main__":
    main()
