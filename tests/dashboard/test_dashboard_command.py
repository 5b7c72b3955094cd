"""`mia-dashboard` as a person runs it: exit codes, sentences, and the watch over a sweep."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from chromium import opened
from dashboard_runs import report_of, write_run

from mia_lightning.dashboard.command import main, watch
from mia_lightning.dashboard.finding import Place, find_runs
from mia_lightning.errors import InputError


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    def run(*arguments: object) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        return (ended.value.code, *capsys.readouterr())

    return run


def runs_of(page: Path) -> list[str]:
    content = re.search(r'<script type="application/json" id="content">(.*?)</script>', page.read_text(), re.DOTALL)
    assert content is not None
    return [run["name"] for run in json.loads(content[1])["runs"]]


def test_writes_the_page_and_goes_on_past_what_is_damaged(tmp_path: Path, call: Any) -> None:
    write_run(tmp_path / "one" / "a")
    write_run(tmp_path / "two" / "b")
    (write_run(tmp_path / "two" / "damaged") / "report.json").write_text("{")
    (write_run(tmp_path / "two" / "foreign") / "report.json").write_text('{"schema": "pytest/1"}')
    page = tmp_path / "new" / "page.html"

    code, out, error = call(tmp_path / "one", tmp_path / "two", "--output", page)

    assert (code, out) == (0, f"{page}: 2 runs\n")
    assert [line.split(":")[0] for line in error.splitlines()] == ["mia-dashboard"] * 2
    assert "damaged/report.json is not JSON" in error
    assert "foreign/report.json has the schema 'pytest/1'" in error
    assert runs_of(page) == ["one/a", "two/b"]


def test_writes_dashboard_html_by_default(tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "outputs" / "a")
    monkeypatch.chdir(tmp_path)

    assert call("outputs") == (0, "dashboard.html: 1 run\n", "")
    text = (tmp_path / "dashboard.html").read_text()
    assert "<code>mia-dashboard outputs</code>" in text
    assert 'href":"./outputs/a/report.html' in text


def test_no_run(tmp_path: Path, call: Any) -> None:
    code, out, error = call(tmp_path, "--output", tmp_path / "page.html")

    assert (code, out) == (2, "")
    assert error.startswith(f"mia-dashboard: There is no run beneath {tmp_path} that can be read; give folders")
    assert error.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_an_output_that_cannot_be_written(tmp_path: Path, call: Any) -> None:
    write_run(tmp_path / "a")
    (tmp_path / "file").write_text("")

    for output, reason in ((tmp_path / "file" / "page.html", "File exists"), (tmp_path / "a", "Is a directory")):
        code, out, error = call(tmp_path, "--output", output)
        assert (code, out) == (2, "")
        assert error == f"mia-dashboard: {output} cannot be written ({reason}); give another --output.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere is not a folder"),
        ([], "required: FOLDER; see mia-dashboard --help."),
        ([".", "--watch", "soon"], "'soon' is not a number of seconds from 0.1 to 86400; see"),
        ([".", "--watch", "nan"], "'nan' is not a number of seconds"),
        ([".", "--watch", "0"], "'0' is not a number of seconds"),
    ],
)
def test_mistakes_are_one_sentence(call: Any, arguments: list[str], sentence: str) -> None:
    code, out, error = call(*arguments)

    assert (code, out) == (2, "")
    assert sentence in error
    assert error.count("\n") == 1


def test_the_watch_rewrites_the_page_when_something_changed(tmp_path: Path, capsys: Any) -> None:
    runs, page = tmp_path / "sweep", tmp_path / "page.html"
    runs.mkdir()
    seen: list[list[str] | None] = []
    written: list[int | None] = []

    def step(seconds: float) -> None:
        assert seconds == 5
        seen.append(runs_of(page) if page.exists() else None)
        written.append(page.stat().st_mtime_ns if page.exists() else None)
        if len(seen) == 1:
            write_run(runs / "0")
        elif len(seen) == 3:
            write_run(runs / "1", report_of(dataset="another"))
        elif len(seen) == 4:
            (runs / "0" / "report.json").write_text("{")
        elif len(seen) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch([runs], page, seconds=5, command="mia-dashboard sweep --watch 5", wait=step)

    assert seen == [None, ["sweep/0"], ["sweep/0"], ["sweep/0", "sweep/1"], ["sweep/1"], ["sweep/1"]]
    assert written[1] == written[2]
    assert written[4] == written[5]
    out, error = capsys.readouterr()
    assert out == f"{page}: 1 run\n{page}: 2 runs\n{page}: 1 run\n"
    assert error.splitlines()[0] == "mia-dashboard: there is no run yet that can be read; waiting for the first."
    assert "0/report.json is not JSON" in error.splitlines()[1]
    assert len(error.splitlines()) == 2
    text = page.read_text()
    assert "looks for new runs every 5 seconds" in text
    assert 'id="reload" data-seconds="5"' in text


def test_the_watch_ends_where_the_page_cannot_be_written(tmp_path: Path) -> None:
    write_run(tmp_path / "a")

    with pytest.raises(InputError, match="cannot be written"):
        watch([tmp_path], tmp_path / "a", seconds=1, command="", wait=lambda seconds: None)


def test_a_folder_that_cannot_be_read_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a")
    looks: list[object] = []

    def find(folders: Sequence[Path], tell: Callable[[str], None]) -> list[Place]:
        looks.append(folders)
        tell("closed cannot be read.")
        return find_runs(folders, tell)

    def wait(seconds: float) -> None:
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("mia_lightning.dashboard.command.find_runs", find)
    with pytest.raises(KeyboardInterrupt):
        watch([tmp_path], tmp_path / "page.html", seconds=1, command="", wait=wait)
    assert capsys.readouterr().err == "mia-dashboard: closed cannot be read.\n"


def test_interrupts_are_meant_under_watch_alone(tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    write_run(tmp_path / "a")
    monkeypatch.setattr("mia_lightning.dashboard.command.find_runs", interrupted)

    assert call(tmp_path) == (130, "", "mia-dashboard: interrupted.\n")
    assert call(tmp_path, "--watch", "1") == (0, "", "")


@pytest.mark.slow
def test_as_a_process_without_torch_until_ctrl_c(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", scores={"attack": ["loss"] * 2, "is_member": [True, False], "score": [1.0, 0.0]})
    page = tmp_path / "page.html"
    program = (
        "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, flush=True))\n"
        "from mia_lightning.dashboard.command import main; main()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "runs"), "--output", str(page), "--watch", "0.2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: page.exists() and runs_of(page) == ["runs/a"])
        write_run(tmp_path / "runs" / "b")
        wait_for(lambda: runs_of(page) == ["runs/a", "runs/b"])
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=300)
    finally:
        process.kill()

    assert process.returncode == 0
    assert out.splitlines()[-1] == "False"
    assert error == ""


def wait_for(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_watched_page_reloads_by_itself_when_asked(tmp_path: Path, browser: Any) -> None:
    runs, page = write_run(tmp_path / "runs" / "a").parent, tmp_path / "page.html"

    def once(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch([runs], page, seconds=0.5, command="", wait=once)
    with opened(browser, page) as shown:
        shown.page.fill("#text", "loc")
        shown.page.check("#reload")
        write_run(runs / "b")
        with pytest.raises(KeyboardInterrupt):
            watch([runs], page, seconds=0.5, command="", wait=once)
        shown.page.wait_for_function(  # at once, since it goes on to reload
            "document.querySelectorAll('#runs tbody tr').length === 2 && document.getElementById('reload').checked"
            " && document.getElementById('text').value === 'loc'"
        )

        assert shown.errors == []
