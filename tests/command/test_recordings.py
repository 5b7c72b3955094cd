"""`dataset=audio` by the command, with a number as the label."""

import csv
import json
import wave
from pathlib import Path

import numpy as np
import pytest
from command_line import Call


@pytest.mark.slow
def test_numbers_are_predicted_from_recordings(call: Call, tmp_path: Path) -> None:
    """The pitch of a tone can be learnt; a number that is missing is named."""
    draw, seconds = np.random.default_rng(0), np.arange(2000) / 8000
    rows = []
    for i in range(80):
        pitch = 300 + 600 * draw.random()
        sound = 0.3 * np.sin(2 * np.pi * pitch * seconds) + 0.1 * draw.normal(size=2000)
        with wave.open(str(tmp_path / f"{i}.wav"), "wb") as out:
            out.setparams((1, 2, 8000, 0, "NONE", ""))
            out.writeframes((sound * 2**14).astype("<i2").tobytes())
        rows.append([f"{i}.wav", f"{pitch:.2f}"])

    def write(rows: list[list[str]]) -> None:
        with (tmp_path / "list.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["file", "pitch"], *rows])

    typed = ["dataset=audio", "task=regression", "dataset.path=list.csv", "dataset.path_column=file"]
    typed += ["dataset.label_column=pitch", "dataset.sample_rate=8000", "dataset.seconds=0.25", "dataset.train_size=20"]
    typed += ["shadow.count=2", "training.epochs=15", "attack=loss", "logger=none", "trainer.accelerator=cpu"]
    typed += ["hydra.run.dir=run"]
    write(rows)
    ended = call(*typed)
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["task"]["name"], report["task"]["utility"]) == ("regression", "R²")
    assert (report["target"]["architecture"], report["dataset"]["values"]) == ("AudioCNN", ["pitch"])
    assert report["target"]["test_accuracy"] > 0.3
    write([*rows[:-1], [rows[-1][0], ""]])
    ended = call(*typed)
    assert ended.returncode == 2
    assert "pitch" in ended.stderr
