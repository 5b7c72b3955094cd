"""What a server says with its status, and what the client makes of it; no secret leaves it but to that server."""

import asyncio
import errno
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from model_server import ModelServer, serving

from mia_lightning.errors import InputError
from mia_lightning.targets import http_client
from mia_lightning.targets.address import checked_url
from mia_lightning.targets.endpoints.predict_v1 import PredictV1
from mia_lightning.targets.failures import RefusedError, TryAgainError
from mia_lightning.targets.http_client import HttpClient, retry_after, token_headers
from mia_lightning.targets.services.google_prediction import GooglePrediction

SECRET = "s3cr3t-token-of-the-test"


class Says:
    """An answer that can be set."""

    status: int = 200
    body: Any = "fine"

    def __call__(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        return self.status, self.body


@pytest.fixture
def says() -> Says:
    return Says()


@pytest.fixture
def server(says: Says) -> Iterator[ModelServer]:
    with serving(ModelServer(says)) as server:
        yield server


@pytest.fixture
def client(server: ModelServer) -> Iterator[HttpClient]:
    client = HttpClient(server.url, timeout=300, authorise=lambda: {"Authorization": f"Bearer {SECRET}"})
    yield client
    client.close()


def test_json_goes_to_the_path_and_comes_back(server: ModelServer, client: HttpClient, says: Says) -> None:
    says.body = {"x": [1.5, None]}
    assert client.post("/there", b'{"y": 1}', {"X-More": "7"}) == {"x": [1.5, None]}
    assert client.get("/here") == {"x": [1.5, None]}
    (method, path, headers, body), (other, *_) = server.requests
    assert (method, path, body, other) == ("POST", "/there", {"y": 1}, "GET")
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert headers["X-More"] == "7"
    assert headers["Content-Type"] == "application/json"


@pytest.mark.costly
@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_work_another_time(status: int, server: ModelServer, client: HttpClient, says: Says) -> None:
    says.status, says.body = status, {"error": f"busy with {SECRET}"}
    with pytest.raises(TryAgainError, match=f"status {status}: busy with …") as failure:
        client.post("/", b"{}")
    assert failure.value.after is None
    assert failure.value.was_asked == (status not in (425, 429))
    server.extra_headers["Retry-After"] = "3"
    with pytest.raises(TryAgainError) as failure:
        client.post("/", b"{}")
    assert failure.value.after == 3.0


@pytest.mark.costly
@pytest.mark.parametrize(
    ("status", "mend"),
    [
        (401, "target.token_variable"),
        (403, "target.token_variable"),
        (404, "`target.url`"),
        (413, "target.asking.batch_size"),
        (400, "records in the form"),
        (422, "records in the form"),
    ],
)
def test_what_is_turned_away(status: int, mend: str, client: HttpClient, says: Says) -> None:
    says.status, says.body = status, {"error": {"message": "shape [3] " + SECRET}}
    with pytest.raises(RefusedError, match=rf"refuses the request \(status {status}: shape \[3\] …\)") as refusal:
        client.post("/", b"{}")
    assert mend in str(refusal.value)
    says.body = b"<html>" + SECRET.encode() + b"x" * 5000
    with pytest.raises(RefusedError) as refusal:
        client.get("/")
    assert SECRET not in str(refusal.value)
    assert len(str(refusal.value)) < 500
    says.body = {"detail": [{"loc": "x"}]}
    with pytest.raises(RefusedError, match="loc"):
        client.get("/")


def test_redirects_are_not_followed_so_that_no_token_travels(
    server: ModelServer, client: HttpClient, says: Says
) -> None:
    with serving(ModelServer(Says())) as other:
        server.extra_headers["Location"] = f"{other.url}/elsewhere?key=hidden"
        for status in (301, 302, 303, 307, 308):
            says.status = status
            with pytest.raises(InputError, match=f"elsewhere.*status {status}.*/elsewhere") as refusal:
                client.post("/", b"{}")
            assert "hidden" not in str(refusal.value)
        assert other.requests == []
    server.extra_headers["Location"] = "http://[broken"
    with pytest.raises(InputError, match="without a place"):
        client.get("/")


@pytest.mark.parametrize("body", [b"", b"<html>" + SECRET.encode(), b"\xff\xfe", b'{"x": [1'])
def test_what_is_no_json_may_be_json_another_time(body: bytes, client: HttpClient, says: Says) -> None:
    says.body = body
    with pytest.raises(TryAgainError, match="its answer cannot be read") as failure:
        client.post("/", b"{}")
    assert failure.value.was_asked
    assert SECRET not in failure.value.reason
    assert len(failure.value.reason) < 120


def test_a_loop_that_cannot_begin_is_no_connection(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> asyncio.AbstractEventLoop:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio.events, "new_event_loop", fails)
    with pytest.raises(TryAgainError, match=r"no connection: .*Too many open files") as failure:
        client.get("/")
    assert not failure.value.was_asked


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[" + b"1," * 2**22 + b"1]"], ids=["deep", "many"])
def test_an_answer_with_too_much_is_not_asked_for_again(body: bytes, client: HttpClient, says: Says) -> None:
    says.body = body
    with pytest.raises(InputError, match="cannot be read") as failure:
        client.post("/", b"{}")
    assert not isinstance(failure.value, TryAgainError)


def test_a_body_that_is_too_long_is_not_read_to_its_end(
    client: HttpClient, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "LARGEST_BODY", 2**20)
    says.body = b"1" * (2**20 + 1)
    with pytest.raises(InputError, match="more than 1 MiB in an answer; lower"):
        client.get("/")
    says.body = b"1" * 1000
    assert client.get("/") > 1


def test_a_server_that_is_not_there_was_not_asked() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client = HttpClient(f"http://127.0.0.1:{free.getsockname()[1]}", timeout=300)
        with pytest.raises(TryAgainError, match="no connection") as failure:
            client.get("/")
        assert not failure.value.was_asked
        client.close()


class Raw:
    """A server that sends bytes as they are, piece by piece, and then waits or hangs up."""

    def __init__(self, pieces: list[bytes], pause: float, hangs_up: bool) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._pieces, self._pause, self._hangs_up = pieces, pause, hangs_up
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.recv(65536)
            for piece in self._pieces:
                try:
                    connection.sendall(piece)
                except OSError:
                    return
                if self._done.wait(self._pause):
                    return
            if not self._hangs_up:
                self._done.wait(300)

    def __enter__(self) -> "Raw":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._socket.close()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.costly
@pytest.mark.parametrize(
    ("pieces", "pause", "hangs_up", "why"),
    [
        ([], 0.0, False, "no answer in 0.8 s"),
        ([HEAD], 0.0, False, "no answer in 0.8 s"),
        ([HEAD, *[b"1"] * 100], 0.05, False, "no whole answer in 0.8 s"),
        ([], 0.0, True, "the connection broke"),
        ([HEAD, b"12"], 0.0, True, "the connection broke"),
        ([b"SSH-2.0 hello\r\n"], 0.0, True, "the connection broke"),
    ],
)
def test_a_connection_that_breaks_or_is_slow_may_have_been_answered(
    pieces: list[bytes], pause: float, hangs_up: bool, why: str
) -> None:
    with Raw(pieces, pause, hangs_up) as raw:
        client = HttpClient(raw.url, timeout=300 if hangs_up else 0.8)
        with pytest.raises(TryAgainError, match=why) as failure:
            client.post("/", b"{}")
        assert failure.value.was_asked
        client.close()


def test_a_large_body_has_further_time_where_it_is_allowed() -> None:
    answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", *[b"1"] * 12]
    with Raw(answer, 0.05, True) as raw:
        client = HttpClient(raw.url, timeout=0.5, slowest=100)
        assert client.post("/", b"[%s]" % (b"1" * 3000)) == 111111111111  # 30 s
        client.close()


def test_a_certificate_that_nobody_signed_is_refused_at_once(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the program openssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ModelServer(Says())
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server):
        client = HttpClient(server.url.replace("http", "https"), timeout=300)
        with pytest.raises(InputError, match=r"certificate of https://127.* cannot be trusted"):
            client.get("/")
        client.close()
    assert server.requests == []


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"http://me:{SECRET}@host", "user or password"),
        (f"http://{SECRET}@host", "user or password"),
        (f"http://host/path?key={SECRET}", r"part behind a \? or #"),
        (f"http://host/#{SECRET}", r"part behind a \? or #"),
        ("ftp://host", "no address of http"),
        ("host:8080", "no address of http"),
        (f"me:{SECRET}@host", "no address of http"),
        ("", "no address of http"),
        ("http://", "no address of http"),
        ("http://[::1", "is no address"),
        ("http://host:port", "is no address"),
    ],
)
def test_addresses_that_are_none_or_hold_a_secret_are_refused(url: str, why: str) -> None:
    with pytest.raises(InputError, match=f"`target.url`.*{why}") as refusal:
        checked_url(url, "target.url")
    assert SECRET not in str(refusal.value)


