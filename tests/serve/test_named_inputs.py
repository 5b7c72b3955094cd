"""A served model that takes several named tensors: by the v2 protocol, and by no other."""

from collections.abc import Iterator
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from formed import Columns, full_table
from quick import quick_audit
from serving import make_run, served

import mia_lightning as mia
from mia_lightning.errors import InputError
from mia_lightning.serve.run import served_model
from mia_lightning.targets.checkpoint import Checkpoint
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.open_inference import OpenInference
from mia_lightning.targets.endpoints.predict_v1 import PredictV1

V1, V2 = "/v1/models/target:predict", "/v2/models/target"


@pytest.fixture(scope="module")
def table_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    own = ["dataset._target_=formed.full_table", "~dataset.name", "dataset.train_size=40"]
    model = ["model._target_=formed.Columns", "~model.activation", "~model.dropout"]
    with chdir(folder):
        return make_run(folder / "run", *own, *model)


@pytest.fixture(scope="module")
def client(table_run: Path) -> Iterator[httpx.Client]:
    with served(str(table_run), "--trust") as client:
        yield client


def tensors(rows: slice) -> dict[str, dict[str, Any]]:
    values = full_table().form.unpacked(full_table().x_N[rows])  # type: ignore[union-attr]
    types = {"numbers": "FP32", "codes": "UINT8"}
    return {
        name: {"name": name, "shape": list(x.shape), "datatype": types[name], "data": x.flatten().tolist()}
        for name, x in values.items()
    }


def infer(client: httpx.Client, *inputs: Any) -> httpx.Response:
    return client.post(f"{V2}/infer", json={"inputs": list(inputs)})


def test_the_metadata_name_the_inputs(client: httpx.Client) -> None:
    inputs = {each["name"]: each for each in client.get(V2).json()["inputs"]}
    assert inputs["numbers"] == {"name": "numbers", "datatype": "FP32", "shape": [-1, 4]}
    assert inputs["codes"] == {"name": "codes", "datatype": "UINT8", "shape": [-1, 3]}


def test_answers_are_those_of_the_network(client: httpx.Client, table_run: Path) -> None:
    sent = tensors(slice(0, 30))
    response = infer(client, sent["codes"], sent["numbers"])
    assert response.status_code == 200, response.text
    found = np.array(response.json()["outputs"][0]["data"]).reshape(30, 3)
    model = served_model(table_run, trust=True)
    seen = full_table().records(torch.arange(30))
    network = model.trained.stack.model(0)
    expected = network(**seen).softmax(-1)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, expected.detach().double().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda s: [s["codes"]], ["numbers", "codes"]),
        (lambda s: [s["codes"], s["codes"]], ["numbers"]),
        (lambda s: [s["codes"], {**s["numbers"], "name": "x"}], ["numbers"]),
        (lambda s: [s["codes"], {**s["numbers"], "shape": [1, 8]}], ["[8]", "[4]"]),
        (lambda s: [s["codes"], tensors(slice(0, 3))["numbers"]], ["different numbers of records"]),
        (lambda s: [{**s["codes"], "data": [9] * 6}, s["numbers"]], ["record 0", "'codes'", "9"]),
        (lambda s: "x", ["inputs"]),
    ],
)
def test_what_is_no_record_of_the_model_is_refused(client: httpx.Client, change: Any, parts: list[str]) -> None:
    response = client.post(f"{V2}/infer", json={"inputs": change(tensors(slice(0, 2)))})
    assert response.status_code == 400, response.text
    for part in parts:
        assert part in response.text


@pytest.mark.parametrize("path", [V1, "/invocations"])
def test_protocols_of_one_tensor_point_to_the_other(client: httpx.Client, path: str) -> None:
    response = client.post(path, json={"instances": [[0.0] * 7]})
    assert response.status_code == 400
    for part in ("numbers", "codes", "v2"):
        assert part in response.text


def test_the_audit_of_the_served_model_is_that_of_the_model_in_memory(client: httpx.Client, table_run: Path) -> None:
    settings = quick_audit(
        model=partial(Columns, hidden=[16]),
        membership=mia.Given(path=table_run / "members.csv"),
        shadow=mia.Real(count=4),
    )
    here = mia.audit(full_table(), target=Checkpoint(path=table_run / "target.safetensors"), **settings)
    target = OpenInference(url=str(client.base_url).rstrip("/"), model="target", asking=Asking(sentinels=4))
    there = mia.audit(full_table(), target=target, **settings)
    assert here.scores is not None
    assert there.scores is not None
    np.testing.assert_allclose(there.scores.score, here.scores.score, rtol=1e-6, atol=1e-6)
    one = PredictV1(url=str(client.base_url).rstrip("/"), model="target")
    with pytest.raises(InputError, match="several") as caught:
        mia.audit(full_table(), target=one, **settings)
    assert "`numbers`" in str(caught.value)
    with pytest.raises(InputError, match=r"target\.input"):
        mia.audit(full_table(), target=OpenInference(url="http://127.0.0.1:9", model="m", input="x"), **settings)
