"""One run of a sweep: its command, its folder, and how it ended.

A run is the command `mia-lightning` with the settings of one job, in a folder of its own. Whatever starts it, a second
start of the same command takes it up where it stood, since what was trained is in the store.
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
from typing import Protocol

from mia_lightning.store.atomic import write_whole
from mia_lightning.terminal.exit_codes import ABOVE, BELOW, LOST, OF_RUNS, UNDETERMINED

FINISHED = (BELOW, ABOVE, UNDETERMINED)  # 0, 3, 4: exit codes of a run that found what it was asked for
SECONDS_TO_END = 20.0  # between SIGTERM and SIGKILL, for a run whose starter ends


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a sweep.

    Attributes:
        number: of the job in the sweep.
        overrides: the settings of the job, complete.
        flags: what goes before them: `--config-dir` and the like, and settings of Hydra itself.
        label: what tells this run from the others, for a person to read.
        folder: absolute; where its report, `outcome.json`, `stdout.txt` and `stderr.txt` go.
        directory: absolute; the working folder of the command that started the sweep.
        digest: of its configuration, which `run.json` keeps: the folder is that configuration's for good.
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
        """What goes behind `python -m mia_lightning`; the run is a single one, whatever its configuration says."""
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
        """Whether there is nothing left to do for the run."""
        return self.exit_code in FINISHED

    @classmethod
    def of(cls, folder: Path) -> "Outcome | None":
        """What `outcome.json` in the folder of a run says; None where there is none, or none that can be read."""
        try:
            content = json.loads((folder / "outcome.json").read_text())
            code, reason = content["exit_code"], content["reason"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(exit_code=code, reason=reason) if code in OF_RUNS else None

    def keep(self, folder: Path) -> "Outcome":
        """Write it to `outcome.json`."""
        content = {"exit_code": self.exit_code, "reason": self.reason}
        write_whole(folder / "outcome.json", json.dumps(content, indent=2).encode())
        return self


class Backend(Protocol):
    """Where the runs of a sweep are run."""

    def run(self, runs: Sequence[Run], *, folder: Path) -> None:
        """Run them all, and return when each has ended and has an outcome.

        Args:
            folder: of the sweep, for what the backend has to keep.

        Raises:
            InputError: nothing can be run there, or it cannot be said any more how the runs are doing.
        """


def lost(run: Run, reason: str) -> Outcome:
    """Write the outcome of a run that ended without one of its own: killed, cancelled, timed out."""
    return Outcome(exit_code=LOST, reason=reason).keep(run.folder)


def claim(run: Run) -> None:
    """Keep in the folder of a run which configuration it belongs to."""
    content = {"digest": run.digest, "overrides": list(run.overrides)}
    write_whole(run.folder / "run.json", json.dumps(content, indent=2).encode())


def begin(run: Run) -> None:
    """Claim the folder, and forget the outcome of an earlier attempt."""
    claim(run)
    (run.folder / "outcome.json").unlink(missing_ok=True)


def digest_of(folder: Path) -> str | None:
    """The digest of the configuration that a folder belongs to; None where no run was begun in it."""
    try:
        return str(json.loads((folder / "run.json").read_text())["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def execute(run: Run) -> int:
    """Run it in a process of its own, and wait.

    SIGTERM, SIGUSR1 and SIGUSR2, by which clusters announce the end of a task, reach the run as SIGTERM, after which it
    ends by itself and leaves what it has trained in the store; then the handlers that were there before are called.

    Returns:
        The exit code of its outcome, which is there in any case.
    """
    begin(run)
    with (run.folder / "stdout.txt").open("ab") as output, (run.folder / "stderr.txt").open("ab") as errors:
        command = [sys.executable, "-m", "mia_lightning", *run.arguments]
        announcements = (signal.SIGUSR1, signal.SIGUSR2)
        # Blocked in the run, which a scheduler may signal directly, and would kill that way.
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
    """Signals end the process before they do what they did; only the main thread can handle any."""
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
    """The outcome of a run that wrote none: it was killed, or refused before there was a configuration."""
    if code < 0:
        return Outcome(exit_code=LOST, reason=f"it was killed by {signal.Signals(-code).name}")
    lines = (run.folder / "stderr.txt").read_text(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), f"it ended with exit code {code}, without a word")
    return Outcome(exit_code=code if code in OF_RUNS[1:] else LOST, reason=last.removeprefix("mia-lightning: "))
