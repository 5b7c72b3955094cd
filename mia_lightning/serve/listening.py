"""The socket, and the server behind it, until somebody ends it."""

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

_GRACE = 5  # seconds for requests that are being answered when the end comes
_KEEP_ALIVE = 75  # seconds that a connection may idle, longer than clients keep theirs
LOOPBACK = ("127.", "::1")


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is a free one.

    Raises:
        InputError: the host is unknown, or the port in use or not allowed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=512)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else "there is no such host"
        raise InputError(f"`--host` {host} `--port` {port} cannot be listened on ({reason}); give others.") from None
    # Connections inherit it: the head of an answer would wait 40 ms for the client's acknowledgement before the rest.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def address_of(listening: socket.socket) -> str:
    """As a client types it."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listening: socket.socket) -> bool:
    """Whether other machines cannot reach it."""
    return str(listening.getsockname()[0]).startswith(LOOPBACK)


def server_of(app: FastAPI) -> "uvicorn.Server":
    """It logs what is wrong, and no request."""
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
    """Answer until Ctrl-C or SIGTERM."""
    logging.basicConfig(stream=sys.stderr, format="mia-serve: %(message)s")
    # uvicorn raises the signal that ended it once more; it is the end that is meant.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: None)
    server_of(app).run(sockets=[listening])


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Not the connection that a fault has cut."""
    return "without completing response" not in record.getMessage()
