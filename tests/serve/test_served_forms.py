"""Networks for texts, recordings and tables behind `mia-serve`, and what the protocols cannot send."""

import json
import shlex
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from command_line import Call
from formed import Columns, table_population
from quick import quick_audit
from serving import served

import mia_lightning as mia
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.models.tabular import Tabular
from mia_lightning.serve.command import prepare
from mia_lightning.serve.run import next_command, served_model
from mia_lightning.targets.endpoints.open_inference import OpenInference
from mia_lightning.targets.endpoints.predict_v1 import PredictV1

QUICK = ("dataset.train_size=30", "shadow.count=2", "training.epochs=2", "trainer.accelerator=cpu", "logger=none")


SMALL = ("model=text_cnn", "model.channels=4", "model.width=4")


def texts() -> list[str]:
    draw = np.random.default_rng(0)
    with open("texts.jsonl", "w") as file:
        for i in range(90):
            words = " ".join(draw.choice(["good", "bad", "so", "such", f"word{i}"], 6))
            file.write(json.dumps({"text": words, "label": ["kind", "rude"][i % 2]}) + "\n")
    return ["dataset=text", "dataset.path=texts.jsonl", "dataset.max_tokens=8", "task=binary", *SMALL]


def recordings() -> list[str]:
    draw = np.random.default_rng(0)
    for i in range(90):
        file = Path("words") / "ab"[i % 2] / f"{i}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(file), "wb") as out:
            out.setparams((1, 2, 8000, 0, "NONE", ""))
            out.writeframes((draw.normal(size=2000) * 2**12).astype("<i2").tobytes())
    return ["dataset=audio", "dataset.path=words", "dataset.sample_rate=8000", "dataset.seconds=0.25"]


def table(*, gaps: bool = False) -> list[str]:
    draw = np.random.default_rng(0)
    with open("table.csv", "w") as file:
        file.write("age,pressure,ward,label\n")
        for i in range(90):
            age = "" if gaps and i % 9 == 0 else draw.integers(20, 90)
            file.write(f"{age},{draw.normal():.3f},{'ABC'[i % 3]},{'ny'[i % 2]}\n")
    return ["dataset=table", "dataset.path=table.csv", "dataset.label_column=label"]


def scores(folder: Path) -> dict[int, float]:
    """Those of the loss attack, which reads the target's own answers alone, by the number of the record."""
    table = pq.read_table(folder / "scores.parquet")
    return dict(zip(table["record"].to_pylist(), table["score"].to_pylist(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("make", [texts, recordings, table])
def test_the_command_that_it_prints_finds_the_scores_of_the_model_in_memory(
    call: Call, tmp_path: Path, make: Any
) -> None:
    ended = call(*make(), *QUICK, "attack=loss", "save_models=true", "hydra.run.dir=run")
    assert ended.returncode == 0, ended.stderr
    model = served_model(tmp_path / "run")
    assert model.population.form is not None
    assert model.population.form.words in model.describe()
    assert not model.warnings
    with served(str(tmp_path / "run")) as client:
        command = next_command(
            tmp_path / "run", model, str(client.base_url).rstrip("/"), member=None, token_variable=""
        )
        there = call(*shlex.split(command)[1:], "attack=loss", "hydra.run.dir=there")
        asked = client.get("/counts").json()["records"]
    assert there.returncode == 0, there.stderr
    assert asked >= 60
    here, found = scores(tmp_path / "run"), scores(tmp_path / "there")
    assert len(here) == 60
    assert set(here) == set(found)
    np.testing.assert_allclose([found[record] for record in here], [*here.values()], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_what_the_protocols_cannot_send_is_said_where_it_is_served(call: Call, tmp_path: Path) -> None:
    ended = call(*table(gaps=True), *QUICK, "attack=loss", "save_models=true", "hydra.run.dir=run")
    assert ended.returncode == 0, ended.stderr
    ready = prepare([str(tmp_path / "run"), "--port", "0"])
    ready.listening.close()
    (warning,) = ready.sentences[:-1]
    for part in ("`numbers`", "with gaps", "cannot send"):
        assert part in warning
    model = served_model(tmp_path / "run")
    with served(str(tmp_path / "run")) as client:
        command = next_command(
            tmp_path / "run", model, str(client.base_url).rstrip("/"), member=None, token_variable=""
        )
        there = call(*shlex.split(command)[1:], "attack=loss", "hydra.run.dir=there")
        assert client.get("/counts").json() == {}
        sent = {
            "numbers": {"shape": [1, 2], "datatype": "FP32", "data": [40, 0.5]},
            "categories": {"shape": [1, 1], "datatype": "INT64", "data": [1]},
        }
        body = {"inputs": [{"name": name, **each} for name, each in sent.items()]}
        response = client.post("/v2/models/target/infer", json=body)
    assert there.returncode == 2
    assert "gaps (NaN)" in there.stderr
    assert response.status_code == 200, response.text
    assert sum(response.json()["outputs"][0]["data"]) == pytest.approx(1)


def numbers_with_gaps() -> Population:
    x = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    x[5, 1] = torch.nan
    return make_population(x, torch.arange(60) % 2, kinds={"kind": "numeric", "has_gaps": True})


@pytest.mark.parametrize(
    ("records", "model", "protocol"),
    [
        (table_population, Columns, OpenInference),
        (numbers_with_gaps, Tabular, OpenInference),
        (numbers_with_gaps, Tabular, PredictV1),
    ],
)
def test_gaps_are_refused_before_anything_is_asked_or_trained(records: Any, model: Any, protocol: Any) -> None:
    population = records()
    member_N = torch.arange(len(population)) % 2 == 0
    how = quick_audit(model=model, membership=mia.Given(member_N=member_N), shadow=mia.Real(count=2))
    with pytest.raises(InputError, match=r"gaps \(NaN\).*with gaps.*target=predictions"):
        mia.audit(population, target=protocol(url="http://127.0.0.1:9", model="m"), **how)


def test_where_no_number_is_missing_none_is_said_to_be() -> None:
    form = numbers_with_gaps().form
    assert form is not None
    assert form.lacking(torch.zeros(4, 3)) is None
    assert form.lacking(numbers_with_gaps().x_N) is form.fields[0]
    several = table_population()
    assert several.form is not None
    found = several.form.lacking(several.x_N)
    assert found is not None
    assert found.name == "numbers"
