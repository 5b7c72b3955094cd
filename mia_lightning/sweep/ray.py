"""Runs as tasks of Ray: on this machine, or on an existing cluster.

The runs' folders must be on a disk that all nodes share. A cluster that is started here listens on loopback alone, and
ends with the sweep.
"""

import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any

from mia_lightning.errors import InputError, first_line
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast0, NotNegative, Text
from mia_lightning.settings.words import Such, Words
from mia_lightning.sweep.runs import SECONDS_TO_END, Outcome, Run, digest_of, execute, lost

# For a cluster that this process starts. The second is documented for Windows and macOS, and keeps a node on loopback:
# it would run whatever it is sent over the network.
LOCAL = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "true",  # a run ends when its worker is killed
}
LOOPBACK = ("127.0.0.1", "::1")
OBJECT_STORE = 80 * 2**20  # bytes; little more than an exit code passes through it
SECONDS_BETWEEN_LOOKS = 0.5


@settings("hydra.launcher")
class Ray:
    """A sweep whose runs are tasks of Ray.

    Attributes:
        address: of a cluster, such as "auto", "10.0.0.1:6379" or "ray://10.0.0.1:10001"; None starts one on this
            machine.
        cpus, gpus: reserved for each run; a run sees its own GPUs and no others.
        retries: further attempts of a run whose worker or node died. Each goes on where the run stopped.
    """

    address: Annotated[Text, Words("host:port or auto"), Such("10.0.0.1:6379")] | None = None
    cpus: NotNegative = 1
    gpus: NotNegative = 0
    retries: AtLeast0 = 2

    def run(self, runs: Sequence[Run], *, folder: Path) -> None:
        """Run them all; no task is left behind, also after Ctrl-C or an error.

        Raises:
            InputError: Ray is not installed, cannot be reached, or has no node that is large enough for a run.
        """
        if not runs:
            return
        stop = folder / f".stop_{secrets.token_hex(8)}"
        with _connected(self.address) as ray:
            self._check_nodes(ray)
            task = ray.remote(_task).options(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)
            under_way = _UnderWay(task, stop)
            try:
                for run in runs:
                    under_way.begin(run)
                self._collect(ray, under_way)
            except BaseException:
                _cancel(ray, under_way)
                raise
            finally:
                stop.unlink(missing_ok=True)

    def _collect(self, ray: Any, under_way: "_UnderWay") -> None:
        """Wait until all tasks have ended."""
        while under_way.tasks:
            task = under_way.ended.get()
            run, attempt = under_way.tasks.pop(task)
            death = _death(ray, task, run)
            if death is None:
                continue
            _let_end(run)
            if attempt <= self.retries:
                print(f"Run {run.number}: {death}; attempt {attempt + 1} of {self.retries + 1} begins", file=sys.stderr)
                under_way.begin(run, attempt + 1)
            else:
                times = "once" if attempt == 1 else f"{attempt} times"
                lost(run, f"{death}; it was tried {times} (hydra.launcher.retries={self.retries})")

    def _check_nodes(self, ray: Any) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes):
            found = ", ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes) or "no nodes"
            raise InputError(
                f"no node of Ray has {self.cpus:g} CPUs and {self.gpus:g} GPUs for a run (there are {found}); lower "
                "hydra.launcher.cpus or hydra.launcher.gpus."
            )


class _UnderWay:
    """The tasks that have not ended, each with its run and the number of its attempt.

    The sweep waits for `ended` and not in Ray, which would replace an exception that a signal raises meanwhile.
    """

    def __init__(self, task: Any, stop: Path) -> None:
        self.tasks: dict[Any, tuple[Run, int]] = {}
        self.ended: SimpleQueue[Any] = SimpleQueue()
        self.stop = stop
        self._task = task

    def begin(self, run: Run, attempt: int = 1) -> None:
        task = self._task.remote(run, self.stop)
        self.tasks[task] = run, attempt
        task.future().add_done_callback(lambda _: self.ended.put(task))


