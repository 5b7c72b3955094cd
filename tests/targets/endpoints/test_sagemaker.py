"""boto3 against a server on loopback that speaks SageMaker's route."""

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from given_setup import given_setup
from scripted_server import Answer, Request, ScriptedServer, scripted_server
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.sagemaker import SageMaker, SageMakerEndpoint
from mia_lightning.targets.failures import RefusedError, TryAgainError

KEY, SECRET, TOKEN = "AKIDOFATEST", "a-secret-of-a-test", "a-session-token-of-a-test"


@pytest.fixture(autouse=True, scope="module")
def _dummy_credentials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    tmp_path, monkeypatch = tmp_path_factory.mktemp("aws"), pytest.MonkeyPatch()
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    environment = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield
    monkeypatch.undo()


def softmax(x_BF: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    exp = np.exp(x_BF[:, :3])
    return exp / exp.sum(1, keepdims=True)


def endpoint(population: Population, url: str, **options: Any) -> SageMakerEndpoint:
    options = {"endpoint_name": "census", "asking": Asking(timeout=300.0), **options}
    return SageMaker(endpoint_url=url, **options).connect(given_setup(population))


@dataclass
class Shared:
    """One server and, since boto3 takes half a second for each, one client for all requests of the same settings."""

    server: ScriptedServer
    answer: Callable[[Request], Answer] = lambda request: Answer()
    clients: dict[str, SageMakerEndpoint] = field(default_factory=dict)

    def ask(self, x_B: Tensor, *, single: str = "label") -> Any:
        if single not in self.clients:
            target = SageMaker(endpoint_name="census", single=single, endpoint_url=self.server.url)
            self.clients[single] = SageMakerEndpoint(target)
        return self.clients[single].ask(x_B)

    def ask_after(self, answer: Callable[[Request], Answer], x_B: Tensor, **options: Any) -> Any:
        self.answer = answer
        self.server.requests.clear()
        return self.ask(x_B, **options)


@pytest.fixture(scope="module")
def shared(_dummy_credentials: None) -> Iterator[Shared]:
    with scripted_server(lambda request: made.answer(request)) as server:
        made = Shared(server)
        yield made


def predictions(request: Request) -> Answer:
    instances = np.array(json.loads(request.body)["instances"])
    return Answer(json.dumps({"predictions": softmax(instances).tolist()}).encode())


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server(predictions) as running:
        yield running


def answering(body: bytes, **options: Any) -> Any:
    return scripted_server(lambda request: Answer(body, **options))


def test_json_goes_out_signed_and_probabilities_come_back(blobs: Population, server: ScriptedServer) -> None:
    opened = endpoint(blobs, server.url, variant="green", inference_component="census-1")
    answers = opened.ask(blobs.x_N)
    np.testing.assert_allclose(np.array(answers), softmax(blobs.x_N.double().numpy()), rtol=1e-12)
    (request,) = server.requests
    assert request.path == "/endpoints/census/invocations"
    assert request.headers["content-type"] == request.headers["accept"] == "application/json"
    assert request.headers["x-amzn-sagemaker-target-variant"] == "green"
    assert request.headers["x-amzn-sagemaker-inference-component"] == "census-1"
    assert opened.place == "census in eu-west-1, variant green, component census-1"
    assert f"Credential={KEY}/" in request.headers["authorization"]
    assert "/eu-west-1/sagemaker/aws4_request" in request.headers["authorization"]
    opened.close()


def test_many_threads_ask_at_once(blobs: Population, server: ScriptedServer) -> None:
    opened = endpoint(blobs, server.url)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(opened.ask, blobs.x_N.split(10)))
    answers = np.array([answer for part in parts for answer in part])
    np.testing.assert_allclose(answers, softmax(blobs.x_N.double().numpy()), rtol=1e-12)
    assert len(server.requests) == 12


@pytest.mark.costly
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"json_key": None}, [[1, 2], [3, 4]]),
        ({"json_key": "inputs"}, {"inputs": [[1, 2], [3, 4]]}),
        ({"feature_key": "features"}, {"instances": [{"features": [1, 2]}, {"features": [3, 4]}]}),
    ],
)
def test_forms_of_a_json_body(pictures: Population, options: Any, wanted: Any) -> None:
    x_B = pictures.x_N[:2, 0, 0, :2].clone()
    x_B[:] = x_B.new_tensor([[1, 2], [3, 4]])
    with answering(b"[[0.5, 0.5], [0.25, 0.75]]") as server:
        assert endpoint(pictures, server.url, **options).ask(x_B) == [[0.5, 0.5], [0.25, 0.75]]
        assert json.loads(server.requests[0].body) == wanted


