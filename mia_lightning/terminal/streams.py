"""The standard streams of a command, which never fail it: what nobody can take is discarded."""

import errno
import io
import os
import select
import sys
from typing import Any

NAMES = ("stdin", "stdout", "stderr")

_replaced: list[object] = []  # streams whose end could close their descriptor


class Stream(io.FileIO):
    """Writes to a descriptor; from the first failure on everything is discarded.

    Attributes:
        failure: None where all was written.
    """

    failure: OSError | None = None

    @property
    def is_full(self) -> bool:
        """Whether what was printed is lost for want of space, and not because nobody reads it."""
        return self.failure is not None and self.failure.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

    def write(self, data: Any, /) -> int:
        try:
            while (written := super().write(data)) is None:  # a pipe that does not wait for its reader
                select.select([], [self], [])
            return written
        except OSError as error:  # the reader has ended, the terminal is gone, the disk is full
            self.failure = error
            _to_nothing(self.fileno())  # also what libraries and other processes write there
            return memoryview(data).nbytes


def steady_streams() -> Stream | None:
    """From here on stdout and stderr take any text, and are never closed.

    Returns:
        What writes stdout; None where `sys.stdout` is something of this process, as in a notebook.
    """
    for descriptor, name in enumerate(NAMES):
        try:
            os.fstat(descriptor)
        except OSError:  # the next file that is opened would be taken for it
            _to_nothing(descriptor)
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    return (_steady("stdout"), _steady("stderr"))[0]


def _steady(name: str) -> Stream | None:
    present, descriptor = getattr(sys, name), NAMES.index(name)
    if not isinstance(present, io.TextIOWrapper) or not isinstance(present.buffer, io.BufferedWriter | io.FileIO):
        return None
    if present.fileno() != descriptor:
        return None
    present.flush()
    stream = Stream(descriptor, "w", closefd=False)
    steady = io.TextIOWrapper(
        io.BufferedWriter(stream),
        encoding=present.encoding,
        errors="backslashreplace",  # of what the encoding lacks
        line_buffering=name == "stderr" or stream.isatty(),
        write_through=present.write_through,  # of `python -u`
    )
    _replaced.append(present)
    setattr(sys, name, steady)
    return stream


def _to_nothing(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != descriptor:
        os.dup2(nothing, descriptor)
        os.close(nothing)
