"""Sweeps on a real Ray on this machine: all outcomes, whatever becomes of a worker, and nothing left behind."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from forks import with_forks

from mia_lightning.errors import InputError
from mia_lightning.sweep import ray as module
from mia_lightning.sweep.ray import Ray
from mia_lightning.sweep.runs import Outcome, Run, begin
from mia_lightning.terminal.exit_codes import LOST

QUICK = ["logger=none", "shadow.count=4", "training.epochs=2", "attack=loss", "trainer.accelerator=cpu"]
Found = TypeVar("Found")
LISTENING = "0A"  # the state in /proc/net/tcp
needs_ray = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'mia-lightning[ray]'"),
    pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks at processes and sockets in /proc"),
]


Start = Callable[..., "subprocess.Popen[str]"]


def sweep(folder: Path, forks: Path, *arguments: str) -> subprocess.Popen[str]:
    """A sweep whose audits are forks of one process."""
    command = [sys.executable, "-m", "mia_lightning", "-m", "hydra/launcher=ray", f"hydra.sweep.dir={folder}", *QUICK]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "HYDRA_", "RAY_"))}
    return subprocess.Popen(
        [*command, *arguments],
        cwd=folder.parent,
        env={
            **kept,
            **with_forks(forks),
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",
        },  # of 15, a busy machine leaves them no time
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def start(tmp_path: Path, forks: Path) -> Iterator[Start]:
    """Start a sweep in `tmp_path / "sweep"`; what a failing test leaves of it is killed."""
    started: list[subprocess.Popen[str]] = []

    def start_one(*arguments: str) -> subprocess.Popen[str]:
        started.append(sweep(tmp_path / "sweep", forks, *arguments))
        return started[-1]

    yield start_one
    for process in started:
        for pid in [process.pid, *descendants(process.pid)]:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.communicate()


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of each process."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(place.name)] = parent, (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def descendants(pid: int) -> set[int]:
    table = processes()
    found: set[int] = set()
    while more := {each for each, (parent, _) in table.items() if parent in found | {pid}} - found:
        found |= more
    return found


def wait_for(look: Callable[[], Found | None], process: subprocess.Popen[str] | None = None) -> Found:
    """What `look` finds, once it finds something; `process` must live until then."""
    until = time.monotonic() + 300
    while not (found := look()):
        assert time.monotonic() < until, "it did not happen"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)
    return found


def trained_by(folder: Path) -> int | None:
    """The process of the run in `folder`, once all is imported and it prepares or trains."""
    if not (folder / "config.yaml").exists():
        return None
    return next((pid for pid, (_, line) in processes().items() if f"hydra.run.dir='{folder}'" in line), None)


def codes(folder: Path) -> list[int]:
    return [json.loads(place.read_text())["exit_code"] for place in sorted(folder.glob("*/outcome.json"))]


def listening(pids: set[int]) -> set[str]:
    """The addresses, in hexadecimal, that these processes listen at."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(link)))
            except OSError:
                continue
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {line[1].partition(":")[0] for line in lines if line[3] == LISTENING and line[9] in inodes}


def worker_of(run: int) -> int:
    """The worker of Ray that a run's process belongs to."""
    parent, _ = processes()[run]
    assert "ray::" in processes()[parent][1]
    return parent


