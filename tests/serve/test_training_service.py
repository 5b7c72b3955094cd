"""Services that train, over HTTP: the same models as in this process, and what customers may not do."""

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from quick import quick_audit
from safetensors.torch import load, save
from serving import served

import mia_lightning as mia
from mia_lightning.datasets.location import load_location
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.serve.command import main
from mia_lightning.serve.projects import Projects
from mia_lightning.targets.services.amazon_ml import AmazonML
from mia_lightning.targets.services.google_prediction import GooglePrediction
from mia_lightning.targets.services.http import HttpService
from mia_lightning.targets.services.in_process import InProcessService
from mia_lightning.targets.services.interface import ServiceJob
from mia_lightning.targets.services.service import ServiceTarget
from mia_lightning.training.engine import Engine
from mia_lightning.training.trainer import TrainerSettings

SERVER = ("--accelerator", "cpu")
CPU = TrainerSettings(accelerator="cpu")


def job(population: Population, name: str = "mine", rows: slice = slice(0, 40)) -> ServiceJob:
    return ServiceJob(
        name=name, x_N=population.x_N[rows], label_N=population.label_N[rows], num_classes=population.num_classes
    )


@pytest.fixture(scope="module")
def google() -> Iterator[httpx.Client]:
    with served("google_prediction", *SERVER) as client:
        yield client


def address(client: httpx.Client) -> str:
    return str(client.base_url).rstrip("/")


AMAZON = ("amazon_ml", AmazonML(passes=3, l2=1e-4), ["--passes", "3", "--l2", "1e-4"])


