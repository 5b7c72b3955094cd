"""Every architecture of the package on records of every form: it runs, or one sentence says what it takes."""

from functools import partial
from typing import Any

import pytest
import torch
from formed import full_table, mixed_population, pictures_population, table_population, text_population
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor, nn

import mia_lightning as mia
from mia_lightning.command.mistakes import config_directory
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.models.audio_cnn import AudioCNN
from mia_lightning.models.text_cnn import TextCNN
from mia_lightning.training.stack.architecture import inspect_architecture
from mia_lightning.training.stack.binding import bind_records

LABELS = [0, 1] * 30


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def population(*shape: int, **options: Any) -> Population:
    return make_population(drawn(60, *shape), LABELS, name="given", **options)


def with_gaps() -> Population:
    x = drawn(60, 5)
    x[::7, 2] = torch.nan
    return make_population(x, LABELS, name="given", kinds={"kind": "numeric", "has_gaps": True})


def codes_alone() -> Population:
    return make_population(torch.arange(60)[:, None] % 7, LABELS, name="given", kinds="category")


def two_tables() -> Population:
    x = {"age": drawn(60, 1), "pressure": drawn(60, 2).double(), "ward": torch.arange(60)[:, None] % 4}
    return make_population(x, LABELS, name="given", kinds={"ward": "category"})


FORMS = {
    "numbers": lambda: population(5),
    "pixels": lambda: population(1, 8, 8),
    "numbers, said": lambda: population(5, kinds="numeric"),
    "images": pictures_population,
    "gaps": with_gaps,
    "texts": text_population,
    "recordings": lambda: population(4000, kinds={"kind": "waveform", "sample_rate": 8000}),
    "codes": codes_alone,
    "table": table_population,
    "table without gaps": full_table,
    "several tensors": two_tables,
    "numbers and texts": mixed_population,
}
OF_NUMBERS = {"numbers", "pixels", "numbers, said", "images", "recordings"}
OF_IMAGES = {"pixels", "images"}
TAKEN = {
    "mlp": OF_NUMBERS,
    "relu_mlp": OF_NUMBERS,
    "logistic_regression": OF_NUMBERS,
    "cnn": OF_IMAGES,
    "resnet18": OF_IMAGES,
    "wide_resnet28_2": OF_IMAGES,
    "vit": OF_IMAGES,
    "text_cnn": {"texts"},
    "text_transformer": {"texts"},
    "audio_cnn": {"recordings"},
    "tabular": {
        "numbers",
        "pixels",
        "numbers, said",
        "gaps",
        "codes",
        "table",
        "table without gaps",
        "several tensors",
    },
}
SMALL = {
    "resnet18": {"width": 2},
    "wide_resnet28_2": {"depth": 10, "widen": 1},
    "vit": {"depth": 1, "width": 8, "heads": 2},
    "text_transformer": {"depth": 1},
    "audio_cnn": {"channels": [4, 4]},
}


def made(name: str) -> Any:
    node: Any = OmegaConf.load(config_directory() / "model" / f"{name}.yaml")
    return partial(get_class(node._target_), **SMALL.get(name, {}))


def test_every_architecture_is_here() -> None:
    assert {*TAKEN, "custom", "lightning"} == {path.stem for path in (config_directory() / "model").glob("*.yaml")}


@pytest.mark.costly
@pytest.mark.usefixtures("global_generators")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TAKEN)
def test_it_runs_or_says_what_it_takes(name: str, form: str) -> None:
    records, make = FORMS[form](), made(name)
    if form in TAKEN[name]:
        make_network = bind_records(make, records)
        assert inspect_architecture(make_network, records).name == make.func.__name__
        return
    with pytest.raises(InputError) as refused:
        _ = bind_records(make, records)()
    sentence = str(refused.value)
    assert "`model`" in sentence or f"model={name.replace('relu_', '')} " in sentence
    assert "use model=" in sentence or "model=custom" in sentence
    if records.form is not None and name not in ("cnn", "resnet18", "wide_resnet28_2", "vit"):
        assert make.func.__name__ in sentence
        assert records.form.words in sentence


@pytest.mark.parametrize("form", ["gaps", "texts", "recordings", "table", "images"])
def test_the_architecture_that_it_names_takes_the_records(form: str) -> None:
    records = FORMS[form]()
    wrong = TextCNN if form != "texts" else AudioCNN
    with pytest.raises(InputError, match=r"use model=(?P<name>\w+)") as refused:
        bind_records(wrong, records)
    name = str(refused.value).split("use model=")[1].split(",")[0]
    assert form in TAKEN[name]


def test_settings_of_a_form_may_be_given_in_its_place() -> None:
    records = population(4000)
    assert inspect_architecture(bind_records(partial(AudioCNN, sample_rate=8000), records), records)
    with pytest.raises(InputError, match=r"AudioCNN.*recordings.*`kinds`"):
        bind_records(AudioCNN, records)


@pytest.mark.usefixtures("global_generators")
def test_a_class_of_somebody_else_is_asked_for_itself() -> None:
    class OfNumbers(TextCNN):
        def __init__(self, num_classes: int) -> None:
            super().__init__(vocabulary_size=10, num_classes=num_classes)
            self.head = nn.Linear(5, num_classes)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x) + 0 * self.logits.weight.sum()

    records = population(5)
    assert bind_records(OfNumbers, records)()(records.records(torch.arange(2))).shape == (2, 2)


def test_it_is_said_before_anything_is_trained() -> None:
    with pytest.raises(InputError, match=r"TextCNN.*tokens"):
        mia.audit(population(5), model=TextCNN, shadow=mia.Real(count=2))
    with pytest.raises(InputError, match=r"MLP.*without gaps.*tokens"):
        mia.audit(text_population(), model=made("mlp"), shadow=mia.Real(count=2))
