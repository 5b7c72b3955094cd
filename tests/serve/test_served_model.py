"""A trained model over v2, v1 and SageMaker's routes, against the same network in memory."""

import csv
import json
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from serving import served
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import generator
from mia_lightning.training.stack.stack import Stack

V1, V2 = "/v1/models/target:predict", "/v2/models/target/infer"


def in_memory(run_folder: Path, digits: Population, role: str = "target", k: int = 0) -> Tensor:
    """float32 log probabilities `[N, C]` of a saved network, as an ordinary module."""
    make = partial(MLP, digits.input_shape, digits.num_classes, hidden=[16])
    network = Stack.load(run_folder / f"{role}.safetensors", make).model(k)
    with torch.inference_mode():
        return network(digits.x_N.float() / 16).double().log_softmax(-1).float()


def infer(client: httpx.Client, x_B: Tensor, datatype: str = "UINT8", **more: object) -> httpx.Response:
    one = {"name": "x", "shape": list(x_B.shape), "datatype": datatype, "data": x_B.flatten().tolist()}
    return client.post(V2, json={"inputs": [one], **more})


def outputs(response: httpx.Response) -> dict[str, np.ndarray]:
    assert response.status_code == 200, response.text
    return {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in response.json()["outputs"]}


@pytest.fixture(scope="module")
def truth(run_folder: Path, digits: Population) -> Tensor:
    return in_memory(run_folder, digits)


def test_both_protocols_say_to_the_bit_what_the_network_says(
    client: httpx.Client, digits: Population, truth: Tensor
) -> None:
    exact = truth.double().exp().numpy()
    v1 = client.post(V1, json={"instances": digits.x_N.tolist()}).json()["predictions"]
    v2 = outputs(infer(client, digits.x_N))["probabilities"]
    np.testing.assert_array_equal(v2, np.array(v1))
    # Torch may add up in another order for another number of rows, so the network is compared closely, not exactly.
    np.testing.assert_allclose(v2, exact, rtol=2e-6, atol=0)
    np.testing.assert_allclose(v2.sum(1), 1, atol=1e-6)


def test_a_float32_log_probability_survives_the_way(run_folder: Path, digits: Population, client: httpx.Client) -> None:
    from mia_lightning.serve.run import served_model

    model = served_model(run_folder)
    log_BC = model.trained.log_probability(model.population.normalised(digits.x_N[:512]))[0]
    received = np.array(client.post(V1, json={"instances": digits.x_N[:512].tolist()}).json()["predictions"])
    assert torch.equal(torch.from_numpy(np.log(received)).float(), log_BC)


def test_an_answer_does_not_depend_on_what_is_asked_beside_it(client: httpx.Client, digits: Population) -> None:
    together = client.post(V1, json={"instances": digits.x_N[:600].tolist()}).json()["predictions"]
    order = torch.randperm(600, generator=generator(0, "order"))[:40]
    for n in order.tolist():
        alone = client.post(V1, json={"instances": digits.x_N[n : n + 1].tolist()}).json()["predictions"]
        assert alone == [together[n]]


@pytest.mark.parametrize("datatype", ["UINT8", "INT8", "INT16", "UINT64", "INT64", "FP32", "FP64"])
def test_datatypes_and_nested_data_are_the_same_records(
    client: httpx.Client, digits: Population, datatype: str
) -> None:
    x_B = digits.x_N[:3]
    expected = outputs(infer(client, x_B))["probabilities"]
    np.testing.assert_array_equal(outputs(infer(client, x_B, datatype))["probabilities"], expected)
    numbers = x_B.float().tolist() if datatype.startswith("FP") else x_B.tolist()
    one = {"name": "x", "shape": [3, 64], "datatype": datatype, "data": numbers, "parameters": {"content_type": "np"}}
    nested = client.post(V2, json={"inputs": [one], "parameters": {"a": 1}})
    np.testing.assert_array_equal(outputs(nested)["probabilities"], expected)