def test_an_address_loses_its_last_slash() -> None:
    assert checked_url(" https://host:8080/path/ ", "target.url") == "https://host:8080/path"


def test_an_address_that_no_request_can_have_is_refused() -> None:
    client = HttpClient("http://host/" + "x" * 70_000)
    with pytest.raises(InputError, match=r"is no address; set `target.url`"):
        client.get("/")
    client.close()


def test_tokens_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIA_TOKEN", raising=False)
    monkeypatch.delenv("OTHER_TOKEN", raising=False)
    assert token_headers("MIA_TOKEN", "Authorization")() == {}
    assert token_headers("", "Authorization")() == {}
    with pytest.raises(InputError, match="OTHER_TOKEN, which is not set"):
        token_headers("OTHER_TOKEN", "Authorization")
    monkeypatch.setenv("OTHER_TOKEN", f"{SECRET}\n")
    assert token_headers("OTHER_TOKEN", "authorization")() == {"authorization": f"Bearer {SECRET}"}
    assert token_headers("OTHER_TOKEN", "X-Api-Key")() == {"X-Api-Key": SECRET}
    for bad in (f"{SECRET} more", f"{SECRET}\r\nHost: other", "schlüssel"):
        monkeypatch.setenv("OTHER_TOKEN", bad)
        with pytest.raises(InputError, match="OTHER_TOKEN holds blanks") as refusal:
            token_headers("OTHER_TOKEN", "Authorization")
        assert bad not in str(refusal.value)


