"""Whatever a served model answers: log-probabilities, or one sentence that may be shown."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_server import ModelServer, serving
from protocol_setup import population_of, setup_of
from raw_server import RawServer, http
from strange_answers import SECRET, is_one_sentence, junk, near, values

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.models import EndpointModels
from mia_lightning.targets.endpoints.open_inference import OpenInference
from mia_lightning.targets.endpoints.predict_v1 import PredictV1
from mia_lightning.targets.endpoints.sagemaker import SageMaker, SageMakerEndpoint
from mia_lightning.targets.endpoints.vertex import Vertex, VertexEndpoint
from mia_lightning.targets.failures import TryAgainError
from mia_lightning.targets.http_client import HttpClient, retry_after
from mia_lightning.targets.said import keep_secret

POPULATION = population_of(torch.arange(6, dtype=torch.float32).reshape(2, 3))
OF_TWO = population_of(torch.arange(6, dtype=torch.float32).reshape(2, 3), ("0", "yes"))

METADATA = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}], "outputs": []}
ROWS = [[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]]
V2 = [
    {"outputs": [{"name": "p", "datatype": "FP32", "shape": [2, 3], "data": [0.5, 0.25, 0.25, 0.0, 0.5, 0.5]}]},
    {"outputs": [{"name": "l", "datatype": "BYTES", "data": ["a", "b"]}, {"datatype": "FP64", "data": [0.5, 0.75]}]},
    {"outputs": [{"name": "l", "datatype": "INT64", "data": [[0], [1]]}]},
]
V1 = [
    {"predictions": ROWS},
    {"predictions": ["a", "b"]},
    {"predictions": [{"classes": ["a", "b"], "scores": [0.75, 0.25]}] * 2, "deployedModelId": "7"},
    {"predictions": [{"a": 0.5, "b": 0.5}, {"c": 0.5, "a": 0.5}]},
    {"predictions": [0.25, 0.75]},
]
OF_SAGEMAKER = [
    {"predictions": [{"score": 0.25, "predicted_label": 0}, {"score": [0.5, 0.5]}]},
    {"outputs": ROWS},
    [[[1]], [0.5]],
]


class Anything:
    """What the server answers next."""

    metadata: bytes = b"{}"
    body: bytes = b""
    status: int = 200
    headers: dict[str, str]

    def __call__(self, method: str, path: str, asked: Any) -> tuple[int, bytes]:
        return self.status, self.metadata if method == "GET" else self.body


@pytest.fixture(scope="module")
def anything() -> Iterator[tuple[Anything, str]]:
    answer = Anything()
    with pytest.MonkeyPatch.context() as patch, serving(ModelServer(answer)) as server:
        answer.headers = server.extra_headers
        patch.setenv("MIA_TOKEN", SECRET)
        yield answer, server.url


def check(endpoint: Any, population: Population = POPULATION, **asking: Any) -> None:
    remarks: list[str] = []
    settings_of = Asking(retries=0, sentinels=0, timeout=5.0, **asking)
    models = EndpointModels(endpoint, settings_of, population.class_names, remark=remarks.append)
    try:
        log_NC = models.observe(population).log_probability_KANC[0, 0]
    except InputError as error:
        remarks.append(str(error))
    else:
        assert log_NC.shape == (2, population.num_classes)
        assert not log_NC.isnan().any()
        assert (log_NC <= 0).all()
    finally:
        models.close()
    assert all(map(is_one_sentence, remarks))


FORMS = st.sampled_from(["auto", "probabilities", "logits", "labels"])


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(metadata=near(METADATA) | junk, body=near(*V2) | junk, answer=FORMS, output=st.sampled_from([None, "p"]))
def test_any_answer_of_open_inference(
    anything: tuple[Anything, str], metadata: bytes, body: bytes, answer: Any, output: str | None
) -> None:
    server, url = anything
    server.metadata, server.body = metadata, body
    check(OpenInference(url=url, model="m", output=output).connect(setup_of(POPULATION)), answer=answer)


@settings(max_examples=40, deadline=None)
@given(body=near(*V1) | junk, of_two=st.booleans(), answer=FORMS, key=st.sampled_from([None, "scores"]))
def test_any_answer_of_predict_v1(
    anything: tuple[Anything, str], body: bytes, of_two: bool, answer: Any, key: str | None
) -> None:
    server, url = anything
    server.body = body
    population = OF_TWO if of_two else POPULATION
    target = PredictV1(url=url, model="m", prediction_key=key)
    check(target.connect(setup_of(population)), population, answer=answer)


class Known:
    """Credentials that need no server."""

    token = SECRET

    def before_request(self, request: object, method: str, url: str, headers: dict[str, str]) -> None:
        headers["authorization"] = f"Bearer {SECRET}"

    def refresh(self, request: object) -> None: ...


@settings(max_examples=40, deadline=None)
@given(body=near(*V1) | junk)
def test_any_answer_of_vertex(anything: tuple[Anything, str], body: bytes) -> None:
    server, url = anything
    server.body = body
    check(VertexEndpoint(Vertex(location="europe-west4", endpoint="1", api_endpoint=url), Known(), "p"))


class Shared(SageMakerEndpoint):
    """Stays open, since boto3 takes a tenth of a second for each client."""

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def sagemaker(anything: tuple[Anything, str]) -> dict[str, SageMakerEndpoint]:
    names = {"AWS_ACCESS_KEY_ID": "AKIDOFATEST", "AWS_SECRET_ACCESS_KEY": "x" * 20, "AWS_SESSION_TOKEN": SECRET}
    make = partial(SageMaker, endpoint_name="e", region="eu-west-1", endpoint_url=anything[1])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**names, "AWS_EC2_METADATA_DISABLED": "true"}.items():
            patch.setenv(name, value)
        return {single: Shared(make(single=single)) for single in ("auto", "label", "score")}


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    body=near(*OF_SAGEMAKER) | junk,
    single=st.sampled_from(["auto", "label", "score"]),
    kind=st.sampled_from(["application/json", "text/csv", "\x9b31m"]),
    status=st.sampled_from([200, 200, 200, 400, 424, 429, 503]),
)
def test_any_answer_of_sagemaker(
    anything: tuple[Anything, str],
    sagemaker: dict[str, SageMakerEndpoint],
    body: bytes,
    single: str,
    kind: str,
    status: int,
) -> None:
    server, _ = anything
    server.body, server.status, server.headers["Content-Type"] = body, status, kind
    try:
        check(sagemaker[single])
    finally:
        server.status = 200
        server.headers.clear()


class InProcess:
    """Answers with what it is given."""

    protocol = place = "here"
    identity: Mapping[str, object] = {}

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers

    def ask(self, x_B: torch.Tensor) -> list[Any]:
        return self._answers

    def close(self) -> None: ...


@settings(deadline=None)
@given(answers=st.lists(values, min_size=2, max_size=2), answer=FORMS, of_two=st.booleans())
def test_any_answer_of_an_endpoint_in_this_process(answers: list[Any], answer: Any, of_two: bool) -> None:
    keep_secret(SECRET)
    check(InProcess(answers), OF_TWO if of_two else POPULATION, answer=answer)


HEADERS = st.sampled_from(
    [
        b"Content-Length: 3",
        b"Content-Length: -3",
        b"Content-Length: 99999999999999999999999",
        b"Content-Length: 3, 3",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip",
        b"Content-Encoding: gzip",
        b"Content-Encoding: \x9b31m",
        b"Retry-After: 1e9",
        b"Retry-After: Wed, 99 Oct 20150 07:28:00 +99999999",
        b"Date: nonsense",
        b"Location: http://[",
        b"Location: //\x9b/" + SECRET.encode(),
        b"Set-Cookie: a=" + SECRET.encode() + b"; expires=99999999999; max-age=x",
        b"Connection: close, upgrade",
        b"Upgrade: h2c",
        b"X-Long: " + b"x" * 200_000,
        b": no name",
        b"No colon",
        b" folded",
        b"\xff\xfe: \x00",
        b"Content-Type: text/html; charset=utf-7",
    ]
)
STATUS = st.sampled_from(
    [b"200 OK", b"200", b"204 No", b"302 Found", b"400 \x1b[31m", b"429 Busy", b"503 " + SECRET.encode()]
)
STATUSES = STATUS | st.integers(100, 999).map(lambda number: str(number).encode()) | st.binary(max_size=8)
LINES = st.sampled_from([b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/9.9 ", b"ICY ", b""])
CHUNKS = st.sampled_from([b"3\r\n[1]\r\n0\r\n\r\n", b"fffffffff\r\n", b"-1\r\n", b"0\r\nA: b\r\n"])


def joined(first: int, line: bytes, status: bytes, headers: list[bytes], body: bytes) -> bytes:
    head = b"\r\n".join([line + status, *headers])
    return b"HTTP/1.1 100 Continue\r\n\r\n" * first + head + b"\r\n\r\n" + body


RESPONSES = st.builds(
    joined,
    first=st.sampled_from([0, 0, 0, 1, 3]),
    line=LINES,
    status=STATUSES,
    headers=st.lists(HEADERS, max_size=3),
    body=near(*V2) | junk | CHUNKS,
)


class Next:
    content: bytes = b""


@pytest.fixture(scope="module")
def raw() -> Iterator[tuple[Next, HttpClient]]:
    following = Next()
    with RawServer(lambda _: [following.content]) as server:
        client = HttpClient(server.url, timeout=300.0, authorise=lambda: {"X-Key": SECRET})
        yield following, client
        client.close()


def as_before(client: HttpClient) -> Any:
    """What it reads after strange bytes; a connection that seemed to be kept may have been closed by then."""
    with suppress(TryAgainError):
        return client.get("/")
    return client.get("/")


@settings(max_examples=100, deadline=None)
@given(content=RESPONSES)
def test_any_bytes_are_an_answer_or_a_failure_that_may_be_shown(raw: tuple[Next, HttpClient], content: bytes) -> None:
    server, client = raw
    server.content, sentence = content, "An answer."
    try:
        client.post("/", b"{}")
    except InputError as error:
        sentence = str(error)
    except TryAgainError as error:
        sentence = f"{error.reason}."
    assert is_one_sentence(sentence)
    server.content = http(b"[1]")
    assert as_before(client) == [1]


@given(
    value=st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} Oct \d{1,5} \d+:\d+:\d+ [+-]?\d{0,9}"),
    now=st.none() | st.text(),
)
def test_any_time_to_wait_is_seconds_or_nothing(value: str, now: str | None) -> None:
    after = retry_after(value, now)
    assert after is None or after >= 0
