"""Sweeps that are killed at any write and started again end with the files of one that nobody disturbed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mia_lightning.sweep.rows import has_result, summarise
from mia_lightning.sweep.runs import Outcome, digest_of


@pytest.mark.slow
def test_killed_and_started_again_a_sweep_ends_with_the_same_scores_to_the_bit(tmp_path: Path) -> None:
    """Two sweeps of two runs, each killed up to twice while it writes to its folders or to the store."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed_sweeps.py")), str(tmp_path), "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["sweeps"]
    assert sum(phase == "writing" for each in found for phase in each["killed"]) >= 2
    undisturbed = tmp_path / "undisturbed" / "sweep"
    for each in found:
        sweep = tmp_path / str(each["seed"]) / "sweep"
        assert "Traceback" not in (sweep.parent / "stderr.txt").read_text()
        for run in ("0", "1"):
            assert has_result(sweep / run)
            assert Outcome.of(sweep / run) == Outcome(exit_code=0)
            assert digest_of(sweep / run) == digest_of(undisturbed / run)
            scores = [pq.read_table(folder / run / "scores.parquet") for folder in (sweep, undisturbed)]
            assert scores[0].equals(scores[1]), each
        assert len(summarise([sweep / "0", sweep / "1"])) == 2
        assert sorted(path.name for path in sweep.iterdir()) == sorted(path.name for path in undisturbed.iterdir())
