"""What benchmarks of whole runs of `mia-lightning` share: the command, its settings, and how they end."""

import argparse
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def timed_run(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    within: Sequence[str] = (),
) -> float:
    """Seconds of a process of `mia-lightning`; raises `SystemExit` with all that it printed where it fails.

    Args:
        environment: beside that of this process.
        folder: in which it runs.
        within: the words of a command that runs it.
    """
    command = [*within, str(Path(sysconfig.get_path("scripts")) / "mia-lightning"), *arguments]
    variables = {**os.environ, **(environment or {})}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds


def arguments(
    given: Sequence[str] | None,
    *,
    about: str,
    rounds: int,
    what: str,
    more: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> argparse.Namespace:
    """The options `shadows`, `epochs`, `rounds` and `json`, with smaller defaults where it is to be quick.

    Args:
        about: the docstring of the benchmark.
        rounds: by default.
        what: a round is made of.
        more: adds further options.
    """
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--shadows", type=int, default=None, help="shadow models of a target (default: 64)")
    parser.add_argument("--epochs", type=int, default=None, help="of target and shadow models (default: 100)")
    parser.add_argument("--rounds", type=int, default=None, help=f"of {what} in turn (default: {rounds})")
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    parser.add_argument("--quick", action="store_true", help="4 shadow models, 2 epochs, 1 round: a test of the script")
    more(parser)
    parsed = parser.parse_args(given)
    for name, value, quick in (("shadows", 64, 4), ("epochs", 100, 2), ("rounds", rounds, 1)):
        if getattr(parsed, name) is None:
            setattr(parsed, name, quick if parsed.quick else value)
    if parsed.shadows < 2 or parsed.epochs < 1 or parsed.rounds < 1:
        parser.error("--shadows must be at least 2, --epochs and --rounds at least 1")
    return parsed


def exit_code(complaint: str | None) -> int:
    """0, or 1 for a result that is broken, which is printed."""
    if complaint is None:
        return 0
    print(complaint, file=sys.stderr)
    return 1
