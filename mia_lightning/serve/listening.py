"""The listening socket, and the server, which runs until somebody ends it."""

import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from fastapi import FastAPI

from mia_lightning.errors import InputError

if TYPE_CHECKING:
    import uvicorn

_GRACE = 5  # seconds to finish answers when the server is ended
_KEEP_ALIVE = 75  # seconds that a connection may idle, longer than clients keep theirs
LOOPBACK = ("127.", "::1")


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 means a free one.

    Raises:
        InputError: the host is unknown, or the port is in use or not allowed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=512)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else "there is no such host"
        raise InputError(
            f"`--host` {host} and `--port` {port} cannot be used ({reason}); give another host or port."
        ) from None
    # Connections inherit it. Without it the body of an answer waits 40 ms for the client to acknowledge the header.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def address_of(listening: socket.socket) -> str:
    """The address that a client types."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listening: socket.socket) -> bool:
    """Whether other machines cannot reach it."""
    return str(listening.getsockname()[0]).startswith(LOOPBACK)


def server_of(app: FastAPI) -> "uvicorn.Server":
    """The server; it logs faults, but no requests."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACE,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_unexpected)
    return uvicorn.Server(config)


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Answer until Ctrl-C, SIGTERM or the end of the terminal."""
    logging.basicConfig(stream=sys.stderr, format="mia-serve: %(message)s")
    server = server_of(app)
    # uvicorn raises the signal that ended it once more, after it has ended; so the signal is ignored.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: None)
    signal.signal(signal.SIGHUP, lambda *_: setattr(server, "should_exit", True))
    server.run(sockets=[listening])


def _is_unexpected(record: logging.LogRecord) -> bool:
    """False for a connection that a fault cut."""
    return "without completing response" not in record.getMessage()