def test_csv_both_ways(blobs: Population, pictures: Population) -> None:
    def answer(request: Request) -> Answer:
        rows = np.array([[float(cell) for cell in line.split(",")] for line in request.body.decode().splitlines()])
        text = "\n".join(",".join(map(repr, row)) for row in softmax(rows).tolist())
        return Answer(text.encode(), headers={"Content-Type": "text/csv; charset=utf-8"})

    with scripted_server(answer) as server:
        opened = endpoint(blobs, server.url, content_type="text/csv", accept="text/csv")
        np.testing.assert_array_equal(opened.ask(blobs.x_N), softmax(blobs.x_N.double().numpy()))
        assert server.requests[0].headers["content-type"] == "text/csv"
        opened.ask(pictures.x_N[:2])
        flat = pictures.x_N[:2].flatten(1).tolist()
        assert server.requests[1].body.decode() == "".join(",".join(map(str, row)) + "\n" for row in flat)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("body", "kind", "options", "wanted"),
    [
        ({"predictions": [{"probabilities": [0.1, 0.9], "predicted_label": 1}]}, "json", {}, [[0.1, 0.9]]),
        ({"predictions": [{"score": [0.1, 0.9], "predicted_label": 1}]}, "json", {}, [[0.1, 0.9]]),
        ({"predictions": [{"score": 0.75, "predicted_label": 1}]}, "json", {}, [[0.25, 0.75]]),
        ({"predictions": [{"scores": [0.1, 0.9]}]}, "json", {}, [[0.1, 0.9]]),
        ({"predictions": [{"predicted_label": 2.0}]}, "json", {}, [2]),
        ({"predictions": [{"predicted_label": "b"}, {"predicted_label": "a"}]}, "json", {}, ["b", "a"]),
        ({"predictions": [2, 0.0]}, "json", {}, [2, 0]),
        ({"predictions": [[2], ["a"]]}, "json", {}, [2, "a"]),
        ({"predictions": [0.75, 1]}, "json", {"single": "score"}, [[0.25, 0.75], [0.0, 1.0]]),
        ({"outputs": [[0.5, 0.5]]}, "json", {}, [[0.5, 0.5]]),
        ({"probabilities": [[0.5, 0.5]]}, "json", {}, [[0.5, 0.5]]),
        ("0.25,0.75\n1.0,0.0\n", "csv", {}, [[0.25, 0.75], [1.0, 0.0]]),
        ("2.0\n0\n", "csv", {}, [2, 0]),
        ('"b"\na\n', "csv", {}, ["b", "a"]),
        ("0.75\n", "csv", {"single": "score"}, [[0.25, 0.75]]),
        ("0.75\n1.0\n", "csv", {"single": "auto"}, [[0.75], 1]),
        ({"predictions": [0.75, [0.5], 2]}, "json", {"single": "auto"}, [[0.75], [0.5], 2]),
    ],
)
def test_forms_of_answers(blobs: Population, shared: Shared, body: Any, kind: str, options: Any, wanted: Any) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    answer = Answer(text.encode(), headers={"Content-Type": f"text/{kind}"})
    assert shared.ask_after(lambda request: answer, blobs.x_N[: len(wanted)], **options) == wanted