@pytest.mark.costly
@pytest.mark.parametrize(
    ("name", "local", "options", "fixture"),
    [
        pytest.param("google_prediction", GooglePrediction(), [], "blobs", marks=pytest.mark.slow),
        pytest.param("google_prediction", GooglePrediction(), [], "pictures", marks=pytest.mark.slow),
        pytest.param(*AMAZON, "blobs", marks=pytest.mark.slow),
        (*AMAZON, "pictures"),
    ],
)
def test_an_audit_over_http_gives_the_scores_of_one_in_process(
    name: str, local: ServiceTarget, options: list[str], fixture: str, request: pytest.FixtureRequest
) -> None:
    population = request.getfixturevalue(fixture)
    settings = quick_audit(membership=mia.Disjoint(train_size=20), shadow=mia.Real(count=4), seed=5)
    here = mia.audit(population, target=local, **settings)
    with served(name, *SERVER, "--seed", "5", *options) as client:
        away = type(local)(url=f"{address(client)}/")
        there = mia.audit(population, target=away, **settings)
        counts = client.get("/counts").json()
    assert there.attacks == here.attacks
    assert there.target == here.target
    for column in ("score", "is_flagged", "is_member", "record"):
        np.testing.assert_array_equal(getattr(there.scores, column), getattr(here.scores, column))
    of_shadow = 2 * min(20, (len(population) - 40) // 2)
    assert counts["records"] == 40 + 4 * of_shadow  # each of one target and four shadow models about its own


def test_a_server_of_another_seed_gives_other_models(blobs: Population) -> None:
    def probability(service: HttpService | InProcessService) -> torch.Tensor:
        assert service.train([job(blobs)]) == ["mine"]
        return service.predict("mine", blobs.x_N)

    here = probability(GooglePrediction().connect(Engine(seed=5, settings=CPU)))  # type: ignore[arg-type]
    with served("google_prediction", *SERVER, "--seed", "6") as client:
        assert not torch.equal(probability(HttpService("google_prediction", address(client))), here)


@pytest.mark.slow
def test_faults_change_nothing_but_the_number_of_requests(blobs: Population) -> None:
    faults = "429=0.1,500=0.1,503=0.05,cut=0.05,garbage=0.05"
    service = GooglePrediction().connect(Engine(seed=0, settings=CPU))
    assert service.train([job(blobs)]) == ["mine"]
    with served("google_prediction", *SERVER, "--faults", faults, "--seed", "0") as client:
        remote = HttpService("google_prediction", address(client), wait=lambda seconds: time.sleep(0.01))
        remote.train([job(blobs)])
        for start in range(0, 120, 2):
            x_B = blobs.x_N[start : start + 2]
            assert torch.equal(remote.predict("mine", x_B), service.predict("mine", x_B))
        counts = client.get("/counts").json()
    met = {kind: counts.get(kind, 0) for kind in ("429", "500", "503", "cut", "garbage")}
    assert counts["requests"] == 60 + sum(met.values())
    assert min(met.values()) > 0


def test_a_model_that_diverges_is_none_and_the_others_are_there(blobs: Population, google: httpx.Client) -> None:
    value_N = torch.where(torch.arange(40) == 0, 3e38, -3e38)
    huge = replace(job(blobs, "huge"), x_N=value_N[:, None].expand(40, 6).contiguous())
    service = HttpService("google_prediction", address(google))
    assert service.train([job(blobs), huge]) == ["mine", None]
    with pytest.raises(InputError, match=r"status 404: the project \w+ has no model 'huge'"):
        service.predict("huge", blobs.x_N)


def test_json_is_taken_for_predictions_too(blobs: Population, google: httpx.Client) -> None:
    service = HttpService("google_prediction", address(google))
    service.train([job(blobs, "a name/with ? signs")])
    expected = service.predict("a name/with ? signs", blobs.x_N)
    assert expected.dtype == torch.float64
    path = f"/v1/projects/{service._project}/models/a%20name%2Fwith%20%3F%20signs:predict"
    found = google.post(path, json={"instances": blobs.x_N.tolist()}).json()["predictions"]
    assert torch.equal(torch.tensor(found, dtype=torch.float64), expected)


def uploaded(google: httpx.Client, blobs: Population) -> str:
    place = f"/v1/projects/{google.post('/v1/projects').json()['project']}"
    content = save({"x": blobs.x_N, "label": blobs.label_N})
    asked = {"name": "mine", "num_classes": "3"}
    assert google.post(f"{place}/jobs", params=asked, content=content).status_code == 200
    return place


def test_every_call_can_be_repeated(blobs: Population, google: httpx.Client) -> None:
    place = uploaded(google, blobs)
    asked = {"name": "mine", "num_classes": "3"}
    content = save({"x": blobs.x_N, "label": blobs.label_N})
    assert google.post(f"{place}/jobs", params=asked, content=content).status_code == 200
    assert google.get(place).json()["jobs"] == 1
    assert [google.post(f"{place}:train").status_code for _ in range(3)] == [202] * 3
    state = finished(google, place)
    assert (state["state"], state["models"], state["taken"]) == ("done", {"mine": "mine"}, 1)
    assert google.post(f"{place}:train").status_code == 202
    assert google.get(place).json() == state
    first = google.post(f"{place}/models/mine:predict", content=save({"x": blobs.x_N}))
    again = google.post(f"{place}/models/mine:predict", content=save({"x": blobs.x_N}))
    assert torch.equal(load(first.content)["probability"], load(again.content)["probability"])
    late = google.post(f"{place}/jobs", params={**asked, "name": "late"}, content=content)
    assert (late.status_code, "trained already" in late.text) == (409, True)
    assert google.delete(place).status_code == 200
    assert google.get(place).status_code == 404


def finished(client: httpx.Client, place: str) -> dict[str, object]:
    for _ in range(15_000):
        state: dict[str, object] = client.get(place).json()
        if state["state"] in ("done", "failed"):
            return state
        time.sleep(0.02)
    raise AssertionError("the training does not end")


X, LABEL = torch.zeros(4, 6), torch.tensor([0, 1, 2, 0])
NAMED = {"name": "mine", "num_classes": "3"}


@pytest.mark.parametrize(
    ("params", "content", "sentence"),
    [
        ({}, b"", "a job needs a name of 1 to 200 letters"),
        ({"name": "a" * 201, "num_classes": "3"}, b"", "a job needs a name of 1 to 200 letters"),
        ({"name": "a"}, b"", "num_classes is ''"),
        ({"name": "a", "num_classes": "1"}, b"", "num_classes is '1'"),
        ({"name": "a", "num_classes": "9999999"}, b"", "num_classes is '9999999'"),
        (NAMED, b"", "the body is no safetensors; send a file with x and label"),
        (NAMED, b"\xff" * 100, "the body is no safetensors"),
        (NAMED, b"\x80\x04pickle", "the body is no safetensors"),
        (NAMED, save({"x": X}), "the body holds other tensors than x and label"),
        (NAMED, save({"x": X, "label": LABEL, "z": X + 1}), "the body holds other tensors than x and label"),
        (NAMED, save({"x": X[0], "label": LABEL}), "`x` is no tensor of numbers"),
        (NAMED, save({"x": X[:0], "label": LABEL[:0]}), "`x` is no tensor of numbers"),
        (NAMED, save({"x": X.bool(), "label": LABEL}), "`x` is no tensor of numbers"),
        (NAMED, save({"x": X / 0, "label": LABEL}), "record 0 has a value that is not finite"),
        (NAMED, save({"x": X, "label": LABEL[:3]}), "`label` is no int64 [4]"),
        (NAMED, save({"x": X, "label": LABEL.float()}), "`label` is no int64 [4]"),
        (NAMED, save({"x": X, "label": LABEL + 1}), "label 3 of record 2 is outside 0 to 2"),
        (NAMED, save({"x": X, "label": LABEL - 1}), "label -1 of record 0 is outside 0 to 2"),
    ],
)
def test_a_job_that_cannot_be_taken(
    google: httpx.Client, params: dict[str, str], content: bytes, sentence: str
) -> None:
    place = f"/v1/projects/{google.post('/v1/projects').json()['project']}"
    response = google.post(f"{place}/jobs", params=params, content=content)
    assert (response.status_code, list(response.json())) == (400, ["error"])
    assert sentence in response.json()["error"]


@pytest.mark.parametrize(("size", "num_classes"), [(2**21, 2), (5000, 100_000)])
def test_a_model_that_memory_may_not_hold_is_refused(google: httpx.Client, size: int, num_classes: int) -> None:
    place = f"/v1/projects/{google.post('/v1/projects').json()['project']}"
    content = save({"x": torch.zeros(1, size, dtype=torch.uint8), "label": torch.tensor([1])})
    response = google.post(f"{place}/jobs", params={"name": "a", "num_classes": num_classes}, content=content)
    assert (response.status_code, "larger model than this server trains" in response.json()["error"]) == (413, True)


def test_what_a_project_refuses(blobs: Population, google: httpx.Client) -> None:
    def said(response: httpx.Response, status: int, sentence: str) -> None:
        assert (response.status_code, list(response.json())) == (status, ["error"])
        assert sentence in response.json()["error"]

    place = uploaded(google, blobs)
    other = save({"x": blobs.x_N + 1, "label": blobs.label_N})
    said(google.post(f"{place}/jobs", params=NAMED, content=other), 409, "has a job 'mine' already")
    said(
        google.post(f"{place}/models/mine:predict", content=b""), 409, "is waiting; ask for predictions when it is done"
    )
    empty = f"/v1/projects/{google.post('/v1/projects').json()['project']}"
    said(google.post(f"{empty}:train"), 409, "has no jobs")
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", ":train"),
        ("POST", "/jobs"),
        ("POST", "/models/a:predict"),
    ):
        said(google.request(method, f"/v1/projects/none{path}"), 404, "there is no project 'none'")
    google.post(f"{place}:train")
    finished(google, place)
    model = f"{place}/models/mine:predict"
    said(google.post(f"{place}/models/other:predict", content=b""), 404, "has no model 'other'")
    said(google.post(model, content=b"x"), 400, "no safetensors; send a file with x")
    said(google.post(model, content=save({"x": blobs.x_N.double()})), 400, "`x` is no float32 [records, *[6]]")
    said(
        google.post(model, content=save({"x": blobs.x_N[:, :5].contiguous()})), 400, "`x` is no float32 [records, *[6]]"
    )
    said(google.post(model, content=save({"x": blobs.x_N[:0]})), 400, "the request has no records")
    said(google.post(model, content=save({"x": blobs.x_N / 0})), 400, "record 0 has a value that is not finite")
    said(google.post(model, json={"instances": [[0.0] * 5]}), 400, "the records have shape [5]")


