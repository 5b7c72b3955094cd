"""Locks among processes and threads: held by key, given up with the process, never by what it does meanwhile."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from artefacts import FIELDS, PLACE, A, B, C, StoppedError, python, refuse, writes

from mia_lightning.store.artefacts import Store

HOLDS = """
import sys
import time
from mia_lightning.store.artefacts import Store
with Store(dir=sys.argv[1]).locked(sys.argv[2:], waiting=lambda: print("waiting", flush=True)):
    print("held", flush=True)
    time.sleep(600)
"""
TAKES = """
import sys
from mia_lightning.store.artefacts import Store
with Store(dir=sys.argv[1]).locked_free(sys.argv[2:]) as free:
    print(*sorted(free))
"""


@pytest.fixture
def holds(store: Store) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that takes locks, says so, and keeps them until it is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*keys: str) -> subprocess.Popen[str]:
        started.append(python(HOLDS, store, *keys))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def free_elsewhere(store: Store, *keys: str) -> set[str]:
    """Which of the keys another process can take at this moment."""
    out, _ = python(TAKES, store, *keys).communicate()
    return set(out.split())


def test_a_process_waits_and_goes_on_when_the_holder_is_killed(
    store: Store, holds: Callable[..., subprocess.Popen[str]]
) -> None:
    first = holds(A, B)
    assert line(first) == "held"
    second = holds(C, B)
    assert line(second) == "waiting"
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert line(second) == "held"  # and `waiting` is not called again
    assert free_elsewhere(store, A, B, C) == {A}


def test_waiting_is_called_once(
    store: Store, holds: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes, and for however many keys."""
    first = holds(A, B)
    assert line(first) == "held"
    waited, looks = [], iter(range(4))

    def look(seconds: float) -> None:
        if next(looks, None) is None:
            first.kill()
            first.wait()

    monkeypatch.setattr("time.sleep", look)
    with store.locked([A, B], waiting=lambda: waited.append("waiting")):
        pass
    assert waited == ["waiting"]
    assert next(looks, None) is None
    with store.locked([A], waiting=lambda: waited.append("again")):
        pass
    assert waited == ["waiting"]


def test_keys_that_do_not_overlap_do_not_wait(store: Store, holds: Callable[..., subprocess.Popen[str]]) -> None:
    assert line(holds(A)) == "held"
    assert line(holds(B)) == "held"
    waited: list[str] = []
    with store.locked([C, C], waiting=lambda: waited.append("waiting")):
        assert free_elsewhere(store, A, B, C) == set()
    assert waited == []
    assert free_elsewhere(store, A, B, C) == {C}


def test_locks_of_other_stores_are_others(store: Store, tmp_path: Path) -> None:
    with Store(dir=tmp_path / "other").locked([A]):
        assert free_elsewhere(store, A) == {A}


def test_without_waiting_only_what_is_free(store: Store, holds: Callable[..., subprocess.Popen[str]]) -> None:
    assert line(holds(A)) == "held"
    with store.locked_free([A, B, C]) as free:
        assert free == {B, C}
        assert free_elsewhere(store, A, B, C) == set()
    assert free_elsewhere(store, A, B, C) == {B, C}


def test_an_error_gives_the_locks_up(store: Store) -> None:
    for take in (store.locked, store.locked_free):
        with pytest.raises(StoppedError), take([A]):
            raise StoppedError
        assert free_elsewhere(store, A) == {A}


def test_what_is_done_meanwhile_gives_no_lock_up(store: Store, tmp_path: Path) -> None:
    """A process that closes any descriptor of a file gives up all its locks on it."""
    link = tmp_path / "link"
    link.symlink_to(store.folder)
    with store.locked([A]):
        with Store(dir=store.folder).locked([B]):
            assert free_elsewhere(store, A, B) == set()
        with Store(dir=link).locked([C]), store.locked_free([B]):
            pass
        store.check()
        store.put(PLACE, FIELDS, writes(b"numbers"))
        assert store.places() == [PLACE]
        assert store.damage(PLACE) is None
        assert store.leftovers() == []
        store.forget(PLACE)
        assert free_elsewhere(store, A, B, C) == {B, C}
    assert free_elsewhere(store, A) == {A}


def test_a_child_holds_nothing_of_its_parent(store: Store) -> None:
    """Nor does its end give anything of the parent up."""
    with store.locked([A]):
        child = os.fork()
        if child == 0:
            with store.locked_free([A, B]) as free:
                os._exit(0 if free == {B} else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert free_elsewhere(store, A, B) == {B}


def test_a_folder_that_is_removed_and_made_anew(store: Store) -> None:
    with store.locked([A]):
        pass
    shutil.rmtree(store.folder)
    store.put(PLACE, FIELDS, writes(b"numbers"))
    assert store.damage(PLACE) is None
    with store.locked([A]):
        assert free_elsewhere(store, A, B) == {B}
    shutil.rmtree(store.folder)
    with store.locked_free([A]) as free:
        assert free == {A}
        assert free_elsewhere(store, A, B) == {B}


def test_threads_of_one_process_wait_for_each_other(store: Store, tmp_path: Path) -> None:
    """By whatever name they know the folder."""
    link = tmp_path / "link"
    link.symlink_to(store.folder)
    is_held, is_waiting, happened = threading.Event(), threading.Event(), []

    def second() -> None:
        is_held.wait()
        with Store(dir=link).locked([B, A], waiting=is_waiting.set):
            happened.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with store.locked([A]):
        is_held.set()
        assert is_waiting.wait(300)
        happened.append("first")
    thread.join()
    assert happened == ["first", "second"]
    assert free_elsewhere(store, A, B) == {A, B}


def test_another_thread_finds_only_what_is_free(store: Store) -> None:
    with store.locked([A]), ThreadPoolExecutor(1) as pool:

        def taken() -> frozenset[str]:
            with store.locked_free([A, B]) as free:
                return free

        assert pool.submit(taken).result() == {B}
        assert free_elsewhere(store, A, B) == {B}


def test_a_thread_that_holds_a_key_twice_gives_it_up_once(store: Store) -> None:
    with store.locked([A]):
        with store.locked([A]), store.locked_free([A, B]) as free:
            assert free == {A, B}
        assert free_elsewhere(store, A, B) == {B}
    assert free_elsewhere(store, A, B) == {A, B}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_stops_nobody(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(fcntl, "lockf", refuse(number))
    with store.locked([A]), store.locked_free([A, B]) as free:
        assert free == {A, B}


def test_a_lock_that_fails_otherwise_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "lockf", refuse(errno.EIO))
    for take in (store.locked, store.locked_free):
        with pytest.raises(OSError, match="Input/output error"), take([A]):
            pass
