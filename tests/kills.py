"""Processes that are forked from a warm one and killed without warning, at a moment that a seed decides.

A moment is one of what a process has computed, or a call (of Python or of C) among all those of a phase, so that a busy
machine changes nothing. Everything is imported once, before the first fork, with a single thread.
"""

import math
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

NOWHERE, TRAINING, WRITING, SCORING = range(4)
PHASES = ("elsewhere", "training", "writing", "scoring")
# Shared with the forked process: the phase it is in, and how many calls it made in each.
state = memoryview(mmap.mmap(-1, 8 * (1 + len(PHASES)))).cast("Q")
last_call: list[float] = [math.inf] * len(PHASES)  # the forked process kills itself at this call of a phase
_counts_all = False


@contextmanager
def phase_of(phase: int) -> Iterator[None]:
    before, state[0] = state[0], phase
    _follow(phase)
    try:
        yield
    finally:
        state[0] = before
        _follow(before)


def _follow(phase: int) -> None:
    """Count the calls of the phase where somebody asks for them: that doubles its time."""
    asked = phase != NOWHERE and (_counts_all or last_call[phase] < math.inf)
    sys.setprofile(_count_calls if asked else None)


def in_phase(phase: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose calls are of a phase."""

    def called(*args: Any, **named: Any) -> Any:
        with phase_of(phase):
            return function(*args, **named)

    return called


def within_phase(phase: int, function: Callable[..., AbstractContextManager[Any]]) -> Callable[..., Any]:
    """The context manager, whose whole context is of a phase."""

    @contextmanager
    def entered(*args: Any, **named: Any) -> Iterator[Any]:
        with phase_of(phase), function(*args, **named) as value:
            yield value

    return entered


def _count_calls(frame: Any, event: str, argument: Any) -> None:
    phase = state[0]
    state[1 + phase] += 1
    if state[1 + phase] > last_call[phase]:
        os.kill(os.getpid(), signal.SIGKILL)


def run(work: Callable[[], object], seconds: float = math.inf, *, counts: bool = False) -> str | None:
    """The phase in which the work was killed, at the latest after so many seconds of computing; None for its end.

    Args:
        counts: the calls of all phases, into `state`.
    """
    global _counts_all
    for i in range(len(state)):
        state[i] = 0
    process = os.fork()
    if process == 0:
        _counts_all = counts
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    ended, status = os.waitpid(process, os.WNOHANG if seconds < math.inf else 0)
    while not ended:
        if _computed(process) > seconds:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.005)  # which is half of the steps in which what it has computed is counted
        ended, status = os.waitpid(process, os.WNOHANG)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), code
    return None if code == 0 else PHASES[state[0]]


def _computed(process: int) -> float:
    """For how many seconds it has used the processor: with others beside it the clock goes faster than it does."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
