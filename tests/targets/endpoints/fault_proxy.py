"""A proxy between a client and a server that delays, cuts connections, turns away, fails and sends garbage."""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = (
    "delay",
    "cut before",  # the server never sees the request
    "cut after",  # it answers, and the answer is lost
    "cut middle",  # half of its answer arrives
    "429",
    "429 after seconds",
    "429 after date",
    "500",  # from the proxy, before the server
    "503 answered",  # from the proxy, after the server
    "garbage",  # in place of the answer
    "half a JSON",  # with a length that fits
)
# Of which a client can know that nothing was asked: the request was turned away.
TURNED_AWAY = frozenset({"429", "429 after seconds", "429 after date"})


class FaultProxy(ThreadingHTTPServer):
    """Draws a fault for each POST with probability `rate`, by seed and in order of arrival.

    Attributes:
        faults: how often each was drawn; "none" for requests that went through.
    """

    daemon_threads = True

    def __init__(self, port: int, *, rate: float, seed: int, faults: tuple[str, ...] = FAULTS) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port, self.rate, self.kinds = port, rate, faults
        self.faults: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self) -> str:
        with self._lock:
            fault = self._random.choice(self.kinds) if self._random.random() < self.rate else "none"
            self.faults[fault] += 1
            return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing is printed of connections that are broken."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def do_GET(self) -> None:
        self._send(*self._forward(b""))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.server.draw()
        if fault == "cut before":
            return self._cut()
        if fault == "500":
            return self._send(500, b'{"error": "out of memory"}')
        if fault == "429":
            return self._send(429, b"slow down")
        if fault == "429 after seconds":
            return self._send(429, b"slow down", {"Retry-After": "0"})
        if fault == "429 after date":
            return self._send(429, b"slow down", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
        if fault == "delay":
            time.sleep(0.02)
        status, content = self._forward(body)
        if fault == "cut after":
            return self._cut()
        if fault == "cut middle":
            return self._send(status, content[: len(content) // 2], length=len(content))
        if fault == "503 answered":
            return self._send(503, b"<html>no backend</html>")
        if fault == "garbage":
            return self._send(200, b"\x00\xff<html>please log in</html>")
        if fault == "half a JSON":
            return self._send(200, content[: len(content) // 2])
        return self._send(status, content)

    def _forward(self, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port)
        try:
            connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _send(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)
        if length is not None:
            self._cut()

    def _cut(self) -> None:
        """Reset the connection, without a word."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass
