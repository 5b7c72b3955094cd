"""MLServer in an environment of its own, whose pins clash with this one's, on free ports of loopback."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import joblib
import pytest
import sklearn

REQUIREMENTS = ("mlserver>=1.6,<2", "mlserver-sklearn>=1.6,<2", f"scikit-learn=={sklearn.__version__}")
_INSTALL = ("install", "-q", "--no-input", "--no-compile")
_START_SECONDS = 300
_STARTS = 3  # since another process may take a port before the server does


def environment(folder: Path) -> Path:
    """Where `mlserver` is installed: the folder that MIA_MLSERVER names, where it is kept, or else `folder`.

    Without an index of packages tests are skipped, or fail where MIA_MLSERVER is `required`.
    """
    wanted = os.environ.get("MIA_MLSERVER", "")
    place = folder if wanted in ("", "required") else Path(wanted)
    if (place / "bin" / "mlserver").exists():
        return place
    try:
        for command in (
            [sys.executable, "-m", "venv", "--without-pip", str(place)],
            # The server compiles the few modules that it imports; pip would compile all.
            [sys.executable, "-m", "pip", "--python", str(place), *_INSTALL, *REQUIREMENTS],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=600, env=_clean())
    except (subprocess.SubprocessError, OSError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        reason = f"MLServer cannot be installed ({' '.join(said)}); name a folder that has it in MIA_MLSERVER"
        if wanted == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    return place


@contextmanager
def serving(environment: Path, folder: Path, models: Mapping[str, Any]) -> Iterator[str]:
    """The address of a server that has these scikit-learn estimators, by their names."""
    for name, estimator in models.items():
        (folder / name).mkdir(parents=True)
        joblib.dump(estimator, folder / name / "model.joblib")
        settings = {
            "name": name,
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": "./model.joblib"},
        }
        (folder / name / "model-settings.json").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log, ExitStack() as stack:
        for _ in range(_STARTS):
            ports = _free_ports(3)
            server = stack.enter_context(_started(environment, folder, ports, log))
            url = f"http://127.0.0.1:{ports[0]}"
            if _is_up(server, [f"{url}/v2/models/{name}/ready" for name in models]):
                yield url
                return
            if server.poll() is None:
                break
        pytest.fail(f"MLServer did not start:\n{(folder / 'log').read_text()[-3000:]}")


@contextmanager
def _started(environment: Path, folder: Path, ports: list[int], log: TextIO) -> Iterator["subprocess.Popen[bytes]"]:
    keys = ("http_port", "grpc_port", "metrics_port")
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **dict(zip(keys, ports, strict=True))}
    (folder / "settings.json").write_text(json.dumps(settings))
    command = [str(environment / "bin" / "mlserver"), "start", str(folder)]
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=_clean(), cwd=folder)
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _is_up(server: "subprocess.Popen[bytes]", addresses: list[str]) -> bool:
    """Whether it answers at the addresses in the end."""
    end = time.monotonic() + _START_SECONDS
    while not all(_is_ready(address) for address in addresses):
        if server.poll() is not None or time.monotonic() > end:
            return False
        time.sleep(0.2)
    return server.poll() is None


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _clean() -> dict[str, str]:
    """This environment's variables but for those of Python."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
