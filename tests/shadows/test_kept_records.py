"""Made shadow records in the store: what is not of their form is none."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mia_lightning.shadows.interface import Synthesis
from mia_lightning.shadows.kept import KeptSynthesis
from mia_lightning.store.artefacts import Store

RECORDS = Synthesis(
    x_M=torch.ones(2, 3), label_M=torch.tensor([0, 1]), num_queries=7, yield_C=torch.tensor([1, 1]), remarks=("made",)
)
FIELDS = {"num_queries": 7, "remarks": ["made"], "made": {"seed": 0}}
TENSORS = {"x_M": RECORDS.x_M, "label_M": RECORDS.label_M, "yield_C": RECORDS.yield_C}


@pytest.fixture
def kept(tmp_path: Path) -> KeptSynthesis:
    return KeptSynthesis(store=Store(dir=tmp_path / "store"), depends_on={"seed": 0})


def test_records_come_back(kept: KeptSynthesis) -> None:
    assert kept.find(pytest.fail) is None
    kept.keep(RECORDS)
    found = kept.find(pytest.fail)
    assert found is not None
    assert torch.equal(found.x_M, RECORDS.x_M)
    assert (found.num_queries, found.remarks, found.wanted_C) == (7, ("made",), None)


@pytest.mark.parametrize(
    ("fields", "tensors"),
    [
        ({"num_queries": -1}, {}),
        ({"num_queries": "7"}, {}),
        ({"remarks": "made"}, {}),
        ({"more": 1}, {}),
        ({}, {"label_M": None}),
        ({}, {"other": torch.ones(2)}),
    ],
)
def test_what_is_of_another_form_is_set_aside(
    fields: dict[str, object], tensors: dict[str, torch.Tensor | None], kept: KeptSynthesis
) -> None:
    kept.keep(RECORDS)
    (place,) = kept.store.places("syntheses")
    content = {name: each for name, each in (TENSORS | tensors).items() if each is not None}
    kept.store.put(place, FIELDS | fields, partial(save_file, content))
    told: list[str] = []
    assert kept.find(told.append) is None
    (sentence,) = told
    assert "is damaged" in sentence
    assert kept.store.places("syntheses") == []
