"""An HTTP client for threads, each of whose requests can be given up at any point.

A blocking call limits the time of one read or write, which a server can make as many as it likes. On an event loop a
whole request has a limit.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from http.cookiejar import CookieJar
from types import ModuleType
from typing import Any

_LONGEST_END = 5.0  # seconds that the end of a thread is waited for


class Connections:
    """An asynchronous client of httpx, and the event loop in a thread of its own that serves it.

    Args:
        httpx: the package.
        connecting: seconds in which there must be a connection; fewer than those of a request, since a handshake that
            is cancelled leaves its socket open.
        keep: how many connections are kept for further requests.

    Attributes:
        client: for the coroutines that `run` is given.
    """

    def __init__(self, httpx: ModuleType, *, connecting: float, keep: int) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=keep)
        timeout = httpx.Timeout(None, connect=connecting)
        self.client = httpx.AsyncClient(timeout=timeout, limits=limits, cookies=_NoCookies())
        self._lock, self._end = threading.Lock(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, request: Coroutine[Any, Any, None]) -> None:
        """Run a request to its end; where the wait for it is interrupted, it is cancelled."""
        try:
            loop = self._running()
        except BaseException:
            request.close()
            raise
        asked = asyncio.run_coroutine_threadsafe(request, loop)
        try:
            asked.result()
        finally:
            asked.cancel()

    def close(self) -> None:
        """Cancel all requests and close all connections."""
        if self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._end.set)
        if self._thread is not threading.current_thread():  # which may be the one that collects the garbage
            self._thread.join(_LONGEST_END)

    def _running(self) -> asyncio.AbstractEventLoop:
        """The loop, which begins with the first request."""
        with self._lock:
            if self._loop is None:
                begun: Future[asyncio.AbstractEventLoop] = Future()
                self._thread = threading.Thread(target=self._begin, args=[begun], daemon=True)
                self._thread.start()
                self._loop = begun.result()
            return self._loop

    def _begin(self, begun: "Future[asyncio.AbstractEventLoop]") -> None:
        try:
            with asyncio.Runner() as runner:
                runner.get_loop()
                runner.run(self._serve(begun))
        except OSError as error:  # too many open files
            if begun.done():
                raise
            begun.set_exception(error)

    async def _serve(self, begun: "Future[asyncio.AbstractEventLoop]") -> None:
        begun.set_result(asyncio.get_running_loop())
        await self._end.wait()
        requests = asyncio.all_tasks() - {asyncio.current_task()}
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        await self.client.aclose()


class _NoCookies(CookieJar):
    """A jar that stays empty."""

    def extract_cookies(self, response: object, request: object) -> None: ...
