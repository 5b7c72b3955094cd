"""Commands without their imports: each is a fork of one process that has imported everything.

    python forks.py FOLDER

puts into the folder `mia-lightning`, `python` (which forks where the program comes from the standard input) and
`follow`, which runs `[[language, code], ...]` from the standard input. Each hands its arguments, folder, environment
and streams to this process, and ends as the fork ends. What only a new interpreter would show, such as a circular
import, is not seen here. Half of the time of a small run is spared: the files of the configuration are read once, and
every picture file is the same one, since `tests/reports` looks at real ones.
"""

import gc
import importlib
import io
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

LATE = ("pandas", "sklearn.datasets", "sklearn.ensemble")
"""Packages that modules import when they need them, which would be in nearly every fork."""

CLIENT = """#!{python} -SE
import json, os, signal, socket, sys
if os.path.basename(sys.argv[0]) == "python" and sys.argv[1:] != ["-"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = {{"argv": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ), "group": os.getpgid(0)}}
    socket.send_fds(server, [b">"], [0, 1, 2])
    server.sendall(json.dumps(asked).encode() + b"\\n")
    answers = server.makefile()
    child = int(answers.readline())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(child, number))
    code = int(answers.readline())
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def serve(folder: Path) -> dict[str, Any]:
    """Fork for each command until this process is ended, which ends all forks. Returns in a fork: what was asked.

    A fork ends with its client.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    running: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as server:
        address = str(folder / "socket")
        server.bind(address)
        server.listen()
        server.settimeout(0.02)
        for name in ("mia-lightning", "python", "follow"):
            client = folder / name
            client.write_text(CLIENT.format(python=sys.executable, address=address))
            client.chmod(0o755)
        print("ready", flush=True)
        try:
            while True:
                for child in list(running):
                    _look_after(child, running)
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                connection.settimeout(None)
                _, streams, _, _ = socket.recv_fds(connection, 1, 3)
                message = connection.makefile().readline()
                child = os.fork() if message else 0
                if message and child == 0:
                    running.clear()
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    asked: dict[str, Any] = json.loads(message)
                    os.setpgid(0, asked["group"])
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                    return asked
                for stream in streams:
                    os.close(stream)
                if message:
                    running[child] = connection
                    _send(connection, child)
        finally:
            for child in running:
                os.kill(child, signal.SIGKILL)


def _look_after(child: int, running: dict[int, socket.socket]) -> None:
    """Tell the client how its fork ended, or end the fork of a client that is gone."""
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        with running.pop(child) as connection:
            _send(connection, os.waitstatus_to_exitcode(status))
        return
    with suppress(BlockingIOError):
        if not running[child].recv(1, socket.MSG_DONTWAIT):
            os.kill(child, signal.SIGKILL)


def _send(connection: socket.socket, number: int) -> None:
    with suppress(OSError):  # of a client that is gone
        connection.sendall(f"{number}\n".encode())


def rasterise_once() -> None:
    """Every picture that is made for a file, in this process and its forks, is an empty one."""
    from matplotlib.figure import Figure

    savefig, empty = Figure.savefig, io.BytesIO()
    Figure().savefig(empty, format="png")

    def save(figure: Figure, place: Any, **options: Any) -> None:
        if isinstance(place, io.BytesIO):
            place.write(empty.getvalue())
        else:
            savefig(figure, place, **options)

    Figure.savefig = save  # type: ignore[method-assign]


def run(asked: dict[str, Any]) -> None:
    """The command itself."""
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = asked["argv"]
    # No such stream closes its descriptor, which outlives it where a command puts another stream in its place.
    streams = (open(number, mode, closefd=False) for number, mode in enumerate("rww"))  # noqa: SIM115
    sys.stdin, sys.stdout, sys.stderr = streams
    name = Path(sys.argv[0]).name
    if name == "mia-lightning":
        from mia_lightning.command.main import main

        return main()
    program = types.ModuleType("__main__")
    sys.modules["__main__"] = program
    sys.path.insert(0, "")
    for language, code in json.load(sys.stdin) if name == "follow" else [("python", sys.stdin.read())]:
        if language == "bash":
            subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True, stdin=subprocess.DEVNULL)
        else:
            exec(compile(code, "page", "exec"), vars(program))
    return None


@contextmanager
def warmed_up() -> Iterator[None]:
    """As long as the context is open, commands find what they would each import, read and compile anew."""
    import mia_lightning

    modules = [each.name for each in pkgutil.walk_packages(mia_lightning.__path__, "mia_lightning.")]
    for name in (*LATE, *modules):
        if not name.endswith("__main__"):
            importlib.import_module(name)
    from compositions import merged_once
    from hydra import compose, initialize_config_dir
    from lightning_fabric.utilities import registry

    from mia_lightning.command.mistakes import config_directory
    from mia_lightning.reports.page import html, templates

    html._templates().get_template("report.html.jinja")
    templates.plotly_javascript()
    registry.entry_points = cache(registry.entry_points)  # type: ignore[attr-defined]
    rasterise_once()
    with merged_once():
        with initialize_config_dir(str(config_directory()), version_base="1.3"):
            compose("config", return_hydra_config=True)
        gc.collect()
        gc.freeze()  # collecting garbage would copy the memory that forks share
        yield


if __name__ == "__main__":
    tests = Path(__file__).parents[1]
    sys.path.append(str(tests))  # for `compositions`
    with warmed_up():
        sys.path.remove(str(tests))
        sys.path.remove(str(tests / "docs"))
        run(serve(Path(sys.argv[1])))
