"""Sweeps on a real Slurm: nothing is lost, repeated, orphaned or waited for without end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from forks import with_forks

# What mostly waits is in a group of its own, beside the others: clusters do not know of each other.
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.xdist_group("slurm")]
WITHOUT_ACCOUNTING = pytest.mark.xdist_group("without_accounting")
SETTINGS = [
    *("hydra/launcher=slurm", "hydra.launcher.cpus=1", "hydra.launcher.memory_gb=null"),
    *("hydra.launcher.poll_seconds=0.5", "hydra.sweep.dir=sweep"),
    *("logger=none", "shadow.count=4", "training.epochs=2", "dataset.train_size=60", "attack=loss"),
    *("trainer.accelerator=cpu", "model=custom", "model._target_=my_net.net"),
    "trainer.callbacks=[{_target_:my_net.Breaking}]",
]
# A network that comes at once, when it is told to go, only at the second start, or that breaks in training.
MY_NET = """
import os, time
from pathlib import Path
from tempfile import TemporaryDirectory
from pytorch_lightning import Callback
from torch import nn

def net(input_shape, num_classes, mode):
    Path(f"{mode}.started").touch()
    Path(f"{mode}.gpu").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    if mode == "once" and not Path("once.second").exists():
        Path("once.second").touch()
        time.sleep(300)
    while mode.startswith("wait") and not Path("go").exists():
        time.sleep(0.1)
    global broken
    broken = mode == "broken" and not Path("mended").exists()
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0], num_classes))

class Breaking(Callback):
    def on_train_start(self, trainer, module):
        if broken:
            raise RuntimeError("broken on purpose")
"""


@dataclass(kw_only=True)
class Cluster:
    """A working folder on a cluster, and the commands that a person would type there."""

    folder: Path
    environment: dict[str, str]
    clients: list[subprocess.Popen[str]] = field(default_factory=list)

    def beside(self, name: str) -> "Cluster":
        """Another working folder on the same cluster."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "my_net.py").write_text(MY_NET)
        return replace(self, folder=folder)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        client = subprocess.Popen(
            [sys.executable, "-u", "-m", "mia_lightning", "-m", *SETTINGS, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        self.clients.append(client)
        return client

    def sweep(self, *arguments: str) -> tuple[int, str]:
        """Exit code and what was printed."""
        return self.end(self.start(*arguments))

    def end(self, client: subprocess.Popen[str]) -> tuple[int, str]:
        printed, _ = client.communicate(timeout=300)
        return client.returncode, printed

    def wait_for(self, *files: str) -> None:
        latest = time.monotonic() + 300
        while missing := [name for name in files if not (self.folder / name).exists()]:
            assert time.monotonic() < latest, f"{missing}\n{self.ask('squeue', '--states=all')}"
            time.sleep(0.1)

    def ask(self, *command: str) -> str:
        answer = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=True)
        return answer.stdout

    def queued(self) -> list[str]:
        return self.ask("squeue", "--noheader", "--array", "--format=%i").split()

    def outcomes(self) -> dict[str, tuple[int, str | None]]:
        """By the mode of the network of each run."""
        found = {}
        for path in sorted((self.folder / "sweep").glob("*/outcome.json")):
            overrides = json.loads((path.parent / "run.json").read_text())["overrides"]
            mode = next(each.partition("=")[2] for each in overrides if each.startswith("+model.mode="))
            content = json.loads(path.read_text())
            found[mode] = (content["exit_code"], content["reason"])
        return found

    def engine_and_job(self, folder: str) -> str:
        tasks: dict[str, str] = json.loads((self.folder / "sweep" / "sweep.json").read_text())["slurm"]
        return tasks[str(self.folder / "sweep" / folder)]


def _cluster(configuration: Path, folder: Path, forks: Path) -> Iterator[Cluster]:
    """The audits of its tasks are forks of one process."""
    (folder / "my_net.py").write_text(MY_NET)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "HYDRA_"))}
    environment = {**kept, **with_forks(forks), "SLURM_CONF": str(configuration), "COLUMNS": "200"}
    cluster = Cluster(folder=folder, environment=environment)
    try:
        yield cluster
    finally:
        for client in cluster.clients:
            client.kill()
            client.wait()
            if client.stdout is not None:
                client.stdout.close()
        (folder / "go").touch()
        cluster.ask("scancel", "--user=root")
        while cluster.queued():
            time.sleep(0.2)


@pytest.fixture
def cluster(slurm: Path, tmp_path: Path, forks: Path) -> Iterator[Cluster]:
    yield from _cluster(slurm, tmp_path, forks)


