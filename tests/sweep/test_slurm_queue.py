"""What is read from Slurm's commands, by commands in their place; and what a run's outcome is after its task."""

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mia_lightning.command.mistakes import config_directory
from mia_lightning.errors import InputError
from mia_lightning.sweep import slurm, slurm_queue
from mia_lightning.sweep.runs import Outcome, Run
from mia_lightning.sweep.slurm import Slurm, _conclude, _kept
from mia_lightning.sweep.slurm_queue import COMMANDS, FORGOTTEN, Queue, cancel, check_commands, patience

Command = Callable[[str, str], None]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Puts a script in the place of one of Slurm's commands; all others are there and say nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    for name in (*COMMANDS, "sacct"):
        put(name, "exit 0")
    return put


def test_states_come_from_the_controller_and_forgotten_ones_from_the_accounting(command: Command) -> None:
    command("squeue", 'echo "$@" >&2; printf "7_0|RUNNING\\n7_1|CANCELLED\\n9|PENDING\\n"')
    command("sacct", 'printf "7_2|CANCELLED by 1000\\n7_3|\\n"')
    states = Queue().states(["7_0", "7_1", "7_2", "7_3", "9"])
    assert states == {"7_0": "RUNNING", "7_1": "CANCELLED", "7_2": "CANCELLED", "7_3": FORGOTTEN, "9": "PENDING"}


def test_without_accounting_a_task_that_nobody_knows_is_forgotten(command: Command) -> None:
    command("squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    command("sacct", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
    assert Queue().states(["7_0"]) == {"7_0": FORGOTTEN}
    assert Queue().states([]) == {}


@pytest.mark.costly
@pytest.mark.parametrize("script", ['echo "squeue: error: no contact" >&2; exit 1', "exec sleep 30"])
def test_a_controller_that_does_not_answer_is_given_time_and_then_said(
    script: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_queue, "SECONDS_OF_A_COMMAND", 0.2)
    command("squeue", script)
    queue = Queue()
    assert queue.states(["7_0"]) is None
    monkeypatch.setattr(slurm_queue, "SECONDS_OF_PATIENCE", 0.1)
    time.sleep(0.2)
    with pytest.raises(
        InputError, match=r"controller does not answer.*started again when the controller answers, waits for them"
    ):
        queue.states(["7_0"])


def test_the_patience_with_a_controller_is_less_than_a_minute() -> None:
    assert slurm_queue.SECONDS_OF_PATIENCE + slurm_queue.SECONDS_OF_A_COMMAND < 60


def test_what_others_start_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGALRM)
    with monkeypatch.context() as patch:
        patch.setattr(slurm_queue, "SECONDS_OF_PATIENCE", 0.1)
        with pytest.raises(TimeoutError), patience():
            time.sleep(300)
    with patience():
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)  # nothing goes off afterwards
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_machine_without_slurm_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="there is no sbatch on this machine"):
        check_commands()


def test_submitit_that_is_not_installed_is_said(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mia_lightning.sweep.slurm.importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs submitit.*pip install 'mia-lightning\[slurm\]'"):
        Slurm()


def test_the_yaml_lists_every_setting_with_its_default() -> None:
    listed = OmegaConf.to_container(OmegaConf.load(config_directory() / "hydra" / "launcher" / "slurm.yaml"))
    assert isinstance(listed, dict)
    fields = Slurm.__dataclass_fields__
    assert set(listed) - {"_target_", "backend"} == set(fields)
    for name in set(fields) - {"setup", "sbatch"}:
        assert listed[name] == fields[name].default


def runs_in(folder: Path, count: int) -> list[Run]:
    return [Run(number=i, overrides=(), folder=folder / str(i), directory=folder, digest="") for i in range(count)]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=["alone", "among threads"])