@pytest.mark.parametrize("make", [partial(PredictV1, url="http://host", model="m"), GooglePrediction])
@pytest.mark.parametrize("token", [f"{SECRET}.x", "two words", "3abc", 3])
def test_a_token_in_the_place_of_its_variable_is_not_repeated(make: Any, token: object) -> None:
    with pytest.raises(InputError, match=r"`target.token_variable` is no name .*export the token and give") as refusal:
        make(token_variable=token)
    assert str(token) not in str(refusal.value)
    assert make(token_variable="").token_variable == ""
    assert make(token_variable="MY_TOKEN2").token_variable == "MY_TOKEN2"


def test_retry_after_is_seconds_or_a_date() -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert retry_after(None) is None
    assert retry_after("120") == 120.0
    assert retry_after(date, "Wed, 21 Oct 2015 07:27:30 GMT") == 30.0
    assert retry_after(date, "Wed, 21 Oct 2015 07:29:30 GMT") == 0.0
    assert retry_after(date) == 0.0
    assert retry_after(date, "yesterday") == 0.0
    assert retry_after("soon") is None
    assert retry_after("-3") is None
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    wait = retry_after(later)
    assert wait is not None
    assert 90 < wait <= 100


def test_without_httpx_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(http_client, "import_module", missing)
    with pytest.raises(InputError, match=r"`httpx`.*pip install 'mia-lightning\[remote\]'"):
        HttpClient("http://host")