@pytest.fixture
def plain_cluster(slurm_without_accounting: Path, tmp_path: Path, forks: Path) -> Iterator[Cluster]:
    yield from _cluster(slurm_without_accounting, tmp_path, forks)


def test_a_sweep_with_a_cancelled_and_a_broken_run_is_run_again_to_its_end(cluster: Cluster) -> None:
    client = cluster.start("+model.mode=fast,wait,broken", "hydra.launcher.account=research")
    cluster.wait_for("wait.started", "sweep/0/report.json", "sweep/2/outcome.json")
    cancelled, broken = cluster.engine_and_job("1"), cluster.engine_and_job("2")
    cluster.ask("scancel", cancelled)
    code, printed = cluster.end(client)
    outcomes = cluster.outcomes()
    assert code == 1  # a bug is worse than a run that was lost
    assert outcomes["fast"] == (0, None)
    assert outcomes["wait"] == (5, f"it was cancelled; it was task {cancelled} of Slurm")
    assert outcomes["broken"] == (1, "RuntimeError: broken on purpose")
    assert f"Run 1 (+model.mode=wait): it was cancelled; it was task {cancelled} of Slurm" in printed
    assert cluster.queued() == []
    state = cluster.ask("squeue", "--noheader", "--array", "--states=all", f"--jobs={broken}", "--format=%T")
    assert state.split() == ["FAILED"]
    assert {(cluster.folder / f"{mode}.gpu").read_text() for mode in ("fast", "wait")} == {"0", "1"}

    (cluster.folder / "go").touch()
    (cluster.folder / "mended").touch()
    first = (cluster.folder / "sweep" / "0" / "report.json").stat().st_mtime_ns
    code, printed = cluster.sweep("+model.mode=fast,wait,broken", "hydra.launcher.account=research")
    assert code == 0, printed
    assert "1 of 3 runs are finished already" in printed
    assert cluster.outcomes() == dict.fromkeys(("fast", "wait", "broken"), (0, None))
    assert (cluster.folder / "sweep" / "0" / "report.json").stat().st_mtime_ns == first


def test_a_killed_client_leaves_its_tasks_to_the_next(cluster: Cluster) -> None:
    client = cluster.start("+model.mode=wait,wait_too")
    cluster.wait_for("wait.started", "wait_too.started", "sweep/sweep.json")
    client.kill()
    client.communicate()
    tasks = cluster.queued()
    assert len(tasks) == 2
    successor = cluster.start("+model.mode=wait,wait_too")
    assert successor.stdout is not None
    while "waiting for tasks" not in (line := successor.stdout.readline()):
        assert line, "it has ended"
    assert all(task in line for task in tasks)
    (cluster.folder / "go").touch()
    code, printed = cluster.end(successor)
    assert code == 0, printed
    assert "submitted" not in printed
    assert cluster.outcomes() == {"wait": (0, None), "wait_too": (0, None)}


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_client_cancels_its_tasks(sent: signal.Signals, code: int, cluster: Cluster) -> None:
    client = cluster.start("+model.mode=wait,wait_too")
    cluster.wait_for("wait.started", "sweep/sweep.json")
    client.send_signal(sent)
    ended, printed = cluster.end(client)
    assert ended == code, printed
    assert "Traceback" not in printed
    assert cluster.queued() == []
    assert set(cluster.outcomes().values()) == {(5, "it was cancelled, since the sweep was interrupted")}


@WITHOUT_ACCOUNTING
def test_a_task_that_runs_into_its_time_limit_is_queued_again_as_often_as_asked_for(plain_cluster: Cluster) -> None:
    limit = "hydra.launcher.timeout_minutes=1"
    again = ["hydra.launcher.notice_seconds=10", "hydra.launcher.retries=9"]  # a busy machine may need some
    never = ["hydra.launcher.notice_seconds=55", "hydra.launcher.retries=0"]
    first = plain_cluster.start("+model.mode=once", limit, *again)
    other = plain_cluster.beside("other")
    second = other.start("+model.mode=wait", limit, *never)
    code, printed = plain_cluster.end(first)
    assert code == 0, printed
    assert plain_cluster.outcomes() == {"once": (0, None)}
    code, printed = other.end(second)
    assert code == 5
    assert other.outcomes() == {"wait": (5, "it timed out: it ran longer than 1 minutes")}


@pytest.mark.parametrize("setting", ["partition=nowhere", "account=nobody", "qos=best", "gpus=9"])
def test_what_slurm_does_not_have_is_said_in_one_sentence(setting: str, cluster: Cluster) -> None:
    code, printed = cluster.sweep("+model.mode=fast", f"hydra.launcher.{setting}")
    assert code == 2
    sentences = [line for line in printed.splitlines() if line.startswith("mia-lightning: ")]
    assert len(sentences) == 1
    assert "Slurm refuses the sweep" in sentences[0]
    assert f"hydra.launcher.{setting}" in sentences[0]
    assert "sbatch" not in printed
    assert "Traceback" not in printed


