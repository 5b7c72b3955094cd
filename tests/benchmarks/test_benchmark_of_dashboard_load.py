"""The benchmark of the dashboard runs, and its page is one that the package would make; no time is asserted."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
from chromium import chromium

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("dashboard_load")


@pytest.mark.slow
def test_the_quick_run_waits_for_everything(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chromium():
        pass  # skipped where there is no browser
    assert script.main(["--quick", "--json", str(tmp_path / "times.json"), "--page", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")][2:] == list(
        script.MEASURED
    )
    found = json.loads((tmp_path / "times.json").read_text())
    assert found["runs"] == 60
    seconds = {name: each[0] for name, each in found["seconds"].items()}
    assert 0 < seconds["table"] <= seconds["usable"] <= seconds["complete"]


def test_the_page_holds_the_runs(script: ModuleType) -> None:
    page = script.page_of(24)
    content = json.loads(page.partition('<script type="application/json" id="content">')[2].partition("</script>")[0])
    assert len(content["runs"]) == 24
    assert len(content["settings"]) == 4
    for run in content["runs"]:
        assert [content["attacks"][attack["attack"]] for attack in run["attacks"]] == list(script.ATTACKS)
        assert all(figure is not None for attack in run["attacks"] for figure in attack["figures"])
        assert all(len(attack["roc"][1]) == len(content["grid"]) - attack["roc"][0] for attack in run["attacks"])


def test_missing_points_end_it_with_one(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {name: [1.0] for name in script.MEASURED}
    monkeypatch.setattr(script, "measure", lambda page, rounds: (measured, 59, "1"))
    assert script.main(["--quick"]) == 1
    assert "59 points, not 60" in capsys.readouterr().err