def _task(run: Run, stop: Path) -> int:
    """One run, in a worker of Ray. It ends in good order as soon as the file `stop` exists.

    Ray cancels a task by an exception, which would not be raised before the run has ended.
    """
    has_ended = threading.Event()

    def watch() -> None:
        while not has_ended.wait(SECONDS_BETWEEN_LOOKS):
            if stop.exists():
                os.kill(os.getpid(), signal.SIGTERM)  # which `execute` passes on
                return

    if stop.exists():
        return 0
    threading.Thread(target=watch, daemon=True).start()
    try:
        return execute(run)
    finally:
        has_ended.set()


def _death(ray: Any, task: Any, run: Run) -> str | None:
    """Why a task died before its run had ended; None where it did not die.

    A run that could not start, for want of a folder or of the package, would not start a second time either: it gets
    that outcome.
    """
    deaths = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)
    try:
        ray.get(task)
    except deaths as error:
        outcome = Outcome.of(run.folder)
        if outcome is not None and outcome.is_finished:
            return None
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            return "Ray killed its worker, since the memory of the node ran out"
        return "its Ray worker died" if isinstance(error, deaths[0]) else "its Ray node died"
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        lost(run, f"Ray could not run it: {type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}")
    return None


def _let_end(run: Run) -> None:
    """Wait until the run of a dead worker, which is ending, has written its outcome: it must not overwrite ours."""
    until = time.monotonic() + SECONDS_TO_END
    while Outcome.of(run.folder) is None and time.monotonic() < until:
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _cancel(ray: Any, under_way: _UnderWay) -> None:
    """End all tasks: the runs are told to end, have time to store what they have trained, and then are killed.

    A run that is killed gets an outcome that says so.
    Tasks that have not begun find `stop` and end. Cancelling them would also cancel tasks that begin meanwhile, and
    interrupt those that wait for a run that is ending.
    """
    with suppress(OSError):  # the tasks must be ended on a full disk, too
        under_way.stop.touch()
    until = time.monotonic() + SECONDS_TO_END + 10
    waiting = list(under_way.tasks)
    while waiting and time.monotonic() < until:
        waiting = ray.wait(waiting, num_returns=len(waiting), timeout=SECONDS_BETWEEN_LOOKS)[1]
    for each in waiting:
        ray.cancel(each, force=True)
        run, _ = under_way.tasks[each]
        if digest_of(run.folder) is not None and Outcome.of(run.folder) is None:  # it had begun
            lost(run, f"it was killed, since it had not ended {SECONDS_TO_END + 10:g} s after the sweep")


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, initialised; it is shut down at the end of the context."""
    before = {name: os.environ.get(name) for name in (*LOCAL, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None:
        os.environ.update(LOCAL)
        # Who reaches a node can run programs on it; the token keeps other users of this machine out.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    on_termination = signal.getsignal(signal.SIGTERM)
    try:
        ray = _imported()
        try:
            _initialise(ray, address)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_termination)  # Ray's would abort this process
            yield ray
        finally:
            ray.shutdown()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _initialise(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is not None:
            _knock(address)
            ray.init(address=address, **quiet)
            return
        ray.init(include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError, OverflowError) as error:
        where = "Ray cannot be started" if address is None else f"there is no Ray cluster at {address}"
        raise InputError(
            f"{where} ({first_line(error)}); see hydra.launcher.address, or use hydra/launcher=local."
        ) from error
    if not all(node["NodeManagerAddress"] in LOOPBACK for node in ray.nodes()):
        raise InputError(
            "This process has imported Ray already, and it would listen on the network; start the sweep by the command "
            "mia-lightning, or give hydra.launcher.address."
        )


def _knock(address: str) -> None:
    """Fail at once where nothing listens at the address: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError(
            f"hydra/launcher=ray needs Ray, which cannot be imported ({error}); install it with "
            "pip install 'mia-lightning[ray]', or use hydra/launcher=local."
        ) from error
    return ray