def test_an_accounting_service_that_does_not_answer_is_not_needed(cluster: Cluster, slurm: Path) -> None:
    process = int((slurm.parent / "run" / "slurmdbd.pid").read_text())
    os.kill(process, signal.SIGSTOP)
    try:
        code, printed = cluster.sweep("+model.mode=fast", "seed=x")
    finally:
        os.kill(process, signal.SIGCONT)
    assert code == 2
    assert cluster.outcomes() == {"fast": (2, "`seed` is 'x'; it must be a whole number.")}, printed


@WITHOUT_ACCOUNTING
def test_a_cancelled_task_is_known_without_accounting(plain_cluster: Cluster) -> None:
    client = plain_cluster.start("+model.mode=wait", "seed=0")
    plain_cluster.wait_for("wait.started", "sweep/sweep.json")
    task = plain_cluster.engine_and_job("0")
    plain_cluster.ask("scancel", task)
    code, printed = plain_cluster.end(client)
    assert code == 5, printed
    assert plain_cluster.outcomes() == {"wait": (5, f"it was cancelled; it was task {task} of Slurm")}


@WITHOUT_ACCOUNTING
def test_a_controller_that_stops_answering_ends_the_client_and_keeps_the_tasks(
    plain_cluster: Cluster, slurm_without_accounting: Path
) -> None:
    client = plain_cluster.start("+model.mode=wait")
    plain_cluster.wait_for("wait.started", "sweep/sweep.json")
    process = int((slurm_without_accounting.parent / "run" / "slurmctld.pid").read_text())
    os.kill(process, signal.SIGSTOP)
    try:
        code, printed = plain_cluster.end(client)
    finally:
        os.kill(process, signal.SIGCONT)
    assert code == 2
    assert "mia-lightning: Slurm's controller does not answer" in printed
    assert "Traceback" not in printed
    (plain_cluster.folder / "go").touch()
    code, printed = plain_cluster.sweep("+model.mode=wait")
    assert code == 0, printed
    assert plain_cluster.outcomes() == {"wait": (0, None)}


def test_an_audit_in_shards_is_the_audit_in_one(cluster: Cluster) -> None:
    in_shards = ["+model.mode=fast", "shadow.shards=2", "store.dir=store"]
    code, printed = cluster.sweep(*in_shards)
    assert code == 0, printed
    arrays = [line for line in printed.splitlines() if "submitted as" in line]
    assert ["with 2 tasks" in line for line in arrays] == [True, False]  # the shards, then what joins them
    code, printed = cluster.sweep("+model.mode=fast")
    assert code == 0, printed
    whole, joined = (pq.read_table(cluster.folder / "sweep" / run / "scores.parquet") for run in ("1", "0"))
    assert whole.equals(joined)
    code, printed = cluster.sweep(*in_shards)
    assert "1 of 1 runs are finished already" in printed
    assert "submitted" not in printed


@pytest.mark.usefixtures("slurm")  # skipped where it cannot be started
def test_what_the_page_says_to_type_can_be_typed(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "how-to" / "cluster.md").read_text()
    commands = page.split("\n## Slurm without a cluster\n")[1].split("```text\n")[1].split("\n```")[0].splitlines()
    assert commands[0].startswith("apt-get install")
    with TemporaryDirectory(prefix="slurm_") as folder:
        script = "\n".join(commands[1:]).replace("/tmp/slurm", folder).replace("/tmp/sweep", str(tmp_path / "sweep"))
        try:
            ended = subprocess.run(
                ["bash", "-euc", script], cwd=root, capture_output=True, text=True, timeout=300, check=False
            )
        finally:
            subprocess.run([root / "tests" / "cluster" / "stop", folder], timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(list((tmp_path / "sweep").glob("*/report.json"))) == 3


def _reused(folder: Path) -> dict[str, tuple[int, int]]:
    store = json.loads((folder / "report.json").read_text())["run"]["store"]
    return {role: (one["found"], one["trained"]) for role, one in store.items()}


def test_two_tasks_that_need_one_stack_train_it_once(cluster: Cluster) -> None:
    code, printed = cluster.sweep("+model.mode=plain", "defense=[],[rounding]")
    assert code == 0, printed
    first, second = (_reused(cluster.folder / "sweep" / number) for number in "01")
    for role, count in (("target", 1), ("shadow", 4)):
        assert first[role][1] + second[role][1] == count, (first, second)
        assert sum(first[role]) == sum(second[role]) == count
