"""Servers that answer too much, too slowly, compressed, or with words that must not be repeated as they are."""

import gzip
import html
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import torch
from model_server import ModelServer, serving
from protocol_setup import population_of, setup_of
from raw_server import RawServer, http

from mia_lightning.errors import InputError, one_line
from mia_lightning.targets import http_client
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.open_inference import OpenInference
from mia_lightning.targets.endpoints.pace import Pace
from mia_lightning.targets.endpoints.predict_v1 import PredictV1
from mia_lightning.targets.failures import TryAgainError
from mia_lightning.targets.http_client import HttpClient, token_headers
from mia_lightning.targets.json_answers import read_json
from mia_lightning.targets.said import keep_secret, said

SECRET = "s3cr3t\\of'the\"test/&+="
LIMIT = 0.5  # seconds
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def failure(pieces: Callable[[bytes], Iterable[bytes]]) -> Exception:
    """What the client raises."""
    with RawServer(pieces) as server:
        client = HttpClient(server.url, timeout=300.0, authorise=lambda: {"X-Key": SECRET})
        with pytest.raises((TryAgainError, InputError)) as failed:
            client.post("/", b"{}")
        client.close()
    return failed.value


@pytest.mark.costly
@pytest.mark.parametrize("coding", ["gzip", "gzip, gzip", "br", "Deflate", "identity,x-gzip"])
def test_a_compressed_answer_is_refused_before_its_body_is_read(coding: str) -> None:
    bomb = gzip.compress(gzip.compress(bytes(10_000_000)))
    error = failure(lambda _: [http(bomb, Content_Encoding=coding)])
    assert isinstance(error, InputError)
    assert one_line(coding) in str(error)
    assert str(error).isprintable()
    error = failure(lambda _: [http(bomb, "503 Busy", Content_Encoding=coding)])
    assert isinstance(error, TryAgainError)
    assert str(error) == "status 503"


@pytest.mark.parametrize("coding", ["Identity", "none", "utf-8", "\x9b31m"])
def test_an_answer_that_no_coding_compresses_is_read(coding: str) -> None:
    with RawServer(lambda _: [http(b"[1]", Content_Encoding=coding)]) as server:
        client = HttpClient(server.url)
        assert client.get("/") == [1]
        client.close()


@pytest.mark.parametrize(
    ("head", "piece", "kind"),
    [
        (CHUNKED, b"8000\r\n" + b"1" * 0x8000 + b"\r\n", InputError),
        (OK + b"\r\n", b"1" * 0x8000, InputError),
        (OK + b"Content-Length: 999999999999\r\n\r\n", b"1" * 0x8000, InputError),
        (OK, b"X-Header: of many\r\n" * 1000, TryAgainError),
        (b"HTTP/1.1 503 Busy\r\n\r\n", b"1" * 0x8000, TryAgainError),
        (b"HTTP/1.1 400 No\r\n\r\n", b"1" * 0x8000, InputError),
    ],
)
def test_what_never_ends_is_read_no_further_than_its_cap(
    head: bytes, piece: bytes, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "LARGEST_BODY", 2**20)
    sent = 0

    def pieces(_: bytes) -> Iterator[bytes]:
        nonlocal sent
        yield head
        while sent < 2**26:
            yield piece
            sent += len(piece)

    error = failure(pieces)
    assert isinstance(error, kind)
    assert sent < 2**25  # the cap, and what lies in the buffers of both sides
    assert "1111" not in str(error)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("first", "more"),
    [
        (OK, b"X-A: b\r\n"),
        (b"H", b"T"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK + b"Content-Length: 1000\r\n\r\n", b"1"),
        (CHUNKED + b"5;", b"a"),
        (CHUNKED, b"1\r\n1\r\n"),
        (CHUNKED + b"0\r\n", b"X-A: b\r\n"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 1000\r\n\r\n", b"1"),
    ],
)
def test_the_limit_of_time_is_that_of_the_whole_request(first: bytes, more: bytes) -> None:
    """Each piece comes long before the limit of a single read."""

    def pieces(_: bytes) -> Iterator[bytes]:
        yield first
        while not server.ended.wait(LIMIT / 6):
            yield more

    with RawServer(pieces) as server:
        client = HttpClient(server.url, timeout=LIMIT)
        with pytest.raises(TryAgainError, match=f"answer in {LIMIT:g} s") as failed:
            client.post("/", b"{}")
        client.close()
    assert failed.value.was_asked


def silence(server: RawServer) -> Iterator[bytes]:
    """Until the block ends."""
    server.ended.wait(300)
    return iter(())


def test_a_server_that_never_reads_is_given_up() -> None:
    with RawServer(lambda _: silence(server), reads=False) as server:
        client = HttpClient(server.url, timeout=LIMIT)
        with pytest.raises(TryAgainError, match=f"no answer in {LIMIT:g} s") as failed:
            client.post("/", bytes(30_000_000))
        assert failed.value.was_asked
        client.close()


