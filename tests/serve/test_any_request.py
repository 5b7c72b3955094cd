"""Whatever a client sends, the server answers, or refuses in a sentence; it never fails but by faults that are set."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from any_request import Asked, csv_bodies, json_bodies, requests, safetensors_bodies
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from serving import served

FEW, MANY = settings(max_examples=40, deadline=None), settings(max_examples=1500, deadline=None)
BOTH = [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)]

ONE = [0] * 64
V1 = json_bodies({"instances": [ONE, ONE]}) | json_bodies({"instances": [{"x": ONE}]})
V2 = json_bodies(
    {
        "id": "mine",
        "inputs": [{"name": "x", "shape": [2, 64], "datatype": "UINT8", "data": ONE + ONE}],
        "outputs": [{"name": "label"}, {"name": "probabilities"}],
    }
)


def typed(type_: str, bodies: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[str, bytes]]:
    return bodies.map(lambda body: (type_, body))


JSON, BYTES = "application/json", "application/octet-stream"
OF_A_MODEL = requests(
    {
        "/v1/models/target:predict": typed(JSON, V1),
        "/v1/models/target/versions/1:predict": typed(JSON, V1),
        "/v2/models/target/infer": typed(JSON, V2),
        "/invocations": typed(JSON, V1) | typed("text/csv", csv_bodies(64)),
        "/endpoints/target/invocations": typed("text/csv", csv_bodies(64)),
    },
    ("/", "/counts", "/v2", "/v2/models/target", "/v2/models/target/versions/1/ready", "/v1/models/target", "/ping"),
)


def judge(asked: Asked, response: httpx.Response, faults: tuple[int, ...] = ()) -> None:
    """An answer, or one sentence."""
    status = response.status_code
    assert status < 500 or status in faults, response.text
    if status < 400:
        assert status < 300
    elif asked.method != "HEAD":
        content = response.json()
        assert list(content) == ["error"]
        assert 0 < len(content["error"].strip()) < 1000
        assert len(content["error"].splitlines()) == 1
        assert "Traceback" not in content["error"]


@pytest.mark.parametrize("many", BOTH)
def test_a_served_model(client: httpx.Client, many: settings) -> None:
    @many
    @given(OF_A_MODEL)
    def ask(asked: Asked) -> None:
        judge(asked, asked.of(client))

    ask()
    assert client.post("/v1/models/target:predict", json={"instances": [ONE]}).status_code == 200


@settings(max_examples=30, deadline=None)
@given(asked=OF_A_MODEL)
def test_a_served_model_that_is_made_to_fail(broken: httpx.Client, asked: Asked) -> None:
    judge(asked, asked.of(broken), faults=(503,))


@pytest.fixture(scope="module")
def broken(run_folder: Path) -> Iterator[httpx.Client]:
    with served(str(run_folder), "--faults", "503=0.4,429=0.1") as client:
        yield client


X, LABEL = torch.linspace(-1, 1, 240).view(40, 6), torch.arange(40) % 3


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[httpx.Client, str, str]]:
    """Its client, a project that is trained, and one that takes jobs."""
    with served("google_prediction", "--accelerator", "cpu", "--max-stored-bytes", "1000000") as client:
        trained, untrained = (f"/v1/projects/{client.post('/v1/projects').json()['project']}" for _ in "12")
        client.post(f"{trained}/jobs?name=mine&num_classes=3", content=save({"x": X, "label": LABEL}))
        client.post(f"{trained}:train")
        while client.get(trained).json()["state"] != "done":
            time.sleep(0.02)
        yield client, trained, untrained


@pytest.mark.parametrize("many", BOTH)
def test_a_service_that_trains(service: tuple[httpx.Client, str, str], many: settings) -> None:
    client, trained, untrained = service
    records = typed(BYTES, safetensors_bodies({"x": X[:4]}))
    jobs = typed(BYTES, safetensors_bodies({"x": X[:4], "label": LABEL[:4]}))
    of_a_service = requests(
        {
            f"{trained}/models/mine:predict": records | typed(JSON, json_bodies({"instances": X[:4].tolist()})),
            f"{untrained}/jobs?name=a&num_classes=3": jobs,
            f"{untrained}/jobs?name=b&num_classes=100000": jobs,
            f"{untrained}/models/a:predict": records,
        },
        ("/", "/counts", "/v1/projects", "/v1/projects/none"),
    )

    @many
    @given(of_a_service)
    def ask(asked: Asked) -> None:
        judge(asked, asked.of(client))

    ask()
    answer = client.post(f"{trained}/models/mine:predict", content=save({"x": X[:4]}))
    assert load(answer.content)["probability"].shape == (4, 3)