class TestWithRay:
    pytestmark = needs_ray

    def test_a_sweep_runs_all_and_listens_on_loopback_alone(self, start: Start, tmp_path: Path) -> None:
        process = start("seed=0,1,two", "training.epochs=200")
        wait_for(lambda: trained_by(tmp_path / "sweep" / "0"), process)
        addresses = listening(descendants(process.pid))
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 2, errors + output
        # 127.0.0.1, alone and mapped to IPv6, as the kernel writes them.
        assert addresses
        assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}
        assert codes(tmp_path / "sweep") == [0, 0, 2]
        assert "`seed` is 'two'" in (Outcome.of(tmp_path / "sweep" / "2") or Outcome(exit_code=0)).reason
        assert all((tmp_path / "sweep" / name / "report.json").exists() for name in "01")
        assert not list((tmp_path / "sweep").glob(".stop_*"))

    def test_a_run_whose_worker_is_killed_is_taken_up_again(self, start: Start, tmp_path: Path) -> None:
        process = start("seed=0,1", "training.epochs=800")
        run = wait_for(lambda: trained_by(tmp_path / "sweep" / "0"), process)
        os.kill(worker_of(run), signal.SIGKILL)
        wait_for(lambda: run not in processes())  # the run of a dead worker does not go on beside the next attempt
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors + output
        assert "Run 0: its Ray worker died; attempt 2 of 3 begins" in errors
        assert codes(tmp_path / "sweep") == [0, 0]
        assert all((tmp_path / "sweep" / name / "report.json").exists() for name in "01")

    def test_a_run_whose_worker_dies_too_often_has_an_outcome_and_the_others_run(
        self, start: Start, tmp_path: Path
    ) -> None:
        process = start("seed=0,1,2", "training.epochs=800", "hydra.launcher.retries=0")
        os.kill(worker_of(wait_for(lambda: trained_by(tmp_path / "sweep" / "1"), process)), signal.SIGKILL)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == LOST, errors + output
        assert codes(tmp_path / "sweep") == [0, LOST, 0]
        outcome = Outcome.of(tmp_path / "sweep" / "1")
        assert outcome is not None
        assert outcome.reason == "its Ray worker died; it was tried once (hydra.launcher.retries=0)"

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_an_interrupted_sweep_ends_its_runs_in_good_order(
        self, number: signal.Signals, code: int, start: Start, tmp_path: Path
    ) -> None:
        process = start("seed=0,1,2,3,4", "training.epochs=100000")
        wait_for(lambda: trained_by(tmp_path / "sweep" / "0"), process)
        below = descendants(process.pid)
        process.send_signal(number)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == code, errors + output
        assert "Traceback" not in errors
        outcome = Outcome.of(tmp_path / "sweep" / "0")
        assert outcome is not None
        assert (outcome.exit_code, outcome.reason) == (143, "terminated")
        assert not (tmp_path / "sweep" / "4" / "config.yaml").exists()  # it had not begun, and does not begin
        wait_for(lambda: not below & set(processes()))

    def test_a_killed_sweep_leaves_no_run_behind(self, start: Start, tmp_path: Path) -> None:
        process = start("seed=0,1", "training.epochs=100000")
        run = wait_for(lambda: trained_by(tmp_path / "sweep" / "0"), process)
        worker = worker_of(run)
        process.kill()
        process.communicate()
        wait_for(lambda: not {run, worker} & set(processes()))
        wait_for(lambda: not any(str(tmp_path) in line for _, line in processes().values()))

    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            (["hydra.launcher.gpus=64"], ["no node of Ray has 1 CPUs and 64 GPUs", "hydra.launcher.gpus"]),
            (["hydra.launcher.address=127.0.0.1:9"], ["there is no Ray cluster at 127.0.0.1:9"]),
        ],
    )
    def test_what_ray_cannot_do_is_a_sentence(
        self, arguments: list[str], parts: list[str], start: Start, tmp_path: Path
    ) -> None:
        process = start("seed=0,1", *arguments)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 2
        assert "Traceback" not in errors
        (sentence,) = [line for line in errors.splitlines() if line.startswith("mia-lightning: ")]
        assert all(part in sentence for part in parts)


def a_run(folder: Path, number: int = 0) -> Run:
    return Run(number=number, overrides=(), folder=folder / str(number), directory=folder, digest="d")


def test_without_ray_it_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    before = dict(os.environ)
    with pytest.raises(InputError, match=r"pip install 'mia-lightning\[ray\]'.*hydra/launcher=local"):
        Ray().run([a_run(tmp_path)], folder=tmp_path)
    assert dict(os.environ) == before
    Ray().run([], folder=tmp_path)  # nothing to run: nothing to import