def test_truth_values_are_zeros_and_ones(client: httpx.Client) -> None:
    x_B = torch.arange(128).view(2, 64) % 2
    one = {"name": "x", "shape": [2, 64], "datatype": "BOOL", "data": (x_B == 1).flatten().tolist()}
    found = outputs(client.post(V2, json={"inputs": [one]}))["probabilities"]
    np.testing.assert_array_equal(found, outputs(infer(client, x_B))["probabilities"])


def test_v2_gives_what_is_asked_for_and_the_id_back(client: httpx.Client, digits: Population, truth: Tensor) -> None:
    wanted = [{"name": "label"}, {"name": "probabilities", "parameters": {}}]
    response = infer(client, digits.x_N[:4], id="mine", outputs=wanted)
    content = response.json()
    assert (content["id"], content["model_name"], content["model_version"]) == ("mine", "target", "1")
    label, probabilities = content["outputs"]
    assert (label["name"], label["datatype"], label["shape"]) == ("label", "BYTES", [4])
    assert label["data"] == [str(c) for c in truth[:4].argmax(-1).tolist()]
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP64", [4, 10])
    assert "id" not in infer(client, digits.x_N[:1]).json()


def test_v2_tells_of_server_and_model(client: httpx.Client) -> None:
    assert client.get("/v2").json()["name"] == "mia-serve"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/target/ready").json() == {"name": "target", "ready": True}
    metadata = client.get("/v2/models/target").json()
    assert metadata == client.get("/v2/models/target/versions/1").json()
    assert metadata["inputs"] == [{"name": "x", "datatype": "UINT8", "shape": [-1, 64]}]
    assert metadata["outputs"][0]["parameters"]["class_names"] == [str(c) for c in range(10)]
    assert client.get("/v1/models/target").json()["model_version_status"][0]["state"] == "AVAILABLE"
    assert client.get("/ping").status_code == 200
    assert "POST /v2/models/target/infer" in client.get("/").text


def test_a_version_may_be_named(client: httpx.Client, digits: Population) -> None:
    one = {"name": "x", "shape": [1, 64], "datatype": "UINT8", "data": digits.x_N[0].tolist()}
    assert client.post("/v2/models/target/versions/1/infer", json={"inputs": [one]}).status_code == 200
    assert client.get("/v2/models/target/versions/1/ready").status_code == 200
    instances = {"instances": digits.x_N[:1].tolist()}
    assert client.post("/v1/models/target/versions/1:predict", json=instances).status_code == 200
    assert client.post("/v1/models/target/versions/2:predict", json=instances).status_code == 404


@pytest.mark.parametrize(
    "path", ["/invocations", "/endpoints/target/invocations", "/v1/projects/p/locations/l/endpoints/target:predict"]
)
def test_other_platforms_give_the_same_body_to_other_routes(
    client: httpx.Client, digits: Population, path: str
) -> None:
    instances = digits.x_N[:3].tolist()
    expected = client.post(V1, json={"instances": instances}).json()
    assert client.post(path, json={"instances": instances}).json() == expected
    assert client.post(V1, json={"instances": [{"x": each} for each in instances]}).json() == expected
    if path.endswith("invocations"):
        assert client.post(path, json=instances).json() == expected


@pytest.mark.parametrize(("accept", "is_csv"), [("*/*", True), ("text/csv", True), ("application/json", False)])
def test_csv_is_answered_in_csv_unless_json_is_wanted(
    client: httpx.Client, digits: Population, accept: str, is_csv: bool
) -> None:
    lines = "\n".join(",".join(map(str, row)) for row in digits.x_N[:3].tolist())
    headers = {"Content-Type": "text/csv; charset=utf-8", "Accept": accept}
    response = client.post("/invocations", content=lines, headers=headers)
    expected = client.post(V1, json={"instances": digits.x_N[:3].tolist()}).json()
    if is_csv:
        assert [[float(cell) for cell in row] for row in csv.reader(response.text.splitlines())] == expected[
            "predictions"
        ]
    else:
        assert response.json() == expected


