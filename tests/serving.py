"""`mia-serve` behind a real socket, in a thread of the test's own process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from mia_lightning.serve.command import prepare
from mia_lightning.serve.listening import address_of, server_of


@contextmanager
def served(*arguments: str) -> Iterator[httpx.Client]:
    """What the arguments of the command describe, on a free port, and a client of it."""
    ready = prepare([*arguments, "--port", "0"])
    server = server_of(ready.app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [ready.listening]})
    thread.start()
    try:
        with httpx.Client(base_url=address_of(ready.listening), timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        ready.listening.close()
