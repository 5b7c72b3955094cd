"""The states of Slurm's jobs, read by its own commands with a time limit: each blocks while the controller is away.

The states come from `squeue`, which lists a job for some minutes after its end (`MinJobAge`), so that no accounting is
needed; `sacct` is called only for a job that the controller has forgotten.
"""

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mia_lightning.errors import InputError

SECONDS_OF_A_COMMAND = 15.0
SECONDS_OF_PATIENCE = 30.0  # with a controller that does not answer; the user is told within a minute
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
# States of a task that is over (`man squeue`, job state codes); a task in any other state is waited for.
CUT_SHORT = {
    "BOOT_FAIL": "its node did not start",
    "CANCELLED": "it was cancelled",
    "DEADLINE": "it ran into its deadline",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "it ran out of memory (hydra.launcher.memory_gb)",
    "PREEMPTED": "it was preempted and not queued again",
    "REVOKED": "it was revoked",
    "TIMEOUT": "it timed out (hydra.launcher.timeout_minutes)",
}
FORGOTTEN = "FORGOTTEN"  # our word for a task that neither the controller nor the accounting knows
OVER = {*CUT_SHORT, "COMPLETED", "FAILED", FORGOTTEN}


def check_commands() -> None:
    """Refuse a machine without Slurm's commands.

    Raises:
        InputError: one of them is missing.
    """
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        raise InputError(
            f"hydra/launcher=slurm needs Slurm's commands, and there is no {missing[0]} on this machine; start the "
            "sweep on a login node of the cluster, or use hydra/launcher=local."
        )


@dataclass(kw_only=True)
class Queue:
    """The controller's view of some tasks.

    Attributes:
        answered: when the controller last answered, by `time.monotonic`.
    """

    answered: float = field(default_factory=time.monotonic)

    def states(self, tasks: Collection[str]) -> dict[str, str] | None:
        """The state of each task, by its id such as `12_3`; None where the controller does not answer this time.

        Raises:
            InputError: it has not answered for too long.
        """
        jobs = ",".join(sorted({task.partition("_")[0] for task in tasks})) or "0"  # no job has this number
        listing = _ask("squeue", "--noheader", "--array", "--states=all", f"--jobs={jobs}", "--format=%i|%T")
        if listing is None or (listing.returncode != 0 and "Invalid job id" not in listing.stderr):
            self._complain("" if listing is None else listing.stderr)
            return None
        self.answered = time.monotonic()
        found = dict(line.strip().split("|") for line in listing.stdout.splitlines())
        forgotten = _accounted([task for task in tasks if task not in found])
        return {task: found.get(task, forgotten.get(task, FORGOTTEN)) for task in tasks}

    def _complain(self, said: str) -> None:
        if time.monotonic() - self.answered > SECONDS_OF_PATIENCE:
            reason = f" ({said.strip().splitlines()[-1]})" if said.strip() else ""
            raise InputError(
                f"Slurm's controller does not answer{reason}; submitted tasks go on, and the same command, started "
                "again when the controller answers, waits for them."
            )


def cancel(tasks: Collection[str]) -> None:
    """Cancel tasks; a task that is over already, and a controller that is away, are no errors."""
    if tasks:
        _ask("scancel", *sorted(tasks))


@contextmanager
def patience() -> Iterator[None]:
    """Interrupt by an exception what takes too long; for commands that a library starts.

    Raises:
        TimeoutError: it took longer than `SECONDS_OF_PATIENCE`.
    """

    def give_up(_: int, __: object) -> None:
        raise TimeoutError("no answer")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_OF_PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM to the end of the context, where the submitted tasks are known and can be cancelled.

    The signals are blocked, so that they do not end a command that is started meanwhile, and noted, since other threads
    of this process may receive what the main one blocks.
    """
    if threading.current_thread() is not threading.main_thread():  # the only one that handles signals
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    came: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def _accounted(tasks: Collection[str]) -> dict[str, str]:
    """The states of tasks that the controller has forgotten, where there is accounting that knows them."""
    if not tasks:
        return {}
    answer = _ask(
        "sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(tasks)}", "--format=JobID,State"
    )
    lines = answer.stdout.splitlines() if answer is not None and answer.returncode == 0 else []
    rows = (line.split("|") for line in lines)
    return {task: state.split()[0] for task, state in rows if state}  # "CANCELLED by 1000"


def _ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    """The output of a command; None where it is missing, or takes too long."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS_OF_A_COMMAND, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