def test_labels_alone(run_folder: Path, digits: Population, truth: Tensor) -> None:
    expected = [str(c) for c in truth[:50].argmax(-1).tolist()]
    x_B = digits.x_N[:50]
    for option in (["--answers", "labels"], ["--defense", "labels_only"]):
        with served(str(run_folder), *option) as client:
            assert client.post(V1, json={"instances": x_B.tolist()}).json() == {"predictions": expected}
            assert list(outputs(infer(client, x_B))) == ["label"]
            assert outputs(infer(client, x_B))["label"].tolist() == expected
            refused = infer(client, x_B, outputs=[{"name": "probabilities"}])
            assert (refused.status_code, "shows label" in refused.text) == (400, True)
            (output,) = client.get("/v2/models/target").json()["outputs"]
            assert output["name"] == "label"
            sent = client.post("/invocations", content=",".join(["0"] * 64), headers={"Content-Type": "text/csv"})
            assert len(sent.text.split()) == 1


@pytest.mark.costly
@pytest.mark.parametrize("option", [["--answers", "top:3"], ["--defense", "top_k.k=3"]], ids=["answers", "defense"])
def test_the_largest_ones_by_name(
    run_folder: Path, digits: Population, client: httpx.Client, option: list[str]
) -> None:
    x_B = digits.x_N[:50]
    full = np.array(client.post(V1, json={"instances": x_B.tolist()}).json()["predictions"])
    order = np.argsort(-full, axis=1, kind="stable")[:, :3]
    with served(str(run_folder), *option) as top:
        predictions = top.post(V1, json={"instances": x_B.tolist()}).json()["predictions"]
        assert predictions == [{str(c): full[n, c] for c in order[n]} for n in range(50)]
        found = outputs(infer(top, x_B))
        assert found["labels"].tolist() == [[str(c) for c in row] for row in order]
        np.testing.assert_array_equal(found["probabilities"], np.take_along_axis(full, order, 1))
        lines = top.post("/invocations", content=",".join(["0"] * 64), headers={"Content-Type": "text/csv"}).text
        assert len(lines.split(",")) == 6


def test_rounded_answers_are_decimal_numbers(run_folder: Path, digits: Population, client: httpx.Client) -> None:
    x_B = digits.x_N[:200]
    full = np.array(client.post(V1, json={"instances": x_B.tolist()}).json()["predictions"])
    with served(str(run_folder), "--defense", "rounding.digits=2") as rounded:
        found = np.array(rounded.post(V1, json={"instances": x_B.tolist()}).json()["predictions"])
    np.testing.assert_array_equal(found, full.round(2))
    assert (found == 0).any()


def test_defences_stand_in_the_order_in_which_they_are_typed(run_folder: Path, digits: Population) -> None:
    x_B = digits.x_N[:20]
    typed = ["--defense", "rounding.digits=1", "--defense", "top_k.k=2"]
    with served(str(run_folder), *typed) as client:
        predictions = client.post(V1, json={"instances": x_B.tolist()}).json()["predictions"]
        assert "rounded to 1 digit, top 2 classes" in client.get("/").text
    assert all(len(each) == 2 for each in predictions)
    values = np.array([list(each.values()) for each in predictions])
    np.testing.assert_array_equal(values, values.round(1))


def test_a_shadow_model_is_served_by_its_number(run_folder: Path, digits: Population) -> None:
    expected = in_memory(run_folder, digits, "shadow", 2)[:30].double().exp().numpy()
    with served(str(run_folder), "--model", "shadow", "--member", "2", "--name", "third") as client:
        found = client.post("/v1/models/third:predict", json={"instances": digits.x_N[:30].tolist()}).json()
    np.testing.assert_allclose(found["predictions"], expected, rtol=2e-6)


