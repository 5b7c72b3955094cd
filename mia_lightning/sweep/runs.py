"""One run of a sweep: its command, its folder, and how it ended.

A run is the command `mia-lightning` with the settings of one job, in a folder of its own. A second start of the same
command goes on where the run stopped, since its trained models are in the store.
"""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Protocol

from annotated_types import MinLen, Predicate

from mia_lightning.store.atomic import write_whole
from mia_lightning.store.documents import EXACT, DamagedError, read
from mia_lightning.terminal.exit_codes import ABOVE, BELOW, LOST, OF_RUNS, UNDETERMINED

FINISHED = (BELOW, ABOVE, UNDETERMINED)  # 0, 3, 4: exit codes of a run that has a result
SECONDS_TO_END = 20.0  # between SIGTERM and SIGKILL, for a run whose parent ends


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a sweep.

    Attributes:
        number: of the job in the sweep.
        overrides: the settings of the job, complete.
        flags: the arguments before them, such as `--config-dir`, and settings of Hydra itself.
        label: the settings in which this run differs from the others, for a person to read.
        folder: absolute; for its report, `outcome.json`, `stdout.txt` and `stderr.txt`.
        directory: absolute; the working folder of the command that started the sweep.
        digest: of its configuration, which `run.json` holds: the folder belongs to that configuration for good.
    """

    number: int
    overrides: tuple[str, ...]
    flags: tuple[str, ...] = ()
    label: str = ""
    folder: Path
    directory: Path
    digest: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of `python -m mia_lightning`; they make it a single run, whatever the configuration says."""
        folder = str(self.folder).replace("'", "\\'")
        return (*self.flags, *self.overrides, "hydra.mode=RUN", f"hydra.run.dir='{folder}'")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        exit_code: one of `exit_codes.OF_RUNS`.
        reason: a sentence, where it is not 0.
    """

    exit_code: int
    reason: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the run has a result."""
        return self.exit_code in FINISHED

    @classmethod
    def of(cls, folder: Path) -> "Outcome | None":
        """The outcome in `outcome.json` of a run's folder; None where it is missing or damaged."""
        try:
            return cls.read(folder)
        except DamagedError:
            return None

    @classmethod
    def read(cls, folder: Path) -> "Outcome | None":
        """As `of`.

        Raises:
            DamagedError: `outcome.json` is damaged.
        """
        kept = read(folder / "outcome.json", _OutcomeFile)
        return None if kept is None else cls(exit_code=kept.exit_code, reason=kept.reason)

    def keep(self, folder: Path) -> "Outcome":
        """Write it to `outcome.json`."""
        content = {"exit_code": self.exit_code, "reason": self.reason}
        write_whole(folder / "outcome.json", json.dumps(content, indent=2).encode())
        return self


@dataclass(frozen=True)
class _OutcomeFile:
    """The content of `outcome.json`."""

    __pydantic_config__ = EXACT

    exit_code: Annotated[int, Predicate(OF_RUNS.__contains__)]
    reason: str | None


@dataclass(frozen=True)
class _Claim:
    """The content of `run.json`."""

    __pydantic_config__ = EXACT

    digest: Annotated[str, MinLen(1)]
    overrides: tuple[str, ...]


class Backend(Protocol):
    """Executes the runs of a sweep."""

    def run(self, runs: Sequence[Run], *, folder: Path) -> None:
        """Run them all, and return when each has ended and has an outcome.

        Args:
            folder: of the sweep, for files of the backend.

        Raises:
            InputError: the backend cannot run anything, or has lost contact with the runs.
        """


def lost(run: Run, reason: str) -> Outcome:
    """Write the outcome of a run that ended without one: it was killed, cancelled or timed out."""
    return Outcome(exit_code=LOST, reason=reason).keep(run.folder)


def claim(run: Run) -> None:
    """Write to the folder of a run which configuration it belongs to."""
    content = {"digest": run.digest, "overrides": list(run.overrides)}
    write_whole(run.folder / "run.json", json.dumps(content, indent=2).encode())


def begin(run: Run) -> None:
    """Claim the folder, and delete the outcome of an earlier attempt."""
    claim(run)
    (run.folder / "outcome.json").unlink(missing_ok=True)


def digest_of(folder: Path) -> str | None:
    """The digest of the configuration that a folder belongs to; None where no run was begun in it, or none knows."""
    kept = _claim_of(folder)
    return None if kept is None else kept.digest


def claimed_settings(folder: Path) -> tuple[str, ...] | None:
    """The settings of the run that a folder belongs to, as they were typed; None as in `digest_of`."""
    kept = _claim_of(folder)
    return None if kept is None else kept.overrides


def _claim_of(folder: Path) -> _Claim | None:
    try:
        return read(folder / "run.json", _Claim)
    except DamagedError:
        return None


def execute(run: Run) -> int:
    """Run it in a process of its own, and wait.

    Clusters announce the end of a task by SIGTERM, SIGUSR1 or SIGUSR2. The run then receives SIGTERM, stores what it
    has trained and ends; after that the earlier handlers are called.

    Returns:
        The exit code of the run's outcome, which is written in any case.
    """
    begin(run)
    with (run.folder / "stdout.txt").open("ab") as output, (run.folder / "stderr.txt").open("ab") as errors:
        command = [sys.executable, "-m", "mia_lightning", *run.arguments]
        announcements = (signal.SIGUSR1, signal.SIGUSR2)
        # Blocked in the run: a scheduler may send them to the run directly, and they would kill it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, announcements)
        process = subprocess.Popen(command, cwd=run.directory, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        try:
            with _passing_on((signal.SIGTERM, *announcements), process):
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                code = process.wait()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            _end(process)
    outcome = Outcome.of(run.folder)
    return (outcome or _explain(run, code).keep(run.folder)).exit_code


@contextmanager
def _passing_on(numbers: Sequence[signal.Signals], process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Within the context the signals end the process and then call their earlier handlers; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.getsignal(number) for number in numbers}

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.terminate()
        handler = earlier[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    try:
        for number in numbers:
            signal.signal(number, pass_on)
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _explain(run: Run, code: int) -> Outcome:
    """The outcome of a run that wrote none: it was killed, or its command line was refused."""
    if code < 0:
        return Outcome(exit_code=LOST, reason=f"it was killed by {signal.Signals(-code).name}")
    lines = (run.folder / "stderr.txt").read_text(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), f"it ended with exit code {code} and said nothing")
    return Outcome(exit_code=code if code in OF_RUNS[1:] else LOST, reason=last.removeprefix("mia-lightning: "))