@pytest.mark.costly
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "answers 6 bytes that are no JSON; set `target.accept`"),
        (b'{"error": 1}', "answers a JSON dict without a list of `predictions`"),
        (b'{"predictions": 3}', "answers a JSON int without a list"),
        (b'{"predictions": [{"distances": [1], "x": 2}]}', "answers an object with 'distances', 'x' for a record"),
        (b'{"predictions": [{}]}', "answers an object with nothing in it"),
        (b'{"predictions": [[0.1, "x"]]}', "answers a list of other things than numbers"),
        (b'{"predictions": [[]]}', "answers a list of other things than numbers"),
        (b'{"predictions": [null]}', "answers a NoneType for a record"),
        (b'{"predictions": [true]}', "answers a bool for a record"),
        (b'{"predictions": [0.3]}', r"answers 0.3 for a record, which is no label; .*target.single=score"),
        (b'{"predictions": [NaN]}', "answers nan for a record, which is no label"),
    ],
)
def test_bodies_that_are_no_answer(blobs: Population, shared: Shared, body: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        shared.ask_after(lambda request: Answer(body), blobs.x_N[:1])


def test_csv_that_is_no_text_is_no_answer(blobs: Population, shared: Shared) -> None:
    answer = Answer(b"\xff\xfe", headers={"Content-Type": "text/csv"})
    with pytest.raises(InputError, match="answers CSV that is not UTF-8"):
        shared.ask_after(lambda request: answer, blobs.x_N[:1])


@pytest.mark.parametrize("kind", ["application/json", "text/csv"])
def test_an_answer_of_too_many_bytes_or_values_is_read_no_further(
    kind: str, blobs: Population, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mia_lightning.targets.json_answers._MOST_VALUES", 1000)
    many = Answer(b"1," * 1001 + b"1", headers={"Content-Type": kind})
    with pytest.raises(InputError, match=r"more than 1,000 values; lower target\.asking\.batch_size"):
        shared.ask_after(lambda request: many, blobs.x_N[:1])
    monkeypatch.setattr("mia_lightning.targets.endpoints.sagemaker.LARGEST_BODY", 1000)
    with pytest.raises(InputError, match=r"more than 0 MiB .*target\.asking\.batch_size"):
        shared.ask_after(lambda request: many, blobs.x_N[:1])


@pytest.mark.parametrize("body", [b"[1]", b'"a"', b"3", b"[" * 50_000, b"\xff"])
def test_an_error_that_boto_cannot_read_is_a_failure(blobs: Population, shared: Shared, body: bytes) -> None:
    with pytest.raises((TryAgainError, RefusedError), match="census in eu-west-1"):
        shared.ask_after(lambda request: Answer(body, status=400), blobs.x_N[:1])


def failing(code: str, status: int, **more: Any) -> Callable[[Request], Answer]:
    """An error in the service's form, whose message repeats the request's headers as that of a wrong signature does."""

    def answer(request: Request) -> Answer:
        headers = {"x-amzn-ErrorType": code, "Content-Type": "application/json", **more.pop("headers", {})}
        return Answer(json.dumps({"Message": repr(request.headers), **more}).encode(), status=status, headers=headers)

    return answer


@pytest.mark.costly
@pytest.mark.parametrize(
    ("code", "status", "was_asked"),
    [
        ("ThrottlingException", 400, False),
        ("ThrottlingException", 429, False),
        ("ModelNotReadyException", 429, False),
        ("ServiceUnavailable", 503, True),
        ("InternalFailure", 500, True),
        ("SomethingNew", 502, True),
    ],
)
def test_what_may_pass_is_tried_again_by_us_and_not_by_boto(
    blobs: Population, shared: Shared, code: str, status: int, was_asked: bool
) -> None:
    with pytest.raises(TryAgainError, match=code) as caught:
        shared.ask_after(failing(code, status, headers={"Retry-After": "7"}), blobs.x_N)
    assert len(shared.server.requests) == 1
    assert (caught.value.was_asked, caught.value.after) == (was_asked, 7.0)
    assert TOKEN not in str(caught.value)


def test_a_date_to_wait_for_is_not_taken_for_seconds(blobs: Population, shared: Shared) -> None:
    late = {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}
    with pytest.raises(TryAgainError) as caught:
        shared.ask_after(failing("ThrottlingException", 429, headers=late), blobs.x_N)
    assert caught.value.after is None


@pytest.mark.costly
@pytest.mark.parametrize(
    ("code", "status", "mend"),
    [
        ("ValidationError", 400, "name an endpoint of this account and region"),
        ("AccessDeniedException", 403, "allow these credentials sagemaker:InvokeEndpoint"),
        ("UnrecognizedClientException", 403, "give valid credentials"),
        ("InvalidSignatureException", 403, "give valid credentials"),
        ("ExpiredTokenException", 403, "renew the credentials"),
        ("SomethingNew", 400, "set `target` to what the endpoint takes"),
    ],
)
def test_what_is_refused_names_its_mend_and_no_secret(
    blobs: Population, shared: Shared, code: str, status: int, mend: str
) -> None:
    with pytest.raises(RefusedError, match=rf"census in eu-west-1 answered {code} \({status}\); .*{mend}") as caught:
        shared.ask_after(failing(code, status), blobs.x_N)
    assert len(shared.server.requests) == 1
    assert not any(secret in str(caught.value) for secret in (KEY, SECRET, TOKEN))


@pytest.mark.parametrize(
    ("original", "error"), [(500, TryAgainError), (503, TryAgainError), (429, TryAgainError), (415, InputError)]
)
def test_a_failure_of_the_model_is_judged_by_its_own_status(
    blobs: Population, shared: Shared, original: int, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"the model itself (failed|refused the records) with status {original}"):
        shared.ask_after(failing("ModelError", 424, OriginalStatusCode=original), blobs.x_N)


@pytest.mark.costly
@pytest.mark.parametrize("content_type", ["application/json", "text/csv"])
def test_an_answer_that_is_cut_is_asked_for_again(content_type: str, blobs: Population) -> None:
    with answering(b"12\n12\n12\n", cut=True) as server, pytest.raises(TryAgainError, match="broke the connection"):
        endpoint(blobs, server.url, content_type=content_type).ask(blobs.x_N[:3])


@pytest.mark.slow
def test_broken_connections(blobs: Population) -> None:
    with answering(b"[[0.5, 0.25, 0.25]]", cut=True) as server, pytest.raises(TryAgainError) as caught:
        endpoint(blobs, server.url).ask(blobs.x_N)
    assert "broke the connection" in str(caught.value)
    assert caught.value.was_asked
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(TryAgainError, match="was not reached") as caught:
            endpoint(blobs, url).ask(blobs.x_N)
    assert not caught.value.was_asked
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TryAgainError, match=r"broke the connection \(ReadTimeoutError\)") as caught:
            endpoint(blobs, url, asking=Asking(timeout=1.0)).ask(blobs.x_N)
    assert caught.value.was_asked


def test_without_credentials_one_sentence_says_where_to_put_them(
    blobs: Population, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(RefusedError, match=r"boto3 finds no complete credentials; .*AWS_ACCESS_KEY_ID"):
        endpoint(blobs, server.url).ask(blobs.x_N)
    assert not server.requests


def test_credentials_that_cannot_be_renewed(
    blobs: Population, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A credential process that answers once, with credentials that end soon."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    soon = (datetime.now(UTC) + timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%SZ")
    once = {"Version": 1, "AccessKeyId": KEY, "SecretAccessKey": SECRET, "Expiration": soon}
    (tmp_path / "once.json").write_text(json.dumps(once))
    (tmp_path / "process").write_text(f"cat {tmp_path}/once.json && rm {tmp_path}/once.json")
    (tmp_path / "config").write_text(f"[default]\ncredential_process = sh {tmp_path}/process\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(RefusedError, match=r"cannot be asked \(CredentialRetrievalError\)") as caught:
        endpoint(blobs, server.url).ask(blobs.x_N)
    assert SECRET not in str(caught.value)
    assert not server.requests


def test_what_boto_cannot_do_is_told_in_a_sentence(
    blobs: Population, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"target=sagemaker cannot be set up \(InvalidRegionError\)"):
        endpoint(blobs, server.url, region="no region")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(InputError, match=r"finds no region; set `target.region`"):
        endpoint(blobs, server.url)
    assert endpoint(blobs, server.url, region="us-east-1").place == "census in us-east-1"
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(InputError, match=r"cannot be set up \(ProfileNotFound\)"):
        endpoint(blobs, server.url, region="us-east-1")


def test_settings_that_are_none(monkeypatch: pytest.MonkeyPatch, blobs: Population) -> None:
    with pytest.raises(InputError, match=r"`target.endpoint_url` holds a user or password") as caught:
        SageMaker(endpoint_name="census", endpoint_url=f"https://user:{SECRET}@host")
    assert SECRET not in str(caught.value)
    assert SageMaker(endpoint_name=12).endpoint_name == "12"  # type: ignore[arg-type]
    monkeypatch.setattr("mia_lightning.targets.endpoints.sagemaker.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'mia-lightning\[sagemaker\]'"):
        endpoint(blobs, "http://127.0.0.1:1")


def test_the_identity_says_which_endpoint_and_not_whose_credentials(
    blobs: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = endpoint(blobs, "http://127.0.0.1:1")
    assert endpoint(blobs, "http://127.0.0.1:1", variant="green").identity != first.identity
    assert endpoint(blobs, "http://127.0.0.1:1", asking=replace(Asking(), budget=3)).identity == first.identity
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ANOTHER")
    assert endpoint(blobs, "http://127.0.0.1:1").identity == first.identity
    assert not any(secret in json.dumps(first.identity) + first.place for secret in (KEY, SECRET, TOKEN))