class FakeRay:
    """The few functions of Ray that are used, on tasks that end as they are told to."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

        class WorkerCrashedError(RayError):
            pass

        class NodeDiedError(RayError):
            pass

        class OutOfMemoryError(RayError):
            pass

    def __init__(self, endings: list[BaseException | None], address: str = "127.0.0.1") -> None:
        self.endings, self.submitted, self.has_ended = endings, 0, False
        self._address = address

    def init(self, **_: Any) -> None:
        pass

    def shutdown(self) -> None:
        self.has_ended = True

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "NodeManagerAddress": self._address, "Resources": {"CPU": 2.0}}]

    def remote(self, function: Any) -> "FakeRay":
        return self

    def options(self, **_: Any) -> "FakeTask":
        return FakeTask(self)

    def get(self, task: "FakeObject") -> int:
        error = self.endings[task.number]
        if error is not None:
            raise error
        return 0


class FakeTask:
    def __init__(self, ray: FakeRay) -> None:
        self._ray = ray

    def remote(self, run: Run, stop: Path) -> "FakeObject":
        self._ray.submitted += 1
        return FakeObject(self._ray.submitted - 1)


class FakeObject:
    def __init__(self, number: int) -> None:
        self.number = number

    def future(self) -> "Future[int]":
        future: Future[int] = Future()
        future.set_result(0)
        return future


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        (["NodeDiedError"] * 3, "its Ray node died; it was tried 3 times (hydra.launcher.retries=2)"),
        (
            ["OutOfMemoryError"] * 3,
            "Ray killed its worker, since the memory of the node ran out; it was tried 3 times "
            "(hydra.launcher.retries=2)",
        ),
        (["RayError"], "Ray could not run it: RayError: no such package"),  # and is not tried again
        (["WorkerCrashedError", None], None),
    ],
)
def test_deaths_are_counted_and_named(
    errors: list[str | None], reason: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    endings = [None if each is None else getattr(FakeRay.exceptions, each)("no such package\nmore") for each in errors]
    fake = FakeRay(endings)
    monkeypatch.setattr(module, "_imported", lambda: fake)
    monkeypatch.setattr(module, "SECONDS_TO_END", 0.0)  # no run is there that could write a last word
    (tmp_path / "0").mkdir()
    Ray().run([a_run(tmp_path)], folder=tmp_path)
    assert (fake.submitted, fake.has_ended) == (len(errors), True)
    outcome = Outcome.of(tmp_path / "0")
    assert (None if outcome is None else (outcome.exit_code, outcome.reason)) == (reason and (LOST, reason))


@pytest.mark.slow
def test_the_last_word_of_a_run_does_not_come_after_that_on_its_loss(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeRay([FakeRay.exceptions.WorkerCrashedError()])
    monkeypatch.setattr(module, "_imported", lambda: fake)
    folder = tmp_path / "0"
    folder.mkdir()
    late = threading.Timer(0.6, lambda: Outcome(exit_code=143, reason="terminated").keep(folder))
    late.start()
    Ray(retries=0).run([a_run(tmp_path)], folder=tmp_path)
    late.join()
    assert Outcome.of(folder) == Outcome(
        exit_code=LOST, reason="its Ray worker died; it was tried once (hydra.launcher.retries=0)"
    )


def test_a_run_that_does_not_end_with_its_sweep_is_killed_and_has_an_outcome(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those that had not begun, or have ended meanwhile, get no other outcome."""
    runs = [a_run(tmp_path, number) for number in range(3)]
    for run in runs[:2]:
        run.folder.mkdir()
        begin(run)
    Outcome(exit_code=143, reason="terminated").keep(runs[1].folder)
    cancelled = []

    class Stuck(FakeRay):
        def wait(self, tasks: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
            return [], tasks

        def cancel(self, task: Any, *, force: bool) -> None:
            cancelled.append((task, force))

    monkeypatch.setattr(module, "SECONDS_TO_END", -10.0)
    under_way = SimpleNamespace(stop=tmp_path / "stop", tasks={run.number: (run, 1) for run in runs})
    module._cancel(Stuck([]), under_way)
    assert cancelled == [(0, True), (1, True), (2, True)]
    outcomes = [Outcome.of(run.folder) for run in runs]
    assert outcomes[0] is not None
    assert outcomes[0].exit_code == LOST
    assert outcomes[1:] == [Outcome(exit_code=143, reason="terminated"), None]
    assert not runs[2].folder.exists()


def test_a_worker_that_dies_after_its_run_had_ended_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeRay([FakeRay.exceptions.WorkerCrashedError()])
    monkeypatch.setattr(module, "_imported", lambda: fake)
    (tmp_path / "0").mkdir()
    Outcome(exit_code=3, reason="above the limit").keep(tmp_path / "0")
    Ray().run([a_run(tmp_path)], folder=tmp_path)
    assert fake.submitted == 1
    assert Outcome.of(tmp_path / "0") == Outcome(exit_code=3, reason="above the limit")


def test_a_node_that_would_listen_beyond_loopback_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeRay([], address="192.0.2.7")
    monkeypatch.setattr(module, "_imported", lambda: fake)
    with pytest.raises(InputError, match="would listen on the network"):
        Ray().run([a_run(tmp_path)], folder=tmp_path)
    assert fake.has_ended
    assert fake.submitted == 0
