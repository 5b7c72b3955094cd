"""Commands without their imports: each is a fork of one process that has imported everything.

    python forks.py FOLDER

puts into the folder the commands of the package, `kernel` (of a notebook), `follow`, which runs `[[language, code],
...]` from the standard input, and `python`, which forks for a program that is a file or comes from the standard input,
and for `-m mia_lightning`. Each hands its arguments, folder, environment and streams to this process, and ends as the
fork ends. What only a new interpreter would show, such as a circular import, is not seen here. Half of the time of a
small run is spared: the files of the configuration are read once, and every picture file is the same one, since
`tests/reports` looks at real ones.
"""

import atexit
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
import sysconfig
import tempfile
import threading
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

COMMANDS = ("mia-lightning", "mia-store", "mia-dashboard", "mia-compare", "mia-serve")
LATE = ("pandas", "sklearn.datasets", "sklearn.ensemble", "wandb.sdk.launch")
"""Packages that modules import when they need them, which would be in nearly every fork."""

CLIENT = """#!{python} -SE
import json, os, signal, socket, sys
first, second = [*sys.argv[1:], "", ""][:2]
is_program = first == "-" or first.endswith(".py") or (first, second) == ("-m", "mia_lightning")
if os.path.basename(sys.argv[0]) == "python" and not is_program:
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
    if -code != signal.SIGKILL:
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
        for name in (*COMMANDS, "python", "follow", "kernel"):
            client = folder / name
            client.write_text(CLIENT.format(python=sys.executable, address=address))
            client.chmod(0o755)
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(f"import sys\nsys.executable = {str(folder / 'python')!r}\n")
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
                    with suppress(PermissionError):  # of a client in a session of its own
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
    called = Path(sys.argv[0])
    if called.name == "python" and sys.argv[1] == "-m":
        called, sys.argv = called.with_name("mia-lightning"), ["mia-lightning", *sys.argv[3:]]
    _own_folders()
    if called.name in COMMANDS:
        (command,) = metadata.entry_points(group="console_scripts", name=called.name)
        command.load()()
    elif called.name == "kernel":
        _start_kernel(called.parent)
    elif called.name == "follow":
        _run_program(((language, code, "page") for language, code in json.load(sys.stdin)), "")
    elif sys.argv[1] == "-":
        _run_program([("python", sys.stdin.read(), "page")], "")
    else:
        _processes_are_forks(called.parent)
        sys.argv = sys.argv[1:]
        file = Path(sys.argv[0]).absolute()
        sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        _run_program([("python", file.read_text(), str(file))], str(file.parent), str(file))


def end_at_once(code: int) -> NoReturn:
    """As Python ends, but for taking apart all that was imported, which would copy the memory that forks share."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it
            stream.flush()
    os._exit(code)


def _own_folders() -> None:
    """In place of those that wandb has made when it was imported, which are for the files of one process."""
    from wandb.sdk.artifacts.artifact import Artifact
    from wandb.sdk.data_types._private import MEDIA_TMP

    for each in (MEDIA_TMP, Artifact._TMP_DIR):
        each._finalizer.detach()  # type: ignore[attr-defined]
        each.__init__()  # type: ignore[misc]


def _run_program(parts: Iterable[tuple[str, str, str]], place: str, file: str | None = None) -> None:
    """What is typed in order, of the languages `bash` and `python`, each with its name for a traceback.

    Args:
        place: where modules are found first.
        file: of the program, where it has one.
    """
    program = types.ModuleType("__main__")
    if file is not None:
        program.__file__ = file
    sys.modules["__main__"] = program
    sys.path.insert(0, place)
    for language, code, name in parts:
        if language == "bash":
            subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True, stdin=subprocess.DEVNULL)
        else:
            exec(compile(code, name, "exec"), vars(program))


def _processes_are_forks(folder: Path) -> None:
    """What this process starts as `sys.executable`, or from the folder of scripts, is a fork too."""
    sys.executable = str(folder / "python")
    places = sysconfig.get_path
    sysconfig.get_path = lambda name, *more, **named: (  # type: ignore[assignment]
        str(folder) if name == "scripts" else places(name, *more, **named)
    )


def _start_kernel(folder: Path) -> None:
    from ipykernel import kernelapp
    from matplotlib import rcParams

    _processes_are_forks(folder)
    os.environ.pop("JPY_PARENT_PID", None)  # which is the client's parent
    rcParams["backend"] = "module://matplotlib_inline.backend_inline"  # as a kernel has it that imports matplotlib
    sys.path.insert(0, "")
    kernelapp.launch_new_instance()


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
    from torch import cuda

    from mia_lightning.command.mistakes import config_directory
    from mia_lightning.reports.page import html, templates

    pages = html._templates()
    for name in pages.list_templates(["jinja"]):
        pages.get_template(name)
    templates.plotly_javascript()
    registry.entry_points = cache(registry.entry_points)  # type: ignore[attr-defined]
    cuda._device_count_nvml = cache(cuda._device_count_nvml)  # else looked for in each step of Adam
    rasterise_once()
    with merged_once():
        with initialize_config_dir(str(config_directory()), version_base="1.3"):
            compose("config", return_hydra_config=True)
        gc.collect()
        gc.freeze()  # collecting garbage would copy the memory that forks share
        yield


@contextmanager
def forked_commands() -> Iterator[Path]:
    """The folder of commands, which are served as long as the context is open."""
    with tempfile.TemporaryDirectory() as folder, _server(folder) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield Path(folder)
        finally:
            server.terminate()


def with_forks(folder: Path) -> dict[str, str]:
    """The variables of the environment in which a new interpreter starts audits as forks."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))}


def _server(folder: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, __file__, folder], stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    tests = Path(__file__).resolve().parent
    with warmed_up():
        sys.path.remove(str(tests))
        asked = serve(Path(sys.argv[1]))
        try:
            run(asked)
        except SystemExit as ended:
            if not isinstance(ended.code, int | None):
                raise
            end_at_once(ended.code or 0)
        end_at_once(0)
