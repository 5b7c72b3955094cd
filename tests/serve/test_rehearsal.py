"""What makes a server worth rehearsing against: faults, latency, a token, limits, and no traceback."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from serving import served

from mia_lightning.errors import InputError
from mia_lightning.serve.faults import KINDS, TURNED_AWAY, Faults
from mia_lightning.serve.run import ServedModel

V1 = "/v1/models/target:predict"
ONE = {"instances": [[0] * 64]}
FAULTS = "429=0.15,500=0.1,503=0.1,cut=0.1,garbage=0.1"


def befallen(client: httpx.Client) -> str | None:
    """The fault that a request met, from what a client sees of it."""
    try:
        response = client.post(V1, json=ONE)
    except httpx.RemoteProtocolError:
        return "cut"
    if response.status_code != 200:
        assert list(response.json()) == ["error"]
        return str(response.status_code)
    try:
        return None if len(response.json()["predictions"]) == 1 else "garbage"
    except ValueError:
        return "garbage"


def test_faults_befall_as_they_are_drawn_and_are_counted(run_folder: Path) -> None:
    with served(str(run_folder), "--faults", FAULTS, "--seed", "7") as client:
        met = [befallen(client) for _ in range(120)]
        counts = client.get("/counts").json()
    drawn = Faults.parse(FAULTS, 7)
    assert met == [drawn.of(number) for number in range(120)]
    assert set(met) == {None, *KINDS}
    answered = sum(kind not in TURNED_AWAY for kind in met)
    assert counts == {"requests": 120, "records": answered, **Counter(kind for kind in met if kind)}


def test_faults_are_as_frequent_as_asked() -> None:
    shares = {"429": 0.1, "500": 0.05, "503": 0.02, "cut": 0.02, "garbage": 0.2}
    drawn = Counter(Faults(shares=shares, seed=3).of(number) for number in range(20_000))
    for kind, share in shares.items():
        assert abs(drawn[kind] / 20_000 - share) < 5 * np.sqrt(share * (1 - share) / 20_000)
    assert Counter(Faults(shares={"cut": 1.0}).of(number) for number in range(50)) == {"cut": 50}
    assert Faults.parse("", 0).of(0) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("404=0.1", "`--faults` has the kind '404'; the kinds are 429, 500, 503, cut, garbage"),
        ("429", "`--faults` has '' for 429; give a probability"),
        ("429=1.5", "`--faults` has '1.5' for 429"),
        ("429=nan", "`--faults` has 'nan' for 429"),
        ("429=0.1,429=0.2", "names 429 twice"),
        ("429=0.6,cut=0.6", "add up to 1.2"),
    ],
)
def test_faults_that_are_none(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        Faults.parse(text, 0)
    assert sentence in str(raised.value)


@pytest.mark.costly
@pytest.mark.parametrize("options", [(), ("--retry-after", "3")])
def test_who_is_turned_away_is_told_how_long(run_folder: Path, options: tuple[str, ...]) -> None:
    with served(str(run_folder), "--faults", "429=1", *options) as client:
        response = client.post(V1, json=ONE)
        assert client.get("/v2/models/target").status_code == 200  # only predictions meet faults
    assert response.status_code == 429
    assert response.headers.get("Retry-After") == (options[1] if options else None)


def test_predictions_are_held_back(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("mia_lightning.serve.desk.asyncio", SimpleNamespace(sleep=sleep))
    with served(str(run_folder), "--latency", "1.5") as client:
        client.post(V1, json=ONE)
        client.get("/v2")
    assert waited == [1.5]


@pytest.fixture
def guarded(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("MY_TOKEN", "hush-hush")
    with served(str(run_folder), "--token-variable", "MY_TOKEN") as client:
        yield client


def test_nothing_is_told_without_the_token(
    guarded: httpx.Client, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    wrong = [{}, *({"Authorization": each} for each in ("hush-hush", "Bearer hush", "Bearer hush-hush2", "Basic x"))]
    for path in ("/", "/counts", "/v2", "/v2/models/target", "/nothing"):
        for headers in wrong:
            response = guarded.get(path, headers=headers)
            assert (response.status_code, list(response.json())) == (401, ["error"])
    assert guarded.post(V1, json=ONE).status_code == 401
    for path in ("/ping", "/v2/health/live", "/v2/health/ready"):
        assert guarded.get(path).status_code == 200
    right = {"Authorization": "Bearer hush-hush"}
    assert guarded.post(V1, json=ONE, headers=right).status_code == 200
    assert guarded.get("/counts", headers=right).json() == {"requests": 1, "records": 1}
    assert "hush" not in "".join(capfd.readouterr()) + caplog.text


def test_the_token_may_come_in_another_header(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hush-hush")
    with served(str(run_folder), "--token-variable", "MY_TOKEN", "--token-header", "X-API-Key") as client:
        assert client.post(V1, json=ONE, headers={"X-API-Key": "hush-hush"}).status_code == 200
        assert client.post(V1, json=ONE, headers={"Authorization": "Bearer hush-hush"}).status_code == 401


def test_a_body_is_counted_as_it_streams_in(run_folder: Path) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" " * 1000

    with served(str(run_folder), "--max-bytes", "5000") as client:
        response = client.post(V1, content=b" " * 5001)
        assert (response.status_code, "more than 5000 bytes" in response.json()["error"]) == (413, True)
        streamed = client.post(V1, content=endless())
        assert "content-length" not in streamed.request.headers
        assert streamed.status_code == 413
        assert client.post(V1, json=ONE).status_code == 200


def test_records_of_a_request_are_limited(run_folder: Path) -> None:
    with served(str(run_folder), "--max-records", "3") as client:
        assert client.post(V1, json={"instances": [[0] * 64] * 3}).status_code == 200
        response = client.post(V1, json={"instances": [[0] * 64] * 4})
        assert (response.status_code, "has 4 records" in response.json()["error"]) == (413, True)
        assert client.get("/counts").json() == {"requests": 2, "records": 3}


def test_a_bug_is_told_to_the_log_and_not_to_the_client(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: ServedModel, x_B: object) -> None:
        raise RuntimeError("the inner workings")

    monkeypatch.setattr(ServedModel, "answer", fail)
    with caplog.at_level(logging.ERROR), served(str(run_folder)) as client:
        response = client.post(V1, json=ONE)
    assert response.status_code == 500
    assert response.json() == {"error": "the server failed; its own log says why"}
    assert any(record.exc_info and "the inner workings" in str(record.exc_info[1]) for record in caplog.records)
