"""What the benchmarks of whole runs share."""

import os
import sys
from pathlib import Path

import pytest
from benchmark_scripts import imported


@pytest.mark.parametrize("name", ["store", "sweep"])
@pytest.mark.parametrize("given", [["--shadows", "1"], ["--epochs", "0"], ["--rounds", "0"]])
def test_settings_that_cannot_be_run_are_refused(
    given: list[str], name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = imported(name, monkeypatch)
    with pytest.raises(SystemExit):
        script.arguments(given)
    assert "at least" in capsys.readouterr().err
    quick = script.arguments(["--quick", "--shadows", "8"])
    assert (quick.shadows, quick.epochs, quick.rounds) == (8, 2, 1)


def test_a_run_that_fails_ends_the_benchmark_with_what_it_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole_runs = imported("whole_runs", monkeypatch)
    program = tmp_path / "mia-lightning"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\nprint(os.environ['SAID'], os.getcwd())\nsys.exit(len(sys.argv))\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(whole_runs.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(SystemExit, match=rf"a b ended with 3:\nwhy {os.path.realpath(tmp_path)}"):
        whole_runs.timed_run(["a", "b"], environment={"SAID": "why"}, folder=tmp_path)


def test_a_broken_result_is_printed_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole_runs = imported("whole_runs", monkeypatch)
    assert whole_runs.exit_code(None) == 0
    assert whole_runs.exit_code("scores differ") == 1
    assert capsys.readouterr().err == "scores differ\n"
