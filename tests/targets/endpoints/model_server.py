"""A real server of one model, over the v2 and v1 protocols, that counts every record that it answers."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Answer = Callable[[str, str, Any], tuple[int, Any]]


class ModelServer(ThreadingHTTPServer):
    """`answer` makes (status, body) of (method, path, body); bodies are JSON, or bytes as they are.

    Attributes:
        requests: (method, path, headers, body) in the order in which they came.
        extra_headers: of every answer.
    """

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.requests: list[tuple[str, str, Mapping[str, str], Any]] = []
        self.extra_headers: dict[str, str] = {}
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing is printed of connections that clients or proxies break."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelServer

    def do_GET(self) -> None:
        self._respond(None)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self._respond(json.loads(content))

    def _respond(self, body: Any) -> None:
        with self.server.lock:
            self.server.requests.append((self.command, self.path, dict(self.headers), body))
            status, answer = self.server.answer(self.command, self.path, body)
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in self.server.extra_headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[Any]:
    """The server, answering until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Model:
    """Probabilities `[B, C]` by `predict` from records `[B, F]`, over both protocols; `asked` counts each record."""

    def __init__(self, predict: Callable[[np.ndarray], np.ndarray], *, metadata: Any = None) -> None:
        self.predict, self.metadata = predict, metadata
        self.asked: Counter[tuple[float, ...]] = Counter()

    @property
    def num_asked(self) -> int:
        return sum(self.asked.values())

    def __call__(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "GET":
            return (404, {"error": "no metadata"}) if self.metadata is None else (200, self.metadata)
        if path.startswith("/v2/models/"):
            tensor = body["inputs"][0]
            probability = self._answer(np.array(tensor["data"], dtype=np.float64).reshape(tensor["shape"]))
            output = {"name": "scores", "datatype": "FP64", "shape": list(probability.shape)}
            return 200, {"model_name": "m", "outputs": [{**output, "data": probability.flatten().tolist()}]}
        return 200, {"predictions": self._answer(np.array(body["instances"], dtype=np.float64)).tolist()}

    def _answer(self, x: np.ndarray) -> np.ndarray:
        self.asked.update(map(tuple, x.reshape(len(x), -1).tolist()))
        return self.predict(x)
