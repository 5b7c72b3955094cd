"""The benchmark of the store runs, and what it prints hangs together; no time is asserted."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from benchmark_scripts import cells, imported, run

import mia_lightning as mia
from mia_lightning.models.mlp import MLP


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("store", monkeypatch)


@pytest.mark.slow
def test_the_quick_run_prints_a_row_for_each_run(script: ModuleType, tmp_path: Path, forks: Path) -> None:
    printed = run("store", "--quick", "--json", str(tmp_path / "store.json"), forks=forks).splitlines()
    assert "threads, torch" in printed[0]
    header, _, *body = [cells(line) for line in printed if line.startswith("|")]
    assert header == list(script.HEADER)
    assert [(line[0], *line[-2:]) for line in body] == [
        ("without a store", "–", "–"),
        ("an empty store", "0", "5"),
        ("a second attack", "5", "0"),
    ]
    written = json.loads((tmp_path / "store.json").read_text())
    for line in body:
        (one,) = written["runs"][line[0]]
        assert (line[1], line[3]) == (f"{one['first_score']:.2f}", f"{one['seconds']:.2f}")
        assert 0 < one["first_score"] < one["seconds"]
        assert one["scores"] == 200  # members and non-members of one target
    kept, plain = (written["runs"][name][0]["seconds"] for name in (script.EMPTY, script.WITHOUT))
    assert written["overhead"] == [pytest.approx(kept / plain - 1)]


def ended(script: ModuleType, seconds: float = 1.0, **counts: Any) -> Any:
    given = {"first_score": seconds / 2, "found": {}, "trained": {}, "scores": [0.5], **counts}
    return script.Ended(seconds=seconds, **given)


def test_the_overhead_compares_the_runs_of_one_round(script: ModuleType) -> None:
    runs = {
        script.WITHOUT: [ended(script, 10.0), ended(script, 20.0)],
        script.EMPTY: [ended(script, 11.0), ended(script, 19.0)],
    }
    assert script.overheads(runs) == pytest.approx([0.1, -0.05])
    assert script.row("x", runs[script.EMPTY])[:5] == ("x", "7.50", "5.50 to 9.50", "15.00", "11.00 to 19.00")


def test_a_result_that_is_not_as_it_must_be_is_named(script: ModuleType) -> None:
    plain = ended(script)
    empty = ended(script, found={"target": 0, "shadow": 0}, trained={"target": 1, "shadow": 4})
    second = ended(script, found={"target": 1, "shadow": 4}, trained={"target": 0, "shadow": 0}, scores=[0.1])
    good = {script.WITHOUT: [plain], script.EMPTY: [empty], script.SECOND: [second]}
    assert script.broken(good, 5) is None
    assert "scores" in script.broken({**good, script.EMPTY: [replace(empty, scores=[0.6])]}, 5)
    assert "empty store" in script.broken({**good, script.EMPTY: [replace(second, scores=[0.5])]}, 5)
    assert "second attack" in script.broken({**good, script.SECOND: [empty]}, 5)
    assert "empty store" in script.broken(good, 6)


def test_a_timed_attack_is_the_attack_with_a_clock(
    script: ModuleType, blobs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    timed = importlib.import_module("timed_attack")
    clock = tmp_path / "clock"
    monkeypatch.setenv(timed.CLOCK, str(clock))
    settings = {
        "model": lambda: MLP(input_shape=(6,), num_classes=3, hidden=[4]),
        "membership": mia.Disjoint(train_size=20),
        "shadow": mia.Real(count=4),
        "training": mia.Recipe(epochs=2, batch_size=20, optimizer=lambda p: torch.optim.Adam(p, lr=0.02)),
        "trainer": mia.TrainerSettings(accelerator="cpu"),
        "store": None,
    }
    plain = mia.audit(blobs, attacks=[mia.Loss()], **settings)
    assert not clock.exists()
    report = mia.audit(blobs, attacks=[timed.Timed(attack=mia.Loss())], **settings)
    assert float(clock.read_text()) > 1e9
    assert report.scores.score.tolist() == plain.scores.score.tolist()
    assert report.scores.is_flagged.tolist() == plain.scores.is_flagged.tolist()
    assert report.attacks[0].model_dump() == plain.attacks[0].model_dump()
