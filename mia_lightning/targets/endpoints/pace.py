"""When the next request may be sent: at most so many a second, and none before the server wants one again."""

import threading
import time
from collections.abc import Callable

from mia_lightning.seeds import derive
from mia_lightning.targets.failures import LONGEST_PAUSE

_LONGEST_PAUSE = 60.0  # seconds, where this side chooses them
_SHORTEST_TOLD = 1.0  # seconds of a pause that is told
_BETWEEN_TOLD = 10.0  # seconds in which no other pause is told that ends within them


class StoppedError(Exception):
    """A request was given up while it waited."""


class Pace:
    """The pace of all threads that ask one model.

    Args:
        per_second: requests; None for no limit.
        seed: of the jitter of pauses.
        tell: is given the seconds of a pause that a person may wonder about, before it.
    """

    def __init__(self, per_second: float | None, seed: int, tell: Callable[[float], object] = lambda _: None) -> None:
        self._gap, self._seed, self._tell = 0.0 if per_second is None else 1 / per_second, seed, tell
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._next = self._held_until = self._told_until = 0.0

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """Let all threads that wait give up."""
        self._stopped.set()

    def resume(self) -> None:
        self._stopped.clear()

    def wait_for_turn(self) -> None:
        """Wait until a request may be sent.

        Raises:
            StoppedError: the request was given up.
        """
        while True:
            with self._lock:
                now = time.monotonic()
                if now >= self._held_until:
                    turn = max(now, self._next)
                    self._next = turn + self._gap
                    pause = turn - now
                    break
                pause = self._held_until - now
            self._sleep(pause)
        self._sleep(pause)

    def pause(self, attempt: int, after: float | None, name: str) -> None:
        """Wait before the next attempt: longer each time, or, like all other requests, as long as the server asks.

        Args:
            attempt: how many attempts have failed.
            after: seconds that the server asks for; None for none.
            name: of the request, for its jitter.

        Raises:
            StoppedError: the request was given up.
        """
        if after is None:
            share = derive(self._seed, "pause", name, attempt) / 2**63
            wait = min(_LONGEST_PAUSE, 0.5 * 2.0 ** (attempt - 1)) * (0.5 + share)
        else:
            wait = min(max(0.0, after), LONGEST_PAUSE)
        with self._lock:
            now = time.monotonic()
            if after is not None:
                self._held_until = max(self._held_until, now + wait)
            is_told = wait >= _SHORTEST_TOLD and now + wait > self._told_until
            if is_told:
                self._told_until = now + max(wait, _BETWEEN_TOLD)
        if is_told:
            self._tell(wait)
        self._sleep(wait)

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(seconds) if seconds > 0 else self.is_stopped:
            raise StoppedError
