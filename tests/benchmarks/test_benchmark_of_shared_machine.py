"""The benchmark of shared machines runs, and its ratios are of what it says; no time is asserted."""

import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from benchmark_scripts import cells, imported, run


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("shared_machine", monkeypatch)


@pytest.mark.slow
def test_the_quick_run_makes_every_run_and_their_figures_agree(script: ModuleType, tmp_path: Path, forks: Path) -> None:
    printed = run(
        "shared_machine", "--quick", "--json", str(tmp_path / "shared.json"), seconds=500, forks=forks
    ).splitlines()
    assert "threads, torch" in printed[0]
    header, _, *body = [cells(line) for line in printed if line.startswith("|")]
    assert header == list(script.HEADER)
    expected = list(script.variants(quota=False, before=False))
    assert [line[0] for line in body] == [f"default command: {name}" for name in expected]
    content = json.loads((tmp_path / "shared.json").read_text())["default command"]
    assert list(content["seconds"]) == expected
    assert [f"{seconds:.1f}" for (seconds,) in content["seconds"].values()] == [line[1] for line in body]
    assert len(content["auc"]) == len(expected)


def test_each_ratio_is_to_what_it_is_compared_with(script: ModuleType) -> None:
    seconds = dict(
        zip(script.variants(quota=True, before=True), ([2.0, 4.0, 3.0], [2], [6], [99], [5], [10]), strict=True)
    )
    assert [(line[0], line[1], *line[3:]) for line in script.table_of("x", seconds)] == [
        ("x: alone", "3.0", "1.50", "1.03", "alone, all"),
        ("x: alone, all", "2.0", "0.67", "–", "alone"),
        ("x: beside", "6.0", "2.00", "3.0", "alone"),
        ("x: beside, all", "99.0", "16.50", "–", "beside"),
        ("x: quota", "5.0", "0.50", "1.1", "quota, one"),
        ("x: quota, one", "10.0", "3.33", "–", "alone"),
    ]


def test_figures_that_differ_are_named(script: ModuleType) -> None:
    assert script.broken([[0.7, 0.6], [0.7, 0.6 + 1e-9]]) is None
    assert "0.1" in script.broken([[0.7, 0.6], [0.7, 0.5]])


def test_busy_loops_end_with_what_they_were_started_for(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        started.append(popen(command))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)

    def fail() -> None:
        with script.busy_loops():
            assert [each.poll() for each in started] == [None] * script.CORES
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(each.poll() is not None for each in started)


def test_a_quota_is_entered_by_its_command_and_removed(script: ModuleType) -> None:
    if not script.has_quota():
        pytest.skip("no cgroup with a quota can be made here")
    with script.quota_of_one_core() as within:
        done = subprocess.run([*within, "cat", "/proc/self/cgroup"], capture_output=True, text=True, check=True)
        assert "mia_lightning_" in done.stdout
    assert not list(script.ROOT.glob("**/mia_lightning_*"))
