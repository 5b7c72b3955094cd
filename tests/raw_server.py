"""A server that answers with bytes as a test gives them, whether or not they are HTTP."""

import socket
import threading
from collections.abc import Callable, Iterable


class RawServer:
    """Reads a request on each connection, sends the pieces of its answer, and hangs up.

    Args:
        answer: makes the pieces of a request; they are sent as they come, so that a generator may wait in between.
        reads: False for a server that never reads.

    Attributes:
        url: of the server.
        requests: whole, in the order in which they came.
        ended: is set when the block ends, so that an answer that waits may end, too.
    """

    def __init__(self, answer: Callable[[bytes], Iterable[bytes]], *, reads: bool = True) -> None:
        self._answer, self._reads = answer, reads
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> "RawServer":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        self._socket.close()

    def _accept(self) -> None:
        while not self.ended.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                request = _whole(connection) if self._reads else b""
                self.requests.append(request)
                for piece in self._answer(request):
                    connection.sendall(piece)
            except OSError:
                return  # the client has given up


def _whole(connection: socket.socket) -> bytes:
    request, head, size = b"", b"", 0
    while not head or len(request) < len(head) + 4 + size:
        received = connection.recv(65536)
        if not received:
            return request
        request += received
        head, found, _ = request.partition(b"\r\n\r\n")
        head = head if found else b""
        size = sum(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
    return request


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A whole answer, the last on its connection; underscores in the names of headers are hyphens."""
    named = {
        "Content-Length": str(len(body)),
        "Connection": "close",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body
