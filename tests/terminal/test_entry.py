"""How commands begin and end: signals, exit codes, and streams that nobody reads."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mia_lightning.errors import InputError
from mia_lightning.terminal.entry import Terminated, held_back, ignored, let_through, run, terminable
from mia_lightning.terminal.streams import Stream

STARTED = 'from mia_lightning.terminal.entry import run\nrun("prog", lambda: {work})\n'


def with_default_signals() -> None:
    """A test run in the background ignores Ctrl-C, and its children would inherit that."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(folder: Path, *command: str, **streams: int) -> subprocess.Popen[bytes]:
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen([sys.executable, *command], cwd=folder, preexec_fn=with_default_signals, **given)  # type: ignore[call-overload,no-any-return]


def answers(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for the signal, which may wait for now."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return bool(int(fields["SigCgt"], 16) >> (number - 1) & 1)


def wait_for(is_so: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


def waiting_in(pipe: int) -> int:
    """How many bytes nobody has read yet."""
    count = array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def ended(work: Callable[[], int], capsys: pytest.CaptureFixture[str], **named: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit:
        run("prog", work, **named)  # type: ignore[arg-type]
    assert isinstance(exit.value.code, int)
    return exit.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "code", "way"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 143, "terminated"),
    ],
)
def test_a_signal_is_one_sentence(
    number: signal.Signals, code: int, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert ended(lambda: signal.raise_signal(number), capsys, loss="; half is done") == (  # type: ignore[arg-type,return-value]
            code,
            f"prog: {way}; half is done.\n",
        )
        assert signal.getsignal(signal.SIGTERM) == before[signal.SIGTERM]
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_what_ignores_the_end_of_its_terminal_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert ended(lambda: signal.raise_signal(signal.SIGHUP) or 0, capsys) == (0, "")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_codes_of_the_work_and_of_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> int:
        raise InputError("`x` is 5; give 4.")

    assert ended(lambda: 3, capsys) == (3, "")
    assert ended(refuse, capsys) == (2, "prog: `x` is 5; give 4.\n")


def test_signals_wait_until_they_are_let_through() -> None:
    done: list[str] = []

    def work(is_let_through: bool) -> None:
        with terminable():
            with held_back():
                signal.raise_signal(signal.SIGTERM)
                done.append("held back")
                if is_let_through:
                    let_through()
                done.append("to the end")
            done.append("never")

    with pytest.raises(Terminated):
        work(True)
    assert done == ["held back"]
    with pytest.raises(Terminated):
        work(False)
    assert done == ["held back", "held back", "to the end"]


def test_a_signal_that_is_answered_is_answered_once() -> None:
    with terminable(), ignored():
        signal.raise_signal(signal.SIGTERM)


def test_a_thread_leaves_signals_to_the_main_one() -> None:
    done = threading.Event()

    def work() -> None:
        with terminable():
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done.is_set()


COMMANDS: Sequence[tuple[str, str, Sequence[str]]] = [
    ("mia_lightning", "mia-lightning: terminated; no report was written for this run.", ["hydra.run.dir=here"]),
    ("mia_lightning.store", "mia-store: terminated.", ["ls"]),
    ("mia_lightning.dashboard", "mia-dashboard: terminated.", ["runs"]),
    ("mia_lightning.comparison.differences", "mia-compare: terminated.", ["runs"]),
    ("mia_lightning.serve", "mia-serve: terminated before it served anything.", ["run", "--port", "0"]),
]


# The first import after a command answers the signal waits for it, however late it is sent.
AT_AN_IMPORT = """
import runpy, signal, sys, time

class Waits:
    def find_spec(self, name, path=None, target=None):
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            sys.meta_path.remove(self)
            while signal.SIGTERM not in signal.sigpending():
                time.sleep(0.002)

sys.meta_path.insert(0, Waits())
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.mark.costly
@pytest.mark.parametrize(("module", "sentence", "arguments"), COMMANDS, ids=[each[0] for each in COMMANDS])
def test_every_command_answers_sigterm_from_its_first_import_on(
    tmp_path: Path, module: str, sentence: str, arguments: Sequence[str]
) -> None:
    process = start(tmp_path, "-c", AT_AN_IMPORT, module, *arguments)
    try:
        wait_for(lambda: answers(process, signal.SIGTERM), process)
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (process.returncode, out, error.decode()) == (143, b"", f"{sentence}\n")
    if module == "mia_lightning":  # it waits until the folder of the run is known
        assert '"terminated"' in (tmp_path / "here" / "outcome.json").read_text()


def test_a_signal_at_once_waits_for_the_folder_of_the_run(tmp_path: Path) -> None:
    """One that comes with the very handler is no exception."""
    program = (
        "import os, signal, sys\nset_handler = signal.signal\n"
        "def at_once(number, handler):\n"
        "    before = set_handler(number, handler)\n"
        "    if number == signal.SIGTERM and signal.signal is at_once:\n"
        "        signal.signal = set_handler\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return before\n"
        "signal.signal = at_once\n"
        "sys.argv[1:] = ['hydra.run.dir=here']\n"
        "from mia_lightning.__main__ import main\nmain()\n"
    )
    process = start(tmp_path, "-c", program)
    out, error = process.communicate(timeout=300)
    assert (process.returncode, out, error.decode()) == (143, b"", f"{COMMANDS[0][1]}\n")
    assert '"terminated"' in (tmp_path / "here" / "outcome.json").read_text()


def test_a_signal_after_the_work_ends_the_process_with_the_code_of_the_work(tmp_path: Path) -> None:
    program = (
        "import atexit, signal\nfrom mia_lightning.terminal.entry import run\n"
        "atexit.register(lambda: signal.raise_signal(signal.SIGTERM))\nrun('prog', lambda: 4)\n"
    )
    process = start(tmp_path, "-c", program)
    assert (process.communicate(timeout=300), process.returncode) == ((b"", b""), 4)


def test_streams_that_are_closed_are_no_mistake(tmp_path: Path) -> None:
    """Files that are opened later must not be taken for them."""
    work = "(open('kept', 'w'), print('to nobody'), sys.stderr.write('to nobody'), os.write(2, b'to nobody'), 3)[-1]"
    program = f"import os, sys\n{STARTED.format(work=work)}"
    command = f"'{sys.executable}' -c \"$0\" 0<&- 1>&- 2>&-"
    done = subprocess.run(["bash", "-c", command, program], cwd=tmp_path)
    assert done.returncode == 3
    assert (tmp_path / "kept").read_bytes() == b""


@pytest.mark.costly
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(("closed", "code"), [("", 141), (", closed=None", 0)])
def test_a_reader_that_has_ended(tmp_path: Path, stream: str, closed: str, code: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    work = f"[print('x' * 10000, file=sys.{stream}, flush=True) for _ in range(20)] and 0{closed}"
    process = start(tmp_path, "-c", f"import sys\n{STARTED.format(work=work)}", **{stream: writing})
    os.close(writing)
    out, error = process.communicate(timeout=300)
    assert (out or b"", error or b"") == (b"", b"")
    assert process.returncode == (code if stream == "stdout" else 0)


def test_a_reader_that_has_ended_changes_no_other_code(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start(tmp_path, "-c", STARTED.format(work="print('x', flush=True) or 4"), stdout=writing)
    os.close(writing)
    assert (process.communicate(timeout=300)[1], process.returncode) == (b"", 4)


def test_a_full_disk_behind_stdout_is_said(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = start(tmp_path, "-c", STARTED.format(work="print('x') or 0"), stdout=full.fileno())
        _, error = process.communicate(timeout=300)
    assert process.returncode == 2
    assert error.startswith(b"prog: stdout cannot be written (No space left on device)")
    with open("/dev/full", "wb") as full:
        work = "print('x', file=sys.stderr) or 0"
        process = start(tmp_path, "-c", f"import sys\n{STARTED.format(work=work)}", stderr=full.fileno())
        process.communicate(timeout=300)
    assert process.returncode == 0


def test_a_pipe_that_does_not_wait_loses_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = start(tmp_path, "-c", STARTED.format(work="print('x' * 1_000_000) or 0"), stdout=writing)
    os.close(writing)
    wait_for(lambda: waiting_in(reading) >= 2**16, process)  # the pipe is full
    with open(reading, "rb") as pipe:
        assert len(pipe.read()) == 1_000_001
    assert process.communicate(timeout=300)[1] == b""
    assert process.returncode == 0


def test_an_encoding_without_the_character_shows_its_number(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTED.format(work="print('é \\\\udcff ε') or 0")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (0, b"\\xe9 \\udcff \\u03b5\n")


def test_streams_of_this_process_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    stdout = sys.stdout
    assert ended(lambda: print("seen") or 0, capsys) == (0, "")  # type: ignore[func-returns-value]
    assert sys.stdout is stdout
    assert not isinstance(getattr(sys.stdout.buffer, "raw", None), Stream)


def test_a_stream_that_nobody_else_holds_keeps_its_descriptor_when_another_takes_its_place() -> None:
    program = (
        "import sys; sys.stdout = open(1, 'w'); from mia_lightning.terminal.streams import steady_streams; "
        "steady_streams(); print('here', flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "here\n"
