"""How every command begins and ends: steady streams, one sentence about what ends it, an exit code."""

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import NoReturn

from mia_lightning.errors import InputError
from mia_lightning.terminal.exit_codes import BAD_INPUT, BELOW, CLOSED, INTERRUPTED, TERMINATED
from mia_lightning.terminal.parser import tell
from mia_lightning.terminal.streams import Stream, steady_streams

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """SIGTERM as an exception: what ends at Ctrl-C ends at SIGTERM, in the same good order."""


def run(program: str, work: Callable[[], int], *, loss: str = "", closed: int | None = CLOSED) -> NoReturn:
    """Do the work of a command, and end the process with its exit code.

    Input that cannot be used, Ctrl-C and SIGTERM end it in one sentence, with 2, 130 and 143.

    Args:
        work: returns its exit code.
        loss: what a signal leaves undone; the end of that sentence.
        closed: the exit code where the reader of stdout ends early, as `head` does; None for that of the work.
    """
    stdout = steady_streams()
    try:
        with terminable():
            code = work()
            sys.stdout.flush()
    except InputError as error:
        tell(program, str(error))
        code = BAD_INPUT
    except KeyboardInterrupt as error:
        with ignored():
            tell(program, f"{way_of(error)}{loss}.")
        code = TERMINATED if isinstance(error, Terminated) else INTERRUPTED
    if stdout is not None and code == BELOW:
        code = _as_printed(program, stdout, closed)
    atexit.register(_end_at_once, code)
    sys.exit(code)


def entry(program: str, module: str, *, loss: str = "") -> Callable[[], NoReturn]:
    """The entry point of a command: `main` of a module that is imported where signals are answered already."""

    def main() -> NoReturn:
        run(program, lambda: import_module(module).main(), loss=loss)

    return main


def import_from_here() -> None:
    """Let the user's own modules in the working folder be found; a console script leaves them out.

    Raises:
        InputError: there is no working folder any more.
    """
    sys.path.insert(0, working_folder())


def working_folder() -> str:
    """Where the process is.

    Raises:
        InputError: it is there no more.
    """
    try:
        return os.getcwd()
    except OSError as error:
        raise InputError(f"the working folder cannot be used ({error.strerror}); change to another one.") from None


def way_of(error: KeyboardInterrupt) -> str:
    """In a word, what a signal has done to the work."""
    return "terminated" if isinstance(error, Terminated) else "interrupted"


@contextmanager
def terminable() -> Iterator[None]:
    """Within the context SIGTERM, and SIGHUP where it would kill the process, raise `Terminated`."""
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL else [])]
    with _handled(dict.fromkeys(numbers, _terminate)):
        yield


@contextmanager
def ignored() -> Iterator[None]:
    """Within the context, in which a signal is answered, a further one is ignored."""
    with _handled(dict.fromkeys(_ENDING, signal.SIG_IGN)):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Within the context the signals wait, until its end or `let_through`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hold_back() -> None:
    """From here on the signals wait, until `let_through`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)


def let_through() -> None:
    """From here on the signals raise at once; one that has waited raises now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


def _terminate(_: int, __: FrameType | None) -> NoReturn:
    raise Terminated


_Handler = Callable[[int, FrameType | None], object] | signal.Handlers


@contextmanager
def _handled(handlers: Mapping[signal.Signals, _Handler]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # the only one that handles signals
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _as_printed(program: str, stdout: Stream, closed: int | None) -> int:
    """The exit code of work that has succeeded, by what became of its output."""
    if stdout.failure is None:
        return BELOW
    if not stdout.is_full:
        return BELOW if closed is None else closed
    tell(program, f"stdout cannot be written ({stdout.failure.strerror}); free some space, or print to another place.")
    return BAD_INPUT


def _end_at_once(code: int) -> None:
    """Let a signal end what is left of the process, which has done its work, with the exit code of that."""
    gc.freeze()  # else all that was imported is looked through for garbage, which takes most of a second
    for number in _ENDING:
        signal.signal(number, lambda *_: os._exit(code))