def tensor(**changes: object) -> dict[str, object]:
    one = {"name": "x", "shape": [1, 64], "datatype": "UINT8", "data": [0] * 64, **changes}
    return {"inputs": [one]}


@pytest.mark.parametrize(
    ("path", "content", "status", "sentence"),
    [
        (V1, b"{", 400, "the body is not JSON"),
        (V1, b"\xff\xfe", 400, "the body is not JSON"),
        (V1, b"", 400, "the body is not JSON"),
        (V1, b"[1]", 400, "the body is a list; send a JSON object"),
        (V1, b"[" * 100_000, 400, "nested more than 24 levels deep"),
        (V1, b'{"a":' * 5_000, 400, "nested more than 24 levels deep"),
        (V1, b'{"instances": [[NaN]]}', 400, "the body has NaN"),
        (V1, b'{"instances": [[-Infinity]]}', 400, "the body has -Infinity"),
        (V1, b'{"instances": [[1e999' + b",0" * 63 + b"]]}", 400, "record 0 has inf at [0], which is not finite"),
        (V1, b'{"instances": [[' + b"9" * 5000 + b"]]}", 400, "not JSON (a text or a number in it"),
        (V1, {}, 400, "no list `instances`"),
        (V1, {"instances": 3}, 400, "no list `instances`"),
        (V1, {"instances": []}, 400, "the request has no records"),
        (V1, {"instances": [[0] * 63]}, 400, "the records have shape [63], and those of this model have [64]"),
        (V1, {"instances": [[0] * 64, [0]]}, 400, "the records differ in shape"),
        (V1, {"instances": [["a"] * 64]}, 400, "the records hold what is no number"),
        (V1, {"instances": [[None] * 64]}, 400, "the records hold what is no number"),
        (V1, {"instances": [[10**30] * 64]}, 400, "the records hold what is no number"),
        (V1, {"instances": [[0.5] * 64]}, 400, "record 0 has 0.5 at [0], and features of this model are uint8"),
        (V1, {"instances": [[256] * 64]}, 400, "record 0 has 256 at [0]"),
        (V1, {"instances": [[-1] * 64]}, 400, "record 0 has -1 at [0]"),
        (V1, {"instances": [{"x": [0] * 64}, {"y": [0] * 64}]}, 400, "name several inputs or different ones"),
        (V1, {"instances": [{"x": [0] * 64, "y": 1}]}, 400, "name several inputs or different ones"),
        (V1, {"instances": [{"x": [0] * 64}, [0] * 64]}, 400, "name several inputs or different ones"),
        (V1, b'{"instances": [], "instances": []}', 400, "an object in the body has 'instances' twice"),
        (V1, '{"instances": []}'.encode("utf-16"), 400, "the body is not JSON"),
        (V1, {"instances": [[[[0] * 64]]]}, 400, "the records have shape [1, 1, 64]"),
        (V1, {"instances": [["a" * 10**6, *[""] * 63]]}, 400, "the records hold what is no number"),
        ("/v1/models/other:predict", {}, 404, "there is no model 'other' here; the one that is served is 'target'"),
        (V2, {}, 400, "`inputs` is no list of one tensor"),
        (V2, {"inputs": [1]}, 400, "`inputs` is no list of one tensor"),
        (V2, {"inputs": tensor()["inputs"] * 2}, 400, "`inputs` is no list of one tensor"),  # type: ignore[operator]
        (V2, tensor(shape=[-1, 64]), 400, "`shape` of the input is no list of sizes"),
        (V2, tensor(shape=None), 400, "`shape` of the input is no list of sizes"),
        (V2, tensor(shape=[True, 64]), 400, "`shape` of the input is no list of sizes"),
        (V2, tensor(shape=[2, 64]), 400, "`data` of the input has 64 numbers, and its shape [2, 64] 128"),
        (V2, tensor(shape=[10**18, 64]), 413, "at most 10000 at once"),
        (V2, tensor(shape=[2, 32]), 400, "the records have shape [32]"),
        (V2, tensor(shape=[1] * 70), 400, "the records have shape [1, 1"),
        (V2, tensor(shape=[1, 10**4000, 10**4000]), 400, "`shape` of the input is no list of sizes"),
        (V2, tensor(shape=[10**4000, 64]), 400, "`shape` of the input is no list of sizes"),
        (V2, tensor(data={"a": 1}), 400, "`data` of the input holds what is no number"),
        (V2, tensor(data=None), 400, "`data` of the input holds what is no number"),
        (V2, tensor(data=[2**64] * 64, datatype="UINT64"), 400, "`data` of the input holds what is no number"),
        (V2, tensor(datatype="BYTES"), 400, "`datatype` of the input is none of BOOL"),
        (V2, tensor(datatype=["FP32"]), 400, "`datatype` of the input is none of BOOL"),
        (V2, tensor(data=["a"] * 64), 400, "`data` of the input holds what is no number"),
        (V2, tensor(data=[[1], [2, 3]]), 400, "`data` of the input differs in the length of its rows"),
        (V2, tensor(data=[300] * 64), 400, "`data` of the input holds what is no UINT8"),
        (V2, tensor(data=[0.5] * 64), 400, "`data` of the input holds what is no UINT8"),
        (V2, tensor(data=[1e39] * 64, datatype="FP32"), 400, "record 0 has inf at [0], which is not finite"),
        (V2, {**tensor(), "id": 3}, 400, "`id` is no text"),
        (V2, {**tensor(), "outputs": ["label"]}, 400, "`outputs` is no list of objects"),
        (V2, {**tensor(), "outputs": ""}, 400, "`outputs` is no list of objects"),
        (V2, {**tensor(), "outputs": [{"name": "label"}] * 2}, 400, "`outputs` names 'label' 2 times"),
        (V2, {**tensor(), "outputs": [{"name": "probabilities"}] * 9_000}, 400, "`outputs` names 'probabilities'"),
        (V2, {**tensor(), "outputs": [{"name": "logits"}]}, 400, "there is no output 'logits'"),
        ("/v2/models/other/infer", tensor(), 404, "there is no model 'other' here"),
        ("/v2/models/target/versions/2/infer", tensor(), 404, "has no version '2'"),
        ("/invocations", b"3", 400, "the body is no list of records"),
        ("/v2/nothing", {}, 404, "POST /v2/nothing is none of this server's routes"),
        ("/v2", {}, 405, "POST /v2 is none of this server's routes"),
    ],
)
def test_a_mistake_is_one_sentence(
    client: httpx.Client, path: str, content: bytes | dict[str, object], status: int, sentence: str
) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    response = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert sentence in response.json()["error"]
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    ("content", "kind", "status", "sentence"),
    [
        ("a,b", "text/csv", 400, "the body is no CSV of numbers"),
        ("1,2\n3", "text/csv", 400, "the body is no CSV of numbers"),
        (b"\xff", "text/csv", 400, "the body is no CSV of numbers"),
        ("", "text/csv", 400, "the request has no records"),
        (",".join(["nan"] * 64), "text/csv", 400, "record 0 has nan at [0], which is not finite"),
        ("<a/>", "text/xml", 415, "the body is 'text/xml'; send application/json or text/csv"),
    ],
)
def test_csv_that_is_none(client: httpx.Client, content: str, kind: str, status: int, sentence: str) -> None:
    response = client.post("/invocations", content=content, headers={"Content-Type": kind})
    assert (response.status_code, sentence in response.json()["error"]) == (status, True)


def test_binary_tensors_are_not_read(client: httpx.Client) -> None:
    response = client.post(V2, content=b"{}", headers={"Inference-Header-Content-Length": "2"})
    assert (response.status_code, "no binary data" in response.text) == (400, True)
