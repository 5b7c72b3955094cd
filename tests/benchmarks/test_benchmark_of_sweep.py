"""The benchmark of sweeps runs, and what it prints hangs together; no time is asserted."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from benchmark_scripts import cells, imported, run


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("sweep", monkeypatch)


@pytest.mark.slow
def test_the_quick_run_trains_two_stacks_for_twelve_runs(script: ModuleType, tmp_path: Path, forks: Path) -> None:
    printed = run("sweep", "--quick", "--json", str(tmp_path / "sweep.json"), seconds=500, forks=forks).splitlines()
    assert "threads, torch" in printed[0]
    header, _, *body = [cells(line) for line in printed if line.startswith("|")]
    assert header == list(script.HEADER)
    # 2 stacks of a target and 4 shadow models; the other 10 runs find all 5.
    assert [(line[0], *line[-3:]) for line in body] == [
        ("each from nothing", "–", "–", "–"),
        ("one store", "2", "10", "50"),
    ]
    (shared,) = json.loads((tmp_path / "sweep.json").read_text())["sweeps"][script.SHARED]
    assert len(shared["figures"]) == 12
    assert len({tuple(figures) for figures in shared["figures"].values()}) > 2  # attacks and defences make a difference
    assert body[1][1] == f"{shared['seconds']:.1f}"


def report(auc: float, **store: tuple[int, int]) -> dict[str, Any]:
    models = {role: {"found": found, "trained": trained} for role, (found, trained) in store.items()}
    overall = {"auc": {"value": auc}, "advantage": {"value": auc - 0.5}}
    return {"run": {"store": models}, "attacks": [{"overall": overall}]}


def test_stacks_and_models_are_counted_over_the_runs(script: ModuleType) -> None:
    reports = {
        "0": report(0.6, target=(0, 1), shadow=(0, 8)),
        "1": report(0.7, target=(1, 0), shadow=(8, 0)),
        "2": report(0.8, target=(1, 0), shadow=(5, 3)),
    }
    swept = script.summed(2.0, reports)
    assert (swept.stacks_trained, swept.trained, swept.found) == (2, 12, 15)
    assert swept.figures == {"0": (0.6, 0.6 - 0.5), "1": (0.7, 0.7 - 0.5), "2": (0.8, 0.8 - 0.5)}
    plain = script.summed(4.0, {name: report(0.6) for name in reports})
    assert (plain.stacks_trained, plain.trained, plain.found) == (None, None, None)
    assert script.row("x", [swept], 4.0) == ("x", "2.0", "2.0 to 2.0", "2.00", "2", "12", "15")
    assert script.row("y", [plain], 4.0)[3:] == ("1.00", "–", "–", "–")


def test_a_result_that_is_not_as_it_must_be_is_named(script: ModuleType) -> None:
    shared = script.Swept(seconds=1.0, stacks_trained=4, trained=20, found=100, figures={"0": (0.6, 0.1)})
    nothing = replace(shared, stacks_trained=None, trained=None, found=None)
    good = {script.NOTHING: [nothing], script.SHARED: [shared]}
    assert script.broken(good, 2) is None
    assert "5 stacks" in script.broken({**good, script.SHARED: [replace(shared, stacks_trained=5)]}, 2)
    assert "figures" in script.broken({**good, script.SHARED: [replace(shared, figures={"0": (0.7, 0.1)})]}, 2)
