"""Locks by key among all processes that share a file: whoever is killed, or whose machine is gone, holds nothing.

A key is hexadecimal, and a lock on it one byte of the file. The system tells processes apart and not their threads, so
which thread holds what is kept here; a thread that takes what it holds already has it twice.
"""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Between two looks at a lock that another process holds, seconds.
_PATIENCE = 0.2
# One for each file of locks, for as long as the process lives: closing any other would give its locks up.
_descriptors: dict[str, int] = {}
# By device, inode and byte: the thread that holds it, and how often.
_holders: dict[tuple[int, int, int], tuple[int, int]] = {}
_one_at_a_time = threading.Lock()


def descriptor(file: Path) -> int:
    """Of the file of locks, which is made where it is not there; raises an `OSError` where it cannot be."""
    path = str(file)
    if path not in _descriptors or not _is_open(_descriptors[path], path):
        file.parent.mkdir(parents=True, exist_ok=True)
        _descriptors[path] = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    return _descriptors[path]


@contextmanager
def locked(file: int, keys: Iterable[str], waiting: Callable[[], object]) -> Iterator[None]:
    """Alone with the keys; they are taken in order, so that no two processes wait for each other.

    Args:
        file: a `descriptor`.
        waiting: called once, where somebody else holds one of them.
    """
    taken: list[int] = []
    try:
        for byte in sorted(set(map(_byte, keys))):
            while not _lock(file, byte):
                waiting()
                waiting = _nothing
                time.sleep(_PATIENCE)
            taken.append(byte)
        yield
    finally:
        _unlock(file, taken)


@contextmanager
def locked_free(file: int, keys: Iterable[str]) -> Iterator[frozenset[str]]:
    """Alone with those of the keys that nobody else holds, which are given."""
    key_of = {_byte(key): key for key in keys}
    taken: list[int] = []
    try:
        for byte in sorted(key_of):
            if _lock(file, byte):
                taken.append(byte)
        yield frozenset(key_of[byte] for byte in taken)
    finally:
        _unlock(file, taken)


def _byte(key: str) -> int:
    return int(key[:15], 16)


def _lock(file: int, byte: int) -> bool:
    me, held = threading.get_ident(), _place(file, byte)
    with _one_at_a_time:
        holder, times = _holders.get(held, (me, 0))
        if holder != me or (times == 0 and not _lock_among_processes(file, byte)):
            return False
        _holders[held] = me, times + 1
    return True


def _unlock(file: int, taken: Iterable[int]) -> None:
    for byte in taken:
        held = _place(file, byte)
        with _one_at_a_time:
            holder, times = _holders.pop(held)
            if times > 1:
                _holders[held] = holder, times - 1
            else:
                _unlock_among_processes(file, byte)


def _place(file: int, byte: int) -> tuple[int, int, int]:
    status = os.fstat(file)
    return status.st_dev, status.st_ino, byte


def _lock_among_processes(file: int, byte: int) -> bool:
    import fcntl  # which not every system has

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        # A disk without locks: work may be done twice.
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            return True
        raise
    return True


def _unlock_among_processes(file: int, byte: int) -> None:
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)


def _begin_anew() -> None:
    """A child holds nothing of its parent, whose threads it does not have either."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()
    _holders.clear()


if hasattr(os, "register_at_fork"):  # which not every system has
    os.register_at_fork(after_in_child=_begin_anew)


def _nothing() -> None:
    """For whoever has been told already."""


def _is_open(descriptor: int, path: str) -> bool:
    """Whether it is still the file at the path, which somebody may have removed with the whole folder."""
    try:
        here, there = os.fstat(descriptor), os.stat(path)
    except OSError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
