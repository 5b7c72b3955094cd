"""The architecture that fits records of a form, where nobody has chosen one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Call
from formed import pictures_population, table_population, text_population

from mia_lightning.command.job import Job
from mia_lightning.datasets.population import make_population
from mia_lightning.models.by_form import fitting

RUN = ["logger=none", "shadow.count=2", "training.epochs=2", "attack=loss", "trainer.accelerator=cpu", "store.dir=null"]
PICTURES = ["dataset._target_=formed.pictures_population", "~dataset.name", "dataset.train_size=30"]


@pytest.mark.parametrize(
    ("population", "name"),
    [
        (table_population, "tabular"),
        (text_population, "text_cnn"),
        (pictures_population, "cnn"),
        (
            lambda: make_population(torch.zeros(4, 9), [0, 1, 0, 1], kinds={"kind": "waveform", "sample_rate": 8}),
            "audio_cnn",
        ),
        (lambda: make_population({"a": torch.zeros(4, 2)}, [0, 1, 0, 1]), "tabular"),
        (
            lambda: make_population(
                {"a": torch.zeros(4, 2), "ids": torch.zeros(4, 3).long()}, [0, 1, 0, 1], kinds={"ids": "tokens"}
            ),
            None,
        ),
        (lambda: make_population(torch.zeros(4, 3).long(), [0, 1, 0, 1], kinds="category"), None),
    ],
)
def test_the_form_chooses(population: Any, name: str | None) -> None:
    form = population().form
    assert form is not None
    assert fitting(form) == name


def test_the_run_says_what_was_chosen_and_repeats_it(call: Call, tmp_path: Path) -> None:
    result = call(*PICTURES, *RUN, "hydra.run.dir=here")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "here" / "report.json").read_text())
    assert report["run"]["config"]["model"]["_target_"] == "mia_lightning.models.cnn.CNN"
    assert any("cnn" in each and "`model`" in each for each in report["warnings"])
    again = Job(report["run"]["config"])
    assert again.content["model"]["channels"] == [32, 32]


def test_a_model_that_was_typed_is_kept(call: Call, tmp_path: Path) -> None:
    result = call(*PICTURES, "model=mlp", *RUN, "hydra.run.dir=here")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "here" / "report.json").read_text())
    assert report["run"]["config"]["model"]["_target_"] == "mia_lightning.models.mlp.MLP"


def test_a_form_that_no_architecture_takes_is_refused(call: Call, tmp_path: Path) -> None:
    result = call("dataset._target_=formed.mixed_population", *PICTURES[1:], *RUN, "hydra.run.dir=here")
    assert result.returncode == 2, result.stderr
    for part in ("`model`", "mixed", "tokens", "model=custom"):
        assert part in result.stderr