def test_a_handshake_that_never_ends_was_no_request() -> None:
    with RawServer(lambda _: silence(server), reads=False) as server:
        client = HttpClient(server.url.replace("http", "https"), timeout=LIMIT)
        with pytest.raises(TryAgainError, match=f"no connection in {LIMIT:g} s") as failed:
            client.get("/")
        assert not failed.value.was_asked
        client.close()


ECHOES = {
    "plain": SECRET,
    "upper": SECRET.upper(),
    "address": quote(SECRET, safe=""),
    "json": json.dumps(SECRET)[1:-1],
    "json of numbers": "".join(f"\\u{ord(each):04x}" for each in SECRET),
    "python": repr(SECRET)[1:-1],
    "html": html.escape(SECRET),
    "html of numbers": "".join(f"&#{ord(each)};" for each in SECRET),
    "header": f"X-Key: {SECRET}",
}


@pytest.mark.costly
@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("before", [0, 45, 185])
def test_no_part_of_a_secret_is_left_wherever_the_server_repeats_it(echo: str, before: int) -> None:
    """Also where a message is cut within it."""
    text = "x" * before + ECHOES[echo] + " end"
    known = json.dumps({"error": text}).encode()
    answers = [
        http(text.encode(), "400 No"),
        http(known, "400 No"),
        http(known, "429 Busy"),
        http(text.encode()),
        http(b"", "302 Found", Location=f"http://elsewhere/{text}"),
        http(b"", Content_Encoding=text),
        f"HTTP/1.1 200{text} OK\r\n\r\n".encode(),
        f"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: {text}\r\n\r\n1".encode(),
    ]
    for answer in answers:
        error = failure(lambda _, answer=answer: [answer])  # type: ignore[misc]
        for form in (SECRET, ECHOES[echo]):
            assert form.removeprefix("X-Key: ")[:5] not in str(error)


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_no_log_has_the_secret_that_a_server_repeats(level: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(level):
        failure(lambda _: [http(b"", f"400 {SECRET}", X_More=SECRET, Set_Cookie=f"a={SECRET}")])
    assert any(record.name.startswith("httpx") for record in caplog.records)
    assert SECRET not in caplog.text
    assert "s3cr3t" not in caplog.text


def test_cookies_are_not_sent_back() -> None:
    with RawServer(lambda _: [http(b"1", Set_Cookie="a=b; Path=/")]) as server:
        client = HttpClient(server.url)
        for _ in range(2):
            client.get("/")
        client.close()
    assert not any(b"cookie" in request.lower() for request in server.requests)


ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m\u202eend\r\n\x00\ud800"
BODIES: list[Any] = [
    {"error": f"{ESCAPES}{SECRET}"},
    {f"{ESCAPES}{SECRET}": [1]},
    [f"{ESCAPES}{SECRET}"],
    f"{ESCAPES}{SECRET}",
    {"outputs": [{"name": f"{ESCAPES}{SECRET}", "datatype": "FP32", "data": [1.0]}]},
    {"outputs": [{"name": "a", "datatype": f"{ESCAPES}{SECRET}", "data": [0.5, 2.0]}]},
    {"outputs": [{"name": "a", "datatype": "BYTES", "data": [f"{ESCAPES}{SECRET}"] * 2}]},
    {"predictions": [f"{ESCAPES}{SECRET}"] * 2},
    {"predictions": [{f"{ESCAPES}{SECRET}": 0.5, "b": 0.5}] * 2},
    {"predictions": [[f"{ESCAPES}{SECRET}", 1, 0]] * 2},
    {"predictions": [{"classes": [f"{ESCAPES}{SECRET}"], "scores": [1, 2]}] * 2},
]


@pytest.mark.costly
@pytest.mark.parametrize("protocol", [OpenInference, PredictV1])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("in_metadata", [False, True])
def test_a_sentence_about_an_answer_has_no_secret_and_nothing_that_a_terminal_obeys(
    protocol: Any, body: Any, in_metadata: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(method: str, path: str, asked: Any) -> tuple[int, Any]:
        if method == "GET":
            return 200, {"inputs": [{"name": f"{ESCAPES}{SECRET}"}] * 2} if in_metadata else {}
        return 200, body

    token = "".join(each for each in SECRET if each > " ")
    monkeypatch.setenv("MIA_TOKEN", token)
    population = population_of(torch.zeros(2, 3) + torch.arange(2)[:, None])
    with serving(ModelServer(answer)) as server:
        target = protocol(url=server.url, model="m", asking=Asking(retries=0, sentinels=0))
        models = target.obtain(setup_of(population))
        with pytest.raises(InputError) as refusal:
            models.observe(population)
        models.close()
    assert str(refusal.value).isprintable()
    assert "s3cr3t" not in str(refusal.value)


def test_joiners_of_scripts_and_emoji_stay() -> None:
    assert (
        one_line("\u0645\u06cc\u200c\u062e \U0001f469\u200d\U0001f52c")
        == "\u0645\u06cc\u200c\u062e \U0001f469\u200d\U0001f52c"
    )


def test_a_refused_input_is_one_line_for_any_terminal() -> None:
    assert str(InputError(f"A {ESCAPES} b\tc")) == str(InputError(str(InputError(f"A {ESCAPES} b\tc"))))
    assert str(InputError("first\nsecond\x1b[1m")) == "first second\\x1b[1m"
    assert str(InputError("“Größe” → 3 µs")) == "“Größe” → 3 µs"


def test_what_is_said_is_cut_after_secrets_are_hidden() -> None:
    keep_secret("0123456789abcdef")
    for before in range(70):
        assert "0123" not in said("x" * before + "0123456789abcdef" * 3)
    keep_secret("abc")  # which is in any text
    assert said("abc") == "abc"
    assert said(["a", 1]) == "['a', 1]"
    assert said("a" * 100) == "a" * 59 + "…"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[" * 100_000, "32 lists within each other"),
        (b"[" * 33 + b"]" * 33, "32 lists within each other"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "32 lists within each other"),
        (b"[" + b"1," * 2**22 + b"1]", "values; lower target.asking.batch_size"),
        (b"[" + b"[]," * 2**21 + b"1]", "values; lower target.asking.batch_size"),
        (b"\xff\xfe\xfd", "codec"),
        (b"", "line 1"),
        (b"{'a': 1}", "line 1"),
    ],
    ids=lambda value: value[:8],
)
def test_json_beyond_the_size_of_answers_is_none(content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_json(content)


def test_json_within_it_is_what_it_says() -> None:
    assert read_json(b"[" * 32 + b"]" * 32) == json.loads("[" * 32 + "]" * 32)
    assert read_json(b'{"a": [1, -2, 0.5, 9223372036854775807, true, null, "\\u00e9"]}') == {
        "a": [1, -2, 0.5, 2**63 - 1, True, None, "é"]
    }
    assert read_json(b"[" + b"9" * 5000 + b", -" + b"9" * 400 + b"]") == [math.inf, -math.inf]


def test_a_pause_is_told_before_it_and_once_for_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[float | str] = []
    now = [100.0]
    monkeypatch.setattr("mia_lightning.targets.endpoints.pace.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Pace, "_sleep", lambda self, seconds: events.append(f"sleeps {seconds:g}"))
    pace = Pace(None, seed=0, tell=events.append)
    pace.pause(1, 0.5, "record")
    pace.pause(1, 30.0, "record")
    pace.pause(1, 30.0, "another thread's")
    pace.pause(1, 1e9, "record")
    assert events == ["sleeps 0.5", 30.0, "sleeps 30", "sleeps 30", 600.0, "sleeps 600"]
    events.clear()
    now[0] += 601
    pace.pause(1, 2.0, "record")
    now[0] += 3
    pace.pause(1, 2.0, "within the ten seconds")
    now[0] += 8
    pace.pause(1, float("nan"), "record")
    pace.pause(5, None, "record")  # growing pauses are told, too
    assert events[:3] == [2.0, "sleeps 2", "sleeps 2"]
    assert events[3] == "sleeps 0"
    assert [type(event) for event in events[4:]] == [float, str]


def test_a_run_says_that_it_waits_for_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "pause", lambda self, *_: self._tell(120.0))
    notes: list[str] = []
    with serving(ModelServer(lambda *_: (429, {}))) as server:
        server.extra_headers["Retry-After"] = "120"
        setup = setup_of(population_of(torch.zeros(1, 3)))
        monkeypatch.setattr(setup.engine.stages, "note", notes.append)
        target = PredictV1(url=server.url, model="m", asking=Asking(retries=1, sentinels=0))
        models = target.obtain(setup)
        with pytest.raises(InputError, match="status 429"):
            models.observe(setup.population)
        models.close()
    (note,) = notes
    assert server.url in note
    assert "2 min" in note or "120 s" in note


def test_an_environment_that_allows_no_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("httpx._transports.default.create_ssl_context", httpx.create_ssl_context)  # not from the cache
    for name, value in (("HTTPS_PROXY", "nothing://me:hush@host"), ("SSL_CERT_FILE", "/nowhere/at/all.pem")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(InputError, match=name) as refusal:
                HttpClient("https://host")
        assert "hush" not in str(refusal.value)


@pytest.mark.parametrize("header", ["", "X Key", "X-Ключ", "X:", "X\r\nHost"])
def test_a_header_that_no_request_can_have_is_refused(header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIA_TOKEN", "some-token")
    with pytest.raises(InputError, match=r"`target\.token_header`"):
        token_headers("MIA_TOKEN", header)