def among_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads of libraries receive signals that the main one blocks."""
    done = threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(4 if request.param == "among threads" else 0)]
    for thread in threads:
        thread.start()
    yield
    done.set()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("interruptible", "among_threads")
def test_an_interruption_while_tasks_are_handed_over_cancels_them_all(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    command("sbatch", 'kill -INT $PPID; echo "Submitted batch job 77"')
    command("squeue", f'[ -e {tmp_path}/cancelled ] || printf "77_0|RUNNING\n77_1|PENDING\n"')
    command("scancel", f'echo "$@" >> {tmp_path}/cancelled')
    (tmp_path / "sweep.json").write_text('{"slurm": {"elsewhere": "66_0"}}')  # of an earlier start, another wave
    runs = runs_in(tmp_path, 2)
    with pytest.raises(KeyboardInterrupt):
        Slurm().run(runs, folder=tmp_path)
    assert (tmp_path / "cancelled").read_text() == "66_0 77_0 77_1\n"
    assert (tmp_path / "sweep.json").read_text() == '{\n  "slurm": {}\n}'
    expected = Outcome(exit_code=5, reason="it was cancelled, since the sweep was interrupted")
    assert [Outcome.of(run.folder) for run in runs] == [expected] * 2


@pytest.mark.usefixtures("interruptible")
def test_tasks_that_nobody_saw_go_are_looked_for_by_the_next_start(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller goes away as the sweep is interrupted."""
    pytest.importorskip("submitit")

    def cancelled(tasks: Collection[str]) -> None:
        monkeypatch.setattr(slurm_queue, "SECONDS_OF_PATIENCE", 0.5)  # from here on
        cancel(tasks)

    monkeypatch.setattr(slurm, "cancel", cancelled)
    command("sbatch", f'touch {tmp_path}/away; kill -INT $PPID; echo "Submitted batch job 77"')
    command("squeue", f'[ ! -e {tmp_path}/away ] || {{ echo "no contact" >&2; exit 1; }}')
    runs = runs_in(tmp_path, 2)
    with pytest.raises(KeyboardInterrupt):
        Slurm().run(runs, folder=tmp_path)
    tasks = {str(run.folder): f"77_{i}" for i, run in enumerate(runs)}
    assert json.loads((tmp_path / "sweep.json").read_text()) == {"slurm": tasks}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "3", '{"slurm": {"a": 3}}', '{"slurm": {"a": "77; rm"}}', "[" * 9999]
)
def test_a_list_of_tasks_that_cannot_be_read_names_none(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.json").write_text(content)
    assert _kept(tmp_path / "sweep.json") == {}
    assert capsys.readouterr().err == ""
    assert _kept(tmp_path / "sweep.json", tell=True) == {}
    (sentence,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "sweep.json") in sentence
    assert "scancel" in sentence


def test_an_sbatch_that_hangs_is_given_up(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr(slurm_queue, "SECONDS_OF_PATIENCE", 0.5)
    command("sbatch", "exec sleep 30")
    with pytest.raises(InputError, match="controller does not answer; nothing was submitted"):
        Slurm().run(runs_in(tmp_path, 2), folder=tmp_path)
    assert capfd.readouterr().err == ""


def test_tasks_that_cannot_be_written_in_time_are_given_up(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(slurm_queue, "SECONDS_OF_PATIENCE", 0.1)
    monkeypatch.setattr(submitit.SlurmExecutor, "update_parameters", lambda *_, **__: time.sleep(300))
    with pytest.raises(InputError, match="controller does not answer; nothing was submitted"):
        Slurm().run(runs_in(tmp_path, 2), folder=tmp_path)


@pytest.mark.parametrize(
    ("state", "own", "code", "reason"),
    [
        ("COMPLETED", Outcome(exit_code=0), 0, None),
        ("FAILED", Outcome(exit_code=2, reason="bad"), 2, "bad"),
        ("CANCELLED", Outcome(exit_code=3, reason="above"), 3, "above"),  # it had its answer before
        ("CANCELLED", Outcome(exit_code=143, reason="terminated"), 5, "it was cancelled; it was task 7_0 of Slurm"),
        ("CANCELLED", None, 5, "it was cancelled; it was task 7_0 of Slurm"),
        ("TIMEOUT", Outcome(exit_code=1, reason="a process ended"), 5, "it timed out .*task 7_0 of Slurm"),
        ("NODE_FAIL", None, 5, "its node failed; it was task 7_0 of Slurm"),
        (
            "FAILED",
            None,
            5,
            "it left no outcome, and Slurm says FAILED; see .*/logs/7_0_0_log.err; it was task 7_0 of Slurm",
        ),
        (FORGOTTEN, None, 5, "it left no outcome, and Slurm says FORGOTTEN.*"),
    ],
)
def test_an_answer_stands_and_else_slurm_knows_what_it_ended(
    state: str, own: Outcome | None, code: int, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mia_lightning.sweep.slurm.SECONDS_FOR_FILES", 0.0)
    run = Run(number=0, overrides=(), folder=tmp_path, directory=tmp_path, digest="")
    if own is not None:
        own.keep(tmp_path)
    _conclude(run, "7_0", state, tmp_path / "logs")
    outcome = Outcome.of(tmp_path)
    assert outcome is not None
    assert outcome.exit_code == code
    if reason is None:
        assert outcome.reason is None
    else:
        assert re.fullmatch(reason, outcome.reason or "")
