"""The benchmark of a user's LightningModule runs, and its variants do the same work; no time is asserted."""

import json
from pathlib import Path

import pytest
from benchmark_scripts import cells, run


@pytest.mark.slow
def test_the_quick_run_has_a_row_for_each_variant(tmp_path: Path, forks: Path) -> None:
    file = tmp_path / "measured.json"
    lines = run("lightning_module", "--quick", "--markdown", "--json", str(file), forks=forks).splitlines()
    table = [cells(line) for line in lines if line.startswith("|") and "---" not in line]
    assert [row[:2] for row in table[1:]] == [
        [setting, variant]
        for setting in ("location", "mnist")
        for variant in ("trainer loop", "own step, 2", "plain, 2")
    ]
    measured = json.loads(file.read_text())
    assert "threads" in measured["machine"]
    for variant, row in zip(measured["variants"], table[1:], strict=True):
        assert float(row[2]) == pytest.approx(variant["seconds"], rel=1e-3)
    for setting in ("location", "mnist"):  # of equal work, at quick sizes roughly
        losses = [each["losses"][0] for each in measured["variants"] if each["setting"] == setting]
        assert max(losses) < 1.5 * min(losses)
