"""Audits that are killed at any moment and started again end with the scores of one that nobody disturbed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mia_lightning.reports.files import read_report

SEEDS = 30


@pytest.mark.slow
def test_killed_and_started_again_a_run_ends_with_the_same_scores_to_the_bit(tmp_path: Path) -> None:
    """30 runs, each killed up to three times: half at random moments, half while they train, write or score."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed_runs.py")), str(tmp_path), str(SEEDS)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    phases = [phase for run in found["runs"] for phase in run["killed"]]
    assert sum(bool(run["killed"]) for run in found["runs"]) >= 20  # the others ended before their moment came
    assert min(phases.count(phase) for phase in ("training", "writing", "scoring")) >= 3, phases
    undisturbed = tmp_path / "undisturbed" / "run"
    scores, report = pq.read_table(undisturbed / "scores.parquet"), read_report(undisturbed)
    for run in found["runs"]:
        folder = tmp_path / str(run["seed"]) / "run"
        assert pq.read_table(folder / "scores.parquet").equals(scores), run
        assert read_report(folder).attacks == report.attacks, run
        assert not list((tmp_path / str(run["seed"]) / "store" / "running").glob("*.json"))