@pytest.mark.slow
def test_what_a_server_keeps_is_limited(blobs: Population) -> None:
    held = str(blobs.x_N.nbytes + blobs.label_N.nbytes)
    with served("google_prediction", *SERVER, "--max-projects", "2", "--max-stored-bytes", held) as client:
        first, second = uploaded(client, blobs), client.post("/v1/projects").json()["project"]
        full = client.post("/v1/projects")
        assert (full.status_code, "there are 2 projects" in full.text) == (409, True)
        content = save({"x": blobs.x_N[:1], "label": blobs.label_N[:1]})
        too_much = client.post(f"/v1/projects/{second}/jobs", params=NAMED, content=content)
        assert (too_much.status_code, f"more than {held} bytes" in too_much.text) == (413, True)
        client.post(f"{first}:train")
        finished(client, first)  # what is trained is given up
        assert client.post(f"/v1/projects/{second}/jobs", params=NAMED, content=content).status_code == 200
    with served("google_prediction", *SERVER, "--max-bytes", "1000", "--max-records", "5") as client:
        place = f"/v1/projects/{client.post('/v1/projects').json()['project']}"
        assert client.post(f"{place}/jobs", params=NAMED, content=b" " * 1001).status_code == 413
        content = save({"x": blobs.x_N[:20], "label": blobs.label_N[:20]})
        assert client.post(f"{place}/jobs", params=NAMED, content=content).status_code == 200
        client.post(f"{place}:train")
        finished(client, place)
        many = client.post(f"{place}/models/mine:predict", content=save({"x": blobs.x_N[:6]}))
        assert (many.status_code, "takes at most 5 at once" in many.text) == (413, True)


