"""The client of Vertex AI against a server on loopback, with a service account of the test's own."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from given_setup import given_setup
from scripted_server import Answer, Request, scripted_server

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.vertex import Vertex, VertexEndpoint
from mia_lightning.targets.failures import RefusedError, TryAgainError

PATH = "/v1/projects/census/locations/europe-west4/endpoints/123:predict"


@dataclass
class Google:
    """A token server and an endpoint in one; `tokens` that it gave, of which `taken` are good for predictions."""

    url: str = ""
    lifetime: int = 3600
    tokens: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    predictions: list[Request] = field(default_factory=list)
    failure: Answer | None = None
    token_failure: Answer | None = None
    body: Callable[[Any], Any] | None = None
    opened: list[VertexEndpoint] = field(default_factory=list)  # and closed with the server
    _lock: Any = field(default_factory=threading.Lock)

    def answer(self, request: Request) -> Answer:
        with self._lock:
            return self._token(request) if request.path == "/token" else self._predict(request)

    def _token(self, request: Request) -> Answer:
        if self.token_failure is not None:
            return self.token_failure
        assert parse_qs(request.body.decode())["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        self.tokens.append(f"token-{len(self.tokens)}-of-a-test")
        answer = {"access_token": self.tokens[-1], "expires_in": self.lifetime, "token_type": "Bearer"}
        return Answer(json.dumps(answer).encode())

    def _predict(self, request: Request) -> Answer:
        self.predictions.append(request)
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.tokens or token in self.refused:
            return Answer(b'{"error": {"code": 401, "status": "UNAUTHENTICATED"}}', status=401)
        if self.failure is not None:
            return self.failure
        instances = json.loads(request.body)["instances"]
        if self.body is not None:
            return Answer(json.dumps(self.body(instances)).encode())
        rows = softmax(np.array(instances)).tolist()
        return Answer(json.dumps({"predictions": rows, "deployedModelId": "7"}).encode())


def softmax(x_BF: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    exp = np.exp(x_BF[:, :3])
    return exp / exp.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def key() -> str:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private.private_bytes(*form).decode()


@pytest.fixture
def google(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    made = Google()
    with scripted_server(made.answer) as server:
        made.url = server.url
        account = {
            "type": "service_account",
            "project_id": "census",
            "private_key_id": "1",
            "private_key": key,
            "client_email": "auditor@census.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{server.url}/token",
        }
        (tmp_path / "account.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
        yield made
        for endpoint in made.opened:
            endpoint.close()


def target(google: Google, **options: Any) -> Vertex:
    options = {"location": "europe-west4", "endpoint": "123", "asking": Asking(timeout=300.0), **options}
    return Vertex(api_endpoint=google.url, **options)


def opened(google: Google, population: Population, **options: Any) -> VertexEndpoint:
    google.opened.append(target(google, **options).connect(given_setup(population)))
    return google.opened[-1]


def test_a_service_account_asks_and_is_answered(blobs: Population, google: Google) -> None:
    endpoint = opened(google, blobs)
    np.testing.assert_allclose(endpoint.ask(blobs.x_N), softmax(blobs.x_N.double().numpy()), rtol=1e-12)
    endpoint.ask(blobs.x_N[:1])
    assert [request.path for request in google.predictions] == [PATH] * 2
    assert json.loads(google.predictions[0].body) == {"instances": blobs.x_N.tolist()}
    assert google.predictions[0].headers["authorization"] == "Bearer token-0-of-a-test"
    assert len(google.tokens) == 1
    assert endpoint.place == google.url + PATH


@pytest.mark.parametrize("project", [None, "another"])
def test_the_project_is_that_of_the_credentials_or_of_the_setting(
    blobs: Population, google: Google, project: str | None
) -> None:
    assert f"/projects/{project or 'census'}/" in opened(google, blobs, project=project).place


def test_without_a_host_that_of_the_location_is_asked(blobs: Population, google: Google) -> None:
    plain = Vertex(location="us-central1", endpoint=456, project=789)  # type: ignore[arg-type]
    place = plain.connect(given_setup(blobs)).place
    wanted = "https://us-central1-aiplatform.googleapis.com/v1/projects/789/locations/us-central1/endpoints/456:predict"
    assert place == wanted
    own = Vertex(location="us-central1", endpoint="456", api_endpoint="456.us-central1-789.prediction.vertexai.goog")
    assert own.api_endpoint == "https://456.us-central1-789.prediction.vertexai.goog"


def test_a_token_that_ends_is_renewed(blobs: Population, google: Google) -> None:
    google.lifetime = 1
    endpoint = opened(google, blobs)
    for _ in range(3):
        endpoint.ask(blobs.x_N[:2])
    used = [request.headers["authorization"] for request in google.predictions]
    assert used == [f"Bearer token-{i}-of-a-test" for i in range(3)]


def test_a_token_that_is_no_longer_taken_is_renewed_once(blobs: Population, google: Google) -> None:
    endpoint = opened(google, blobs)
    endpoint.ask(blobs.x_N[:2])
    google.refused = set(google.tokens)
    assert len(endpoint.ask(blobs.x_N[:2])) == 2
    assert len(google.tokens) == 2
    google.refused = {f"token-{i}-of-a-test" for i in range(9)}
    with pytest.raises(RefusedError, match=r"status 401\); renew the application default credentials") as caught:
        endpoint.ask(blobs.x_N[:2])
    assert len(google.tokens) == 3
    assert "of-a-test" not in str(caught.value)


@pytest.mark.slow
def test_threads_share_a_token(blobs: Population, google: Google) -> None:
    endpoint = opened(google, blobs)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(endpoint.ask, blobs.x_N.split(10)))
    answers = np.array([answer for part in parts for answer in part])
    np.testing.assert_allclose(answers, softmax(blobs.x_N.double().numpy()), rtol=1e-12)
    assert len(google.tokens) == 1


@pytest.mark.costly
@pytest.mark.parametrize(
    ("prediction", "options", "wanted"),
    [
        ({"displayNames": ["b", "a"], "confidences": [0.75, 0.25]}, {}, {"b": 0.75, "a": 0.25}),
        ({"classes": ["a", "b", "c"], "scores": [0.5, 0.25, 0.25]}, {}, {"a": 0.5, "b": 0.25, "c": 0.25}),
        ({"probabilities": [0.5, 0.5, 0], "class": 1}, {"prediction_key": "probabilities"}, [0.5, 0.5, 0]),
        ("b", {}, "b"),
    ],
)
def test_forms_of_predictions(blobs: Population, google: Google, prediction: Any, options: Any, wanted: Any) -> None:
    google.body = lambda instances: {"predictions": [prediction] * len(instances)}
    assert opened(google, blobs, **options).ask(blobs.x_N[:2]) == [wanted] * 2


def test_records_may_stand_under_a_key(blobs: Population, google: Google) -> None:
    google.body = lambda instances: {"predictions": [[each["values"][0], 0, 0] for each in instances]}
    answers = opened(google, blobs, instance_key="values").ask(blobs.x_N[:3])
    assert answers == [[value, 0, 0] for value in blobs.x_N[:3, 0].tolist()]


def test_another_deployed_model_is_remarked_once(blobs: Population, google: Google) -> None:
    ids = iter(["7", "7", None, "8", "7", "8"])
    google.body = lambda instances: {"predictions": ["a"], "deployedModelId": next(ids)}
    setup = given_setup(blobs)
    endpoint = target(google).connect(setup)
    google.opened.append(endpoint)
    for _ in range(3):
        endpoint.ask(blobs.x_N[:1])
    assert setup.engine.stages.remarks == []
    for _ in range(3):
        endpoint.ask(blobs.x_N[:1])
    (remark,) = setup.engine.stages.remarks
    assert "answered with 2 deployed models (7, 8): its traffic is split, or the model was changed" in remark
    assert setup.engine.stages.broken == [remark]


def test_a_server_that_names_ever_new_models_fills_no_report(blobs: Population, google: Google) -> None:
    ids = iter(range(100))
    google.body = lambda instances: {"predictions": ["a"], "deployedModelId": f"\x1b[31m{next(ids)}"}
    setup = given_setup(blobs)
    endpoint = target(google).connect(setup)
    google.opened.append(endpoint)
    for _ in range(20):
        endpoint.ask(blobs.x_N[:1])
    assert 1 <= len(setup.engine.stages.remarks) < 10
    assert all(remark.isprintable() for remark in setup.engine.stages.remarks)


@pytest.mark.parametrize(
    ("status", "mend"),
    [
        (403, "allow the credentials aiplatform.endpoints.predict"),
        (404, "set `target.project`, `target.location`, `target.endpoint`"),
        (400, "refuses the request"),
    ],
)
def test_refusals_name_their_mend(blobs: Population, google: Google, status: int, mend: str) -> None:
    google.failure = Answer(json.dumps({"error": {"message": "token-0-of-a-test"}}).encode(), status=status)
    with pytest.raises(RefusedError, match=f"status {status}") as caught:
        opened(google, blobs).ask(blobs.x_N)
    assert mend in str(caught.value)
    assert "of-a-test" not in str(caught.value)
    assert len(google.predictions) == 1


@pytest.mark.parametrize(("status", "was_asked"), [(429, False), (503, True)])
def test_what_may_pass_is_tried_again(blobs: Population, google: Google, status: int, was_asked: bool) -> None:
    google.failure = Answer(b"{}", status=status, headers={"Retry-After": "3"})
    with pytest.raises(TryAgainError) as caught:
        opened(google, blobs).ask(blobs.x_N)
    assert (caught.value.was_asked, caught.value.after) == (was_asked, 3.0)


def test_a_body_without_predictions_is_no_answer(blobs: Population, google: Google) -> None:
    google.body = lambda instances: {"error": 1}
    with pytest.raises(InputError, match="has no list of `predictions`"):
        opened(google, blobs).ask(blobs.x_N)


def test_no_token_is_refused_without_what_the_server_said(blobs: Population, google: Google) -> None:
    body = b'{"error": "invalid_grant", "error_description": "auditor@census: secret-of-a-test"}'
    google.token_failure = Answer(body, status=400)
    with pytest.raises(RefusedError, match=r"gets no token .*\(RefreshError\); renew them") as caught:
        opened(google, blobs).ask(blobs.x_N)
    assert "secret-of-a-test" not in str(caught.value)
    assert not google.predictions


class Passing:
    """Credentials whose server cannot be reached."""

    token = None

    def before_request(self, *arguments: object) -> None:
        from google.auth.exceptions import TransportError

        raise TransportError("https://user:secret-of-a-test@host")


def test_a_token_server_that_is_not_reached_may_be_another_time(blobs: Population, google: Google) -> None:
    with pytest.raises(TryAgainError, match=r"no token of Google \(TransportError\)") as caught:
        VertexEndpoint(target(google), Passing(), "census").ask(blobs.x_N)
    assert not caught.value.was_asked
    assert "secret-of-a-test" not in str(caught.value)


def test_without_a_project_one_sentence_asks_for_it(google: Google) -> None:
    with pytest.raises(InputError, match="finds no project, since the credentials belong to none"):
        VertexEndpoint(target(google), Passing())


def test_without_credentials_one_sentence_says_where_to_put_them(
    blobs: Population, google: Google, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(InputError, match=r"finds no credentials \(DefaultCredentialsError\); log in"):
        opened(google, blobs)
    monkeypatch.setattr("mia_lightning.targets.endpoints.vertex.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'mia-lightning\[vertex\]'"):
        opened(google, blobs)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"location": "evil.example/"}, "location"),
        ({"endpoint": "1/../2"}, "endpoint"),
        ({"endpoint": ""}, "endpoint"),
        ({"project": "a b"}, "project"),
    ],
)
def test_names_that_are_none(google: Google, options: Any, name: str) -> None:
    with pytest.raises(InputError, match=f"`target.{name}` is .*must be the name of one"):
        target(google, **options)


def test_an_address_with_a_password_is_refused() -> None:
    with pytest.raises(InputError, match=r"`target.api_endpoint` holds a user or password") as caught:
        Vertex(location="europe-west4", endpoint="1", api_endpoint="user:secret-of-a-test@host")
    assert "secret-of-a-test" not in str(caught.value)


def test_the_identity_says_which_endpoint_and_not_whose_credentials(blobs: Population, google: Google) -> None:
    first = opened(google, blobs).identity
    assert opened(google, blobs, endpoint="124").identity != first
    assert opened(google, blobs, instance_key="x").identity != first
    assert opened(google, blobs, asking=Asking(budget=3)).identity == first
    assert "auditor" not in json.dumps(first)
