"""What the tests of the command run, and how a refusal looks."""

import json
import subprocess
from pathlib import Path

from command_line import Ended

QUICK = ["logger=none", "shadow.count=4", "training.epochs=8", "dataset.train_size=60", "trainer.accelerator=cpu"]

DATASETS = (
    "adult, audio, cifar10, cifar100, csv, datamodule, diabetes, digits, images, location, mnist, npz, purchase, "
    "table, texas, text"
)

QUICKER = [*QUICK, "attack=loss", "shadow.count=2", "training.epochs=2"]


def refused(result: Ended | subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("mia-lightning: ")
    assert "Traceback" not in result.stderr + result.stdout
    assert len(result.stderr.strip().splitlines()) == 1
    for part in parts:
        assert part in result.stderr


def reports(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("report.json"))]