class _Held:
    """A service whose training waits, and then ends as it is told."""

    name = "held"

    def __init__(self, error: Exception | None = None) -> None:
        self.go, self.error = threading.Event(), error

    def train(self, jobs: Iterator[ServiceJob]) -> list[str | None]:
        names: list[str | None] = [each.name for each in jobs]
        self.go.wait(300)
        if self.error is not None:
            raise self.error
        return names

    def predict(self, model: str, x_B: torch.Tensor) -> torch.Tensor:
        raise AssertionError("nothing was trained")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("The loss of all is NaN."), "The loss of all is NaN."),
        (RuntimeError("the inner workings"), "the server failed; its own log says why"),
    ],
)
def test_a_training_that_fails_says_so(
    blobs: Population, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    service = _Held(error)
    projects = Projects("held", lambda: service, max_projects=1, max_bytes=10**9)
    name = projects.create()
    projects.add(name, job(blobs))
    projects.train(name)
    assert projects.is_training()
    with pytest.raises(Exception, match="is training; delete it when the training is done"):
        projects.delete(name)
    service.go.set()
    while projects.is_training():
        time.sleep(0.01)
    assert projects.find(name).to_json() == {"state": "failed", "jobs": 1, "taken": 1, "error": said}
    assert ("the inner workings" in capsys.readouterr().err) == isinstance(error, RuntimeError)


def test_a_server_that_is_another_service(blobs: Population, google: httpx.Client) -> None:
    with pytest.raises(InputError, match=r"is a server of 'google_prediction'.*start it by mia-serve amazon_ml"):
        HttpService("amazon_ml", address(google)).train([job(blobs)])


def test_a_server_that_is_not_there(blobs: Population) -> None:
    waited: list[float] = []
    service = HttpService("amazon_ml", "http://127.0.0.1:9", wait=waited.append)
    with pytest.raises(
        InputError, match=r"did not answer in 6 tries \(no connection.*see that mia-serve amazon_ml runs"
    ):
        service.train([job(blobs)])
    assert waited == sorted(waited)
    assert len(waited) == 5


def test_a_server_that_is_none_of_ours(blobs: Population, run_folder: object) -> None:
    with served(str(run_folder)) as client, pytest.raises(InputError, match=r"refuses the request \(status 404"):
        HttpService("amazon_ml", address(client)).train([job(blobs)])


def test_a_training_that_failed_there_is_told_here(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: InProcessService, jobs: object) -> None:
        raise InputError("The loss of all is NaN.")

    monkeypatch.setattr(InProcessService, "train", fail)
    with (
        served("google_prediction", *SERVER) as client,
        pytest.raises(InputError, match=r"could not train \(The loss of all is NaN\)"),
    ):
        HttpService("google_prediction", address(client)).train([job(blobs)])


def test_nothing_is_asked_before_training() -> None:
    with pytest.raises(InputError, match="has trained nothing yet"):
        HttpService("amazon_ml", "http://127.0.0.1:9").predict("mine", torch.zeros(1, 2))


def test_a_token_is_required_and_kept_out_of_messages(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hush-hush")
    with served("google_prediction", *SERVER, "--token-variable", "MY_TOKEN") as client:
        with pytest.raises(InputError, match=r"status 401.*`target\.token_variable`"):
            HttpService("google_prediction", address(client)).train([job(blobs)])
        right = GooglePrediction(url=address(client), token_variable="MY_TOKEN")
        assert right.connect(Engine(seed=0)).train([job(blobs)]) == ["mine"]
        monkeypatch.setenv("MY_TOKEN", "wrong")
        with pytest.raises(InputError, match=r"status 401.*`target\.token_variable`") as raised:
            right.connect(Engine(seed=0)).train([job(blobs)])
    assert "wrong" not in str(raised.value)
    monkeypatch.delenv("MY_TOKEN")
    with pytest.raises(
        InputError, match=r"`target\.token_variable` names the environment variable MY_TOKEN, which is not set"
    ):
        right.connect(Engine(seed=0))


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (3, "`target.url` is no address"),
        ("127.0.0.1:8700", "`target.url` is no address"),
        ("ftp://host", "`target.url` is no address"),
        ("http://", "names no host and port"),
        ("http://host:port", "names no host and port"),
        ("http://me:hush@host:1", "holds a user or password"),
        ("http://me@host:1", "holds a user or password"),
        ("http://host:1/?key=hush", "has a part behind a ? or #"),
        ("http://host:1/#hush", "has a part behind a ? or #"),
    ],
)
def test_an_address_holds_nothing_secret(url: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence.replace("?", r"\?")) as raised:
        GooglePrediction(url=url)
    assert "hush" not in str(raised.value)


