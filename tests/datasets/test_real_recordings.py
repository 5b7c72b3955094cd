"""Real recordings: read as scipy and soundfile read them, and audited by the command."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
from command_line import Call
from klettres import klettres

from mia_lightning.datasets.audio import load_audio

pytestmark = pytest.mark.slow

LANGUAGES = ("es", "it", "ru")


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """A table of the letters and syllables of three languages."""
    sounds = klettres()
    place = tmp_path / "letters.csv"
    with place.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "language"])
        for language in LANGUAGES:
            table.writerows([sound, language] for sound in sorted((sounds / language).rglob("*.ogg")))
    return place


def test_every_thirtieth_letter_is_what_scipy_makes_of_the_whole_file(letters: Path) -> None:
    population = load_audio(
        path=letters, path_column="file", label_column="language", sample_rate=8000, seconds=0.5, name="letters"
    )
    assert population.class_names == LANGUAGES
    assert len(population) > 300
    for number in range(0, len(population), 30):
        name = population.record_names[number]
        sound, rate = soundfile.read(name, always_2d=True)
        assert population.class_names[int(population.label_N[number])] == Path(name).parts[-3]
        shared = np.gcd(rate, 8000)
        whole = scipy.signal.resample_poly(sound.mean(1), 8000 // shared, rate // shared) * 2**15
        expected = np.zeros(4000)
        expected[: min(4000, len(whole))] = np.rint(whole[:4000])
        np.testing.assert_allclose(population.x_N[number].numpy(), expected, atol=1)  # the decoder rounds


def test_an_audit_of_letters_by_the_command(letters: Path, call: Call, tmp_path: Path) -> None:
    ended = call(
        *("dataset=audio", f"dataset.path={letters}", "dataset.path_column=file", "dataset.label_column=language"),
        *("dataset.sample_rate=8000", "dataset.seconds=0.5", "dataset.train_size=60", "model=audio_cnn"),
        *("shadow.count=4", "training.epochs=15", "attack=[loss,lira_offline]", "logger=none", "hydra.run.dir=run"),
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["target"]["train_accuracy"] > 0.9
    assert report["target"]["test_accuracy"] > 0.6  # a third by chance
    assert len(report["attacks"]) == 2
    assert any("resampled to 8000 Hz" in each for each in report["warnings"])
