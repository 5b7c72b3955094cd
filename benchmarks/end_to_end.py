"""A whole audit of a network trained on Location, beside the same job done with the Adversarial Robustness Toolbox.

    python benchmarks/end_to_end.py --data /data/location [--shadows 60] [--rounds 3] [--json FILE] [--quick]

Both sides get the same records for the target's members, its non-members and the shadow models, the same networks
(446-128-30, tanh), epochs, batches and optimiser, and as many shadow models. Ours is the command

    mia-lightning dataset=location shadow.count=60 attack=shokri

with all that it writes; the other is `ShadowModels` and `MembershipInferenceBlackBox` of type `nn`
(`toolbox_audit.py`), in a virtual environment that this script makes (`--environment`, kept for the next time) and that
shares this one's torch. Each is a process of its own and they take turns; `seconds` is the median over rounds from
start to end of the process, imports included. AUC, TPR at 1 % FPR, precision and recall at a score of 0.5 are computed
here, by the same code, from the scores of both.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from this_machine import machine

from mia_lightning.datasets.location import load_location
from mia_lightning.metrics.roc import auc, tpr_at_fpr

TOOLBOX = "adversarial-robustness-toolbox==1.20.1"
HERE = Path(__file__).parent
OURS, THEIRS = "mia_lightning", "Adversarial Robustness Toolbox 1.20.1"
HEADER = ("audit", "seconds", "min to max", "times as fast", "AUC", "TPR at 1 % FPR", "precision", "recall")


def make_environment(folder: Path) -> Path:
    """The Python of an environment with the toolbox and its pins, and with the torch of this one; made if not there."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / "toolbox.txt"
    if not ready.is_file() or ready.read_text() != TOOLBOX:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", TOOLBOX], check=True, stdout=sys.stderr, stderr=sys.stderr
        )
        site = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        Path(site, "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        ready.write_text(TOOLBOX)
    return python


def run_ours(data: Path, shadows: int, epochs: int, folder: Path) -> float:
    """Seconds of `mia-lightning`, whose files go to `folder`."""
    command: list[str | Path] = [
        *(Path(sysconfig.get_path("scripts")) / "mia-lightning", "dataset=location", f"dataset.root={data}"),
        *("attack=shokri", f"shadow.count={shadows}", f"training.epochs={epochs}", f"hydra.run.dir={folder}"),
    ]
    return timed(command)


def timed(command: Sequence[str | Path]) -> float:
    """Seconds of a process; what it says is shown where it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds


def our_scores(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Record, membership and score of each judged record of our audit."""
    table = pq.read_table(folder / "scores.parquet").to_pydict()
    return {name: np.asarray(table[name]) for name in ("record", "is_member", "score")}


def task_of(ours: dict[str, np.ndarray[Any, Any]], data: Path, shadows: int, epochs: int) -> dict[str, Any]:
    """What the toolbox is given: the records of our target and of our shadow models' pool."""
    population = load_location(root=data)
    is_member = ours["is_member"].astype(bool)
    judged = ours["record"]
    return {
        "x": population.x_N.numpy(),
        "label": population.label_N.numpy(),
        "member": judged[is_member],
        "nonmember": judged[~is_member],
        "pool": np.setdiff1d(np.arange(len(population)), judged),
        **{"hidden": 128, "epochs": epochs, "batch_size": 100, "lr": 0.005, "shadows": shadows, "seed": 0},
    }


def row(name: str, seconds: Sequence[float], slowest: float, score: Any, is_member: Any) -> tuple[str, ...]:
    """One line of the table."""
    score_M = torch.as_tensor(np.asarray(score, dtype=np.float64))
    is_member_M = torch.as_tensor(np.asarray(is_member, dtype=bool))
    flagged_M = score_M >= 0.5
    median = statistics.median(seconds)
    found = (flagged_M & is_member_M).sum().double()
    return (
        *(name, f"{median:.1f}", f"{min(seconds):.1f} to {max(seconds):.1f}", f"{slowest / median:.1f}"),
        *(f"{auc(score_M, is_member_M):.3f}", f"{tpr_at_fpr(score_M, is_member_M, max_fpr=0.01).tpr:.3f}"),
        *(f"{found / flagged_M.sum().clamp(min=1):.3f}", f"{found / is_member_M.sum():.3f}"),
    )


def main(given: Sequence[str] | None = None) -> int:
    """Run, print the table as Markdown, and write it as JSON where asked; 0."""
    options = arguments(given)
    shadows, epochs, rounds = (2, 1, 1) if options.quick else (options.shadows, options.epochs, options.rounds)
    python = make_environment(options.environment)
    about = machine(torch.device("cpu"))
    our_seconds, their_seconds = [], []
    stages: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for _ in range(rounds):
            our_seconds.append(run_ours(options.data, shadows, epochs, folder / "ours"))
            ours = our_scores(folder / "ours")
            np.savez(folder / "task.npz", **task_of(ours, options.data, shadows, epochs))
            answer = folder / "answer.json"
            their_seconds.append(timed([python, HERE / "toolbox_audit.py", folder / "task.npz", answer]))
            theirs = json.loads(answer.read_text())
            stages = theirs["seconds"]
    slowest = statistics.median(their_seconds)
    num_members = int(ours["is_member"].sum())
    their_members = np.arange(len(theirs["score"])) < num_members  # members first, as the task has them
    table = [
        row(THEIRS, their_seconds, slowest, theirs["score"], their_members),
        row(OURS, our_seconds, slowest, ours["score"], ours["is_member"]),
    ]
    print(about)
    print(f"{shadows} shadow models, {epochs} epochs, {rounds} rounds; of the toolbox's last round:", end=" ")
    print(", ".join(f"{name} {value:.1f} s" for name, value in stages.items()))
    for line in (HEADER, ("---",) * len(HEADER), *table):
        print(f"| {' | '.join(line)} |")
    if options.json:
        content = {
            "machine": about,
            "seconds": {OURS: our_seconds, THEIRS: their_seconds},
            "table": [dict(zip(HEADER, line, strict=True)) for line in table],
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    return 0


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data/location"), help="folder of dataset_location.tgz")
    parser.add_argument("--shadows", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the table and all times")
    parser.add_argument("--environment", type=Path, default=Path("build/toolbox"), help="virtual environment to use")
    parser.add_argument("--quick", action="store_true", help="two shadow models for one epoch, to test the script")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