def test_what_the_server_fixes_is_not_set_here() -> None:
    for settings in ({"passes": 100}, {"l2": 1e-4}):
        with pytest.raises(InputError, match=r"are settings of the server at `target\.url`"):
            AmazonML(url="http://127.0.0.1:9", **settings)  # type: ignore[arg-type]
    assert AmazonML(url="http://127.0.0.1:9").url == "http://127.0.0.1:9"
    with pytest.raises(InputError, match=r"`target\.token_variable` is no name of an environment variable"):
        AmazonML(token_variable=3)  # type: ignore[arg-type]


def test_a_client_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(InputError, match=r"install 'mia-lightning\[remote\]"):
        HttpService("amazon_ml", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["amazon_ml", "--passes", "0"], "argument --passes: '0' is no whole number; give one of at least 1"),
        (["amazon_ml", "--l2=-1"], "argument --l2: '-1' is out of range; give a number of at least 0"),
        (["amazon_ml", "--l2", "inf"], "argument --l2: 'inf' is out of range"),
        (["google_prediction", "--passes", "3"], "unrecognized arguments: --passes"),
        (["google_prediction", "--precision", "16"], "argument --precision: invalid choice: '16' (choose from "),
    ],
)
def test_settings_of_a_service(capsys: pytest.CaptureFixture[str], options: list[str], sentence: str) -> None:
    before = list(sys.path)
    with pytest.raises(SystemExit) as ended:
        main([*options, "--port", "0"])
    sys.path[:] = before
    out, said = capsys.readouterr()
    assert (ended.value.code, out, said.count("\n")) == (2, "", 1)
    assert sentence in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["google_prediction", "amazon_ml"])
def test_location_over_http_as_in_process(name: str, shared_data: Path) -> None:
    population = load_location(root=shared_data / "location")
    local: ServiceTarget = GooglePrediction() if name == "google_prediction" else AmazonML()
    settings = quick_audit(membership=mia.Disjoint(train_size=400), shadow=mia.Real(count=4), seed=2)
    here = mia.audit(population, target=local, **settings)
    with served(name, *SERVER, "--seed", "2") as client:
        there = mia.audit(population, target=replace(local, url=address(client)), **settings)
    np.testing.assert_array_equal(there.scores.score, here.scores.score)
    assert there.attacks == here.attacks
