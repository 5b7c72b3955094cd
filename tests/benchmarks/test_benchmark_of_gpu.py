"""The script for a quarter of an hour on a GPU: what it does when time is short, and all of its parts, on the CPU."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from benchmark_scripts import imported, run

PARTS = ("tests", "runs", "purchase", "images", "ways", "scoring")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("gpu", monkeypatch)


def test_parts_have_their_shares_and_what_earlier_ones_left(script: ModuleType) -> None:
    assert sum(part.seconds for part in script.PARTS) <= 8 * 60
    now = [0.0, 10.0, 30.0, 350.0, 400.0, 460.0]
    allowed = [seconds for _, seconds in script.allowances(script.PARTS, 8, iter(now))]
    # The first has the 5 seconds that nobody has, the next two what those before them left.
    assert allowed == [90 + 5, 470 - 325, 450 - 215, 120, 70, 480 - 460]


def test_what_no_longer_fits_is_skipped_and_less_time_is_shared_alike(script: ModuleType) -> None:
    late = [0.0, 0.0, 0.0, 440.0, 440.0, 440.0]
    allowed = [seconds for _, seconds in script.allowances(script.PARTS, 8, iter(late))]
    assert allowed[3] is None  # 40 seconds are left, and images take 45
    assert allowed[4:] == [40, 40]
    short = [seconds for _, seconds in script.allowances(script.PARTS, 1, iter([0.0] * 6))]
    assert short[0] == pytest.approx(95 / 8)
    assert short[1] == pytest.approx(60 - 325 / 8)


def begun_by(
    script: ModuleType, code: str, path: Path, monkeypatch: pytest.MonkeyPatch, *, measured: int | None = None
) -> tuple[bool, list[Any]]:
    """Whether the part ended well, and what it left; its time is over when so many measurements have come."""
    results = script.Results(path=path, content={"measurements": []})
    clock = SimpleNamespace(perf_counter=lambda: 1000.0 * (len(results.content["measurements"]) == measured))
    monkeypatch.setattr(script, "command_of", lambda *_: [sys.executable, "-u", "-c", code])
    monkeypatch.setattr(script, "_GRACE", 0.0)
    monkeypatch.setattr(script, "time", clock)
    is_well = script.run_part(script.PARTS[0], 300.0, argparse.Namespace(), results)
    return is_well, json.loads(path.read_text())["measurements"]


SAYS = 'print("measured " + \'{"what": "first", "s": 1.5}\'); print("a line of others");'


def test_a_part_that_takes_too_long_is_ended_with_all_that_it_started_and_loses_nothing(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = f"import subprocess; {SAYS} subprocess.run(['sleep', '600'])"
    is_well, measured = begun_by(script, code, tmp_path / "gpu.json", monkeypatch, measured=1)
    assert is_well
    assert measured[0] == {"part": "tests", "what": "first", "s": 1.5}
    assert measured[1]["what"].startswith("ended")
    assert "first" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [tmp_path / "gpu.json"]


def test_a_part_that_fails_is_said_with_its_words(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    is_well, measured = begun_by(script, f"{SAYS} raise SystemExit('no memory')", tmp_path / "gpu.json", monkeypatch)
    assert not is_well
    assert [each["what"] for each in measured] == ["first", "FAILED"]
    assert measured[1]["said"] == ["no memory"]
    assert "no memory" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--minutes", "0"], ["--parts", "none"], ["--images", "/nowhere/at/all"]])
def test_settings_that_cannot_be_run_are_refused(
    given: list[str], script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.arguments(given)
    assert given[0] in capsys.readouterr().err


def test_a_step_without_a_graph_is_the_step_of_a_bare_loop(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("gpu_loops", "shadow_training", "training_settings")
    loops, shadow_training, settings = (imported(name, monkeypatch) for name in names)
    setting = replace(settings.DIGITS, records=40, batch_size=10, population=60)
    case = settings.make_case(setting, torch.device("cpu"), 2)
    bare, graphed = (train(case, [0, 1]) for train in (shadow_training.train_by_bare_loop, loops.train_by_graphs))
    for one, other in zip(bare, graphed, strict=True):
        for first, second in zip(one().parameters(), other().parameters(), strict=True):
            torch.testing.assert_close(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_rehearsed(part: str, tmp_path: Path, forks: Path) -> None:
    written = tmp_path / "gpu.json"
    printed = run("gpu", "--rehearse", "--minutes", "20", "--parts", part, "--json", str(written), forks=forks)
    content = json.loads(written.read_text())
    assert content["rehearsal"] is True
    *measured, done, end = content["measurements"]
    assert (done["what"], end["part"]) == ("done", "all")
    assert measured
    assert all(each["what"] in printed for each in measured)
