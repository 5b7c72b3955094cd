"""A page in somebody's browser can neither post to the server nor read from it, and each route names its types."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import save
from serving import served

from mia_lightning.serve.hosts import Hosts

V1 = "/v1/models/target:predict"
ONE = b'{"instances": [[' + b",".join([b"0"] * 64) + b"]]}"
JSON = {"Content-Type": "application/json"}


def said(response: httpx.Response) -> tuple[int, str]:
    assert list(response.json()) == ["error"]
    return response.status_code, response.json()["error"]


@pytest.mark.parametrize("path", ["/", "/counts", "/ping", "/v2/models/target", "/nothing"])
@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "evil-localhost"),
        *(
            "127.0.0.1@evil.example",
            "192.168.0.1",
            "0.0.0.0:{port}",
            "[::2]",
            "[::1",
            "localhost:port",
            "localhost:1:2",
        ),
        *("", "localhost evil.example", "localhost/evil.example", "2130706433", "0x7f.1", "\xe9"),
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(client: httpx.Client, host: str, path: str) -> None:
    sent = host.format(port=client.base_url.port).encode("latin-1")
    status, sentence = said(client.get(path, headers=[(b"Host", sent)]))
    assert (status, "none of this server's names" in sentence) == (421, True)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.2:{port}", "[::1]:{port}", "[::1]"])
def test_this_machine_has_its_names(client: httpx.Client, host: str) -> None:
    assert client.get("/ping", headers={"Host": host.format(port=client.base_url.port)}).status_code == 200


def test_two_hosts_are_none(client: httpx.Client) -> None:
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address, timeout=300) as raw:
        raw.sendall(b"GET /counts HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert raw.makefile("rb").readline().split()[1] in (b"400", b"421")


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://127.0.0.1", "http://localhost:{port}", "ftp://127.0.0.1:{port}", "*"],
)
@pytest.mark.parametrize(("method", "path"), [("POST", V1), ("GET", "/counts"), ("OPTIONS", V1), ("POST", "/nothing")])
def test_the_page_of_another_site_is_refused(client: httpx.Client, origin: str, method: str, path: str) -> None:
    headers = {**JSON, "Origin": origin.format(port=client.base_url.port)}
    before = client.get("/counts").json()
    response = client.request(method, path, content=ONE, headers=headers)
    assert said(response)[0] == 403
    assert not any(name.startswith("access-control") for name in response.headers)
    assert client.get("/counts").json() == before


def test_its_own_origin_and_none_are_taken(client: httpx.Client) -> None:
    own = str(client.base_url).rstrip("/")
    for headers in ({}, {"Origin": own}, {"Origin": "https://localhost", "Host": "localhost"}):
        assert client.post(V1, content=ONE, headers={**JSON, **headers}).status_code == 200


def test_further_names_are_those_that_are_allowed(run_folder: Path) -> None:
    with served(str(run_folder), "--allowed-host", "Models.Example", "--allowed-host", "other") as client:
        for host, status in (("models.example", 200), ("other:80", 200), ("localhost", 200), ("an.other", 421)):
            assert client.get("/ping", headers={"Host": host}).status_code == status


@pytest.fixture
def everywhere() -> Iterator[Hosts]:
    with closing(socket.create_server(("0.0.0.0", 0))) as listening:
        yield Hosts.of(listening, ["0.0.0.0"])


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        *[
            (host, True)
            for host in ("0.0.0.0:80", "192.168.0.7", "[2001:db8::1]:80", "localhost", socket.gethostname())
        ],
        *[(host, False) for host in ("evil.example", "192.168.0.7.evil.example", "")],
    ],
)
def test_a_server_for_others_is_asked_by_address_or_by_its_own_name(everywhere: Hosts, host: str, is_own: bool) -> None:
    assert everywhere._is_own(host.lower()) == is_own


NO_TYPES = [
    *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "json"),
    *("application/jsonx", "text/plain; application/json", "application/json, text/plain", "*/*", None),
]


@pytest.mark.parametrize("type_", NO_TYPES)
@pytest.mark.parametrize(
    "path",
    [
        V1,
        "/v2/models/target/infer",
        "/invocations",
        "/endpoints/target/invocations",
        "/v1/models/target/versions/1:predict",
    ],
)
def test_what_pages_may_send_is_no_json(client: httpx.Client, path: str, type_: str | None) -> None:
    status, sentence = said(client.post(path, content=ONE, headers={} if type_ is None else {"Content-Type": type_}))
    assert (status, "send application/json" in sentence) == (415, True)


def test_csv_is_for_the_routes_that_say_so(client: httpx.Client) -> None:
    line, headers = b",".join([b"0"] * 64), {"Content-Type": "Text/CSV; charset=utf-8"}
    assert client.post("/invocations", content=line, headers=headers).status_code == 200
    assert said(client.post(V1, content=line, headers=headers))[0] == 415
    assert client.post(V1, content=ONE, headers={"Content-Type": "Application/JSON;charset=utf-8"}).status_code == 200


def test_a_service_takes_tensors_and_json_alone() -> None:
    content = save({"x": torch.zeros(4, 6), "label": torch.tensor([0, 1, 0, 1])})
    with served("google_prediction", "--accelerator", "cpu") as client:
        jobs = f"/v1/projects/{client.post('/v1/projects').json()['project']}/jobs?name=mine&num_classes=2"
        for type_ in ("text/plain", "application/json", "multipart/form-data"):
            status, sentence = said(client.post(jobs, content=content, headers={"Content-Type": type_}))
            assert (status, "send application/octet-stream" in sentence) == (415, True)
        assert said(client.post("/v1/projects", headers={"Origin": "http://evil.example"}))[0] == 403
        assert (
            client.post(jobs, content=content, headers={"Content-Type": "application/octet-stream"}).status_code == 200
        )
