"""Work on several threads at once."""

import queue
import threading
from typing import NoReturn

import pytest

from mia_lightning.targets.endpoints.threads import run_all


@pytest.mark.parametrize("at_once", [1, 3])
def test_each_item_is_done_once(at_once: int) -> None:
    done: list[int] = []
    run_all(range(20), done.append, at_once=at_once, stop=lambda: pytest.fail("nothing failed"))
    assert sorted(done) == list(range(20))


@pytest.mark.parametrize("error", [queue.Empty, SystemExit, ValueError])
def test_what_an_item_raises_is_raised_and_the_others_are_stopped(error: type[BaseException]) -> None:
    stopped = threading.Event()

    def do(item: int) -> None:
        if item == 1:
            raise error
        assert stopped.wait(60)

    with pytest.raises(error):
        run_all(range(3), do, at_once=3, stop=stopped.set)
    assert stopped.is_set()


def test_an_interrupt_while_the_threads_start_stops_those_that_have(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, start = threading.Event(), threading.Thread.start
    started: list[threading.Thread] = []

    def interrupted(thread: threading.Thread) -> None:
        if started:
            raise KeyboardInterrupt
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_all(range(3), lambda item: None if stopped.wait(60) else _too_long(), at_once=2, stop=stopped.set)
    assert stopped.is_set()
    started[0].join(60)


def _too_long() -> NoReturn:
    raise AssertionError("it was never told to stop")
