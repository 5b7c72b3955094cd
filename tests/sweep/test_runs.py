"""A run: its command line, its process, and an outcome in any case. The command is a small program in its place."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mia_lightning.sweep.runs import Outcome, Run, begin, digest_of, execute, lost
from mia_lightning.terminal.exit_codes import LOST, OF_RUNS, worst

PROGRAM = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(next(each for each in sys.argv if each.startswith("hydra.run.dir=")).split("'")[1])
print("said", *sys.argv[1:])
os.kill(os.getpid(), signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGUSR2)
way = sys.argv[1].partition("=")[2]
if way == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if way == "refused":
    sys.exit("something before\\nmia-lightning: there is no setting `way`.")
if way == "odd":
    sys.exit(77)
if way == "waiting":
    pathlib.Path("started").touch()
    time.sleep(600)
    pathlib.Path("to_its_end").touch()
(folder / "outcome.json").write_text(json.dumps({"exit_code": int(way), "reason": "as told"}))
sys.exit(int(way))
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A working folder in which `python -m mia_lightning` is the small program."""
    (tmp_path / "mia_lightning").mkdir()
    (tmp_path / "mia_lightning" / "__init__.py").touch()
    (tmp_path / "mia_lightning" / "__main__.py").write_text(PROGRAM)
    return tmp_path


def run_in(directory: Path, way: str, folder: str = "sweep/0") -> Run:
    return Run(number=0, overrides=(f"way={way}",), folder=directory / folder, directory=directory, digest="abc")


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "3", "null", "{}", "[" * 100_000, '{"exit_code": 0}', '{"exit_code": 77, "reason": ""}'),
        *('{"exit_code": "0", "reason": null}', '{"exit_code": false, "reason": null}', '{"digest": "a"}'),
        *('{"exit_code": 0, "reason": 3}', '{"exit_code": 0, "reason": null, "more": 1}', '{"exit_code": 0.0}'),
        *('{"digest": 3, "overrides": []}', '{"digest": "", "overrides": []}', '{"digest": "a", "overrides": "b"}'),
    ],
)
def test_what_is_no_outcome_is_none(content: str, tmp_path: Path) -> None:
    for name in ("outcome.json", "run.json"):
        (tmp_path / name).write_text(content)
    assert Outcome.of(tmp_path) is None
    assert digest_of(tmp_path) is None


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_the_exit_code_is_that_of_the_outcome_and_what_was_printed_is_kept(code: int, directory: Path) -> None:
    run = run_in(directory, str(code))
    assert execute(run) == code
    outcome = Outcome.of(run.folder)
    assert outcome == Outcome(exit_code=code, reason="as told")
    assert outcome.is_finished == (code in (0, 3, 4))
    assert (run.folder / "stdout.txt").read_text() == f"said {' '.join(run.arguments)}\n"
    assert digest_of(run.folder) == "abc"


@pytest.mark.parametrize(
    ("way", "code", "reason"),
    [
        ("killed", LOST, "it was killed by SIGKILL"),
        ("refused", 2, "there is no setting `way`."),
        ("odd", LOST, "it ended with exit code 77 and said nothing"),
    ],
)
def test_a_run_that_leaves_no_outcome_has_one_all_the_same(way: str, code: int, reason: str, directory: Path) -> None:
    run = run_in(directory, way)
    if way == "refused":  # by exit code 2, as bad input is
        program = PROGRAM.replace('sys.exit("something', 'sys.stderr.write("something').replace(
            '`way`.")', '`way`."); sys.exit(2)'
        )
        (directory / "mia_lightning" / "__main__.py").write_text(program)
    begin(run)
    Outcome(exit_code=0).keep(run.folder)  # of an earlier attempt
    assert execute(run) == code
    assert Outcome.of(run.folder) == Outcome(exit_code=code, reason=reason)


@pytest.fixture
def signalled(directory: Path) -> Iterator[None]:
    """This process gets SIGUSR2, from another, as soon as the program waits."""
    waiting = f"while [ ! -e started ]; do sleep 0.05; done; kill -USR2 {os.getpid()}"
    sender = subprocess.Popen(["sh", "-c", waiting], cwd=directory)
    yield
    sender.kill()
    sender.wait()


@pytest.mark.usefixtures("signalled")
def test_a_signal_ends_the_run_by_sigterm_and_then_does_what_it_did(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGUSR2, note)
    try:
        run = run_in(directory, "waiting")
        assert execute(run) == LOST
        assert Outcome.of(run.folder) == Outcome(exit_code=LOST, reason="it was killed by SIGTERM")
        assert seen == [signal.SIGUSR2]
        assert signal.getsignal(signal.SIGUSR2) is note
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.usefixtures("signalled")
def test_a_handler_that_leaves_takes_the_run_with_it(directory: Path) -> None:
    def leave(_: int, __: FrameType | None) -> None:
        raise RuntimeError("queued again")

    before = signal.signal(signal.SIGUSR2, leave)
    try:
        with pytest.raises(RuntimeError, match="queued again"):
            execute(run_in(directory, "waiting"))
        assert not (directory / "to_its_end").exists()
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_run_can_be_executed_beside_the_main_thread(directory: Path) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(execute(run_in(directory, "3"))))
    thread.start()
    thread.join()
    assert codes == [3]


@pytest.mark.parametrize("folder", ["plain", "with space", "it's", "a=b,c", "[1]{2}"])
def test_the_folder_reaches_hydra_as_it_is_and_the_run_is_a_single_one(folder: str, tmp_path: Path) -> None:
    run = Run(
        number=0,
        overrides=("seed=1",),
        flags=("--config-dir=mine",),
        folder=tmp_path / folder,
        directory=tmp_path,
        digest="",
    )
    assert run.arguments[:3] == ("--config-dir=mine", "seed=1", "hydra.mode=RUN")
    (parsed,) = OverridesParser.create().parse_overrides([run.arguments[-1]])
    assert (parsed.key_or_group, parsed.value()) == ("hydra.run.dir", str(tmp_path / folder))


def test_an_outcome_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert Outcome.of(tmp_path) is None
    (tmp_path / "outcome.json").write_text("{")
    assert Outcome.of(tmp_path) is None
    (tmp_path / "run.json").write_text("{")
    assert digest_of(tmp_path) is None


def test_a_lost_run_is_worse_than_any_answer_and_better_than_a_mistake(tmp_path: Path) -> None:
    run = Run(number=0, overrides=(), folder=tmp_path, directory=tmp_path, digest="")
    lost(run, "it was cancelled")
    assert json.loads((tmp_path / "outcome.json").read_text()) == {"exit_code": 5, "reason": "it was cancelled"}
    assert worst([0, 3, 4, LOST]) == LOST
    assert [worst([LOST, code]) for code in (1, 2, 130, 143)] == [1, 2, 130, 143]
    assert len(set(OF_RUNS)) == len(OF_RUNS)
