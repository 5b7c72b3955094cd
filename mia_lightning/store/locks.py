"""Locks by key among all processes that share a file; a process that is killed, or whose machine fails, holds none.

A key is hexadecimal, and its lock is one byte of the file. The operating system tells processes apart, but not their
threads, so this module keeps which thread holds which lock; a thread may take a lock that it holds already.
"""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mia_lightning.store.atomic import follow

# Seconds between two attempts to take a lock that another process holds.
_PATIENCE = 0.2
# One for each lock file, open until the process ends: closing any descriptor of the file would release its locks.
_descriptors: dict[str, int] = {}
# By device, inode and byte: the thread that holds the lock, and how many times.
_holders: dict[tuple[int, int, int], tuple[int, int]] = {}
_one_at_a_time = threading.Lock()


def descriptor(file: Path, *, like: Path | None = None) -> int:
    """A descriptor of the lock file, which is created where it is missing; raises an `OSError` where it cannot be.

    Args:
        like: a folder, whose mode and group a new lock file has; None for the mode of any new file.
    """
    path = str(file)
    if path not in _descriptors or not _is_open(_descriptors[path], path):
        file.parent.mkdir(parents=True, exist_ok=True)
        is_new = not file.exists()
        _descriptors[path] = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if is_new and like is not None:
            follow(file, like)
    return _descriptors[path]


@contextmanager
def locked(file: int, keys: Iterable[str], waiting: Callable[[], object]) -> Iterator[None]:
    """Hold the locks of the keys; they are taken in order, so that no two processes wait for each other.

    Args:
        file: a `descriptor`.
        waiting: is called once, where another thread or process holds one of the locks.
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
    """Hold the locks that are free, without waiting for the others; yields their keys."""
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
    import fcntl  # missing on Windows

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        # A file system without locks: two processes may do the same work.
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            return True
        raise
    return True


def _unlock_among_processes(file: int, byte: int) -> None:
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)


def _begin_anew() -> None:
    """A forked child holds no lock of its parent, and has none of its threads."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()
    _holders.clear()


if hasattr(os, "register_at_fork"):  # missing on Windows
    os.register_at_fork(after_in_child=_begin_anew)


def _nothing() -> None:
    """In place of `waiting`, after it was called."""


def _is_open(descriptor: int, path: str) -> bool:
    """Whether the descriptor is of the file at the path; somebody may have removed that file with its folder."""
    try:
        here, there = os.fstat(descriptor), os.stat(path)
    except OSError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
