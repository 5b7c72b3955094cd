"""The architecture that fits records of a form, where nobody has chosen one."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Call
from formed import mixed_population, pictures_population, table_population, text_population
from omegaconf import OmegaConf
from sklearn.tree import DecisionTreeClassifier

import mia_lightning as mia
from mia_lightning.command.job import Job
from mia_lightning.command.mistakes import config_directory
from mia_lightning.datasets.population import make_population
from mia_lightning.errors import InputError
from mia_lightning.models.by_form import ARCHITECTURES, fitting
from mia_lightning.models.text_cnn import TextCNN
from mia_lightning.seeds import isolated

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


QUICK: dict[str, Any] = {
    "membership": mia.Halves(),
    "shadow": mia.Real(count=2),
    "training": mia.Recipe(epochs=2),
    "trainer": mia.TrainerSettings(accelerator="cpu"),
    "attacks": [mia.Loss()],
}


@pytest.mark.slow
def test_from_python_it_is_what_the_command_line_chooses() -> None:
    report = mia.audit(text_population(), **QUICK)
    assert report.target.architecture == report.shadow.architecture == "TextCNN"
    assert any("`model` is not set" in each and "text_cnn" in each for each in report.warnings)
    chosen = mia.audit(text_population(), model=TextCNN, **QUICK)
    assert not any("`model` is not set" in each for each in chosen.warnings)
    assert report.attacks[0].overall.auc == chosen.attacks[0].overall.auc


def test_the_configuration_of_the_report_names_what_was_chosen() -> None:
    audit = mia.Audit(text_population(), config={"seed": 0}, **QUICK)
    assert audit.config == {"model": {"_target_": "mia_lightning.models.text_cnn.TextCNN"}, "seed": 0}
    assert mia.Audit(text_population(), **QUICK).config == {}
    assert mia.Audit(text_population(), model=TextCNN, config={"seed": 0}, **QUICK).config == {"seed": 0}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_are_those_of_the_configuration(name: str) -> None:
    node = OmegaConf.to_container(OmegaConf.load(config_directory() / "model" / f"{name}.yaml"))
    assert isinstance(node, dict)
    made = ARCHITECTURES[name]
    assert node.pop("_target_") == f"{made.__module__}.{made.__qualname__}"  # type: ignore[attr-defined]
    default = {each: value.default for each, value in inspect.signature(made).parameters.items()}
    assert node == {each: list(v) if isinstance(v := default[each], tuple) else v for each in node}


def test_where_nothing_chooses_it_is_asked_for() -> None:
    with pytest.raises(InputError) as refused:
        mia.Audit(mixed_population(), **QUICK)
    assert all(each in str(refused.value) for each in ("`model`", "mixed", "tokens", "model=custom"))
    member_N = torch.arange(120) < 60
    with isolated(0, "network"):
        network = TextCNN(vocabulary_size=30, num_classes=3)
    with pytest.raises(InputError, match="`model` is not set; give"):
        mia.Audit(text_population(), target=network, **{**QUICK, "membership": mia.Given(member_N=member_N)})


def test_no_network_is_chosen_where_none_is_trained() -> None:
    audit = mia.Audit(table_population(), target=mia.Estimator(DecisionTreeClassifier), **QUICK)
    assert not audit.uses_networks
    assert not any("`model`" in each for each in audit.population.remarks)
