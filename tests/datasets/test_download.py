import hashlib
import http.server
import random
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mia_lightning.datasets import download
from mia_lightning.datasets.download import check_file, fetch
from mia_lightning.errors import DataNotThereError, InputError

CONTENT = random.Random(0).randbytes(3_000_000)
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()
CHECKSUM = f"sha256:{SHA256}"


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; can ignore ranges, break off after some bytes, fail, or say nothing."""

    content = CONTENT
    ranges = True
    break_after: int | None = None
    status: int | None = None
    silent = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.tgz"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.silent:
            server.released.wait(300)
            return
        if server.status is not None:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start and start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            last, total = len(server.content) - 1, len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{last}/{total}")
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if server.break_after is None else body[: server.break_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "file.tgz"


def part(path: Path) -> Path:
    return path.with_name("file.tgz.part")


def get(server: Server, path: Path, checksum: str | None = CHECKSUM) -> None:
    fetch(server.url, path, checksum=checksum, timeout_s=300)
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


def start_with(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    part(path).write_bytes(content)


def test_whole_file(server: Server, path: Path) -> None:
    get(server, path)
    assert server.asked == [None]


def test_file_that_is_there_is_not_downloaded(server: Server, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    get(server, path)
    assert server.asked == []


def test_partial_file_is_taken_up(server: Server, path: Path) -> None:
    start_with(path, CONTENT[:1_000_000])
    get(server, path)
    assert server.asked == ["bytes=1000000-"]


def test_server_without_ranges_starts_anew(server: Server, path: Path) -> None:
    server.ranges = False
    start_with(path, CONTENT[:1_000_000])
    get(server, path)


def test_partial_file_that_was_whole_is_only_renamed(server: Server, path: Path) -> None:
    start_with(path, CONTENT)
    get(server, path)
    assert server.asked == []


@pytest.mark.parametrize("length", [1_000_000, 3_000_000, 4_000_000])
def test_partial_file_of_something_else_is_replaced(server: Server, path: Path, length: int) -> None:
    start_with(path, b"?" * length)
    get(server, path)
    assert server.asked == [f"bytes={length}-", None]


def test_broken_connection_is_taken_up(server: Server, path: Path) -> None:
    server.break_after = 1_250_000
    get(server, path)
    assert server.asked == [None, "bytes=1250000-", "bytes=2500000-"]


def test_broken_connections_without_end_keep_what_came(server: Server, path: Path) -> None:
    server.break_after = 100_000
    with pytest.raises(InputError, match=r"the connection broke after 100000 of 2600000 bytes\): put the file"):
        fetch(server.url, path, checksum=CHECKSUM)
    assert not path.exists()
    assert part(path).read_bytes() == CONTENT[:500_000]
    server.break_after = None
    get(server, path)
    assert server.asked[-1] == "bytes=500000-"


@pytest.mark.parametrize("content", [b"<html>sign in</html>", CONTENT[:-1] + b"?", b""])
def test_wrong_content_is_refused_and_not_kept(server: Server, path: Path, content: bytes) -> None:
    server.content = content
    found = hashlib.sha256(content).hexdigest()
    sentence = rf"is not the published file.tgz \(SHA-256 {found}, expected {SHA256}\): put the file .* mirror$"
    with pytest.raises(InputError, match=sentence):
        fetch(server.url, path, checksum=CHECKSUM)
    assert not path.exists()
    server.content = CONTENT
    get(server, path)


def test_a_file_without_an_end_is_given_up(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_LARGEST", 1 << 20)
    monkeypatch.setattr(download, "_BLOCK", 1 << 16)
    with pytest.raises(DataNotThereError, match="without an end"):
        fetch(server.url, path, checksum=CHECKSUM)
    assert not path.exists()


def test_server_error(server: Server, path: Path) -> None:
    server.status = 404
    sentence = (
        f"file.tgz could not be downloaded from {server.url} (HTTP Error 404: Not Found): put the file file.tgz "
        f"into '{path.parent}' by hand, or set dataset.root to the folder that holds it"
    )
    with pytest.raises(InputError, match=rf"^{re.escape(sentence)}$"):
        fetch(server.url, path, checksum=CHECKSUM)
    assert server.asked == [None]


def test_silent_server(server: Server, path: Path) -> None:
    server.silent = True
    with pytest.raises(InputError, match=r"could not be downloaded from http://127.* \(.*timed out.*\): put the"):
        fetch(server.url, path, checksum=CHECKSUM, timeout_s=0.2)


def test_offline(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as bound:  # a port that is taken, but where nobody listens
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/file.tgz"
        with pytest.raises(InputError, match=rf"could not be downloaded from {url} \(.*refused.*\): put the file"):
            fetch(url, path, checksum=CHECKSUM)


@pytest.mark.parametrize("url", ["file.tgz", "gopher://x/file.tgz", "http://[1/file.tgz"])
def test_url_of_no_use(path: Path, url: str) -> None:
    with pytest.raises(InputError, match=rf"could not be downloaded from {re.escape(url)} "):
        fetch(url, path, checksum=CHECKSUM)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"file.tgz cannot be downloaded to .*/data' .*: set dataset.root to a folder"):
        fetch("http://127.0.0.1:9/file.tgz", tmp_path / "data" / "file.tgz", checksum=CHECKSUM)


def test_of_several_at_once_one_downloads(server: Server, path: Path) -> None:
    failures: list[Exception] = []

    def run() -> None:
        try:
            fetch(server.url, path, checksum=CHECKSUM)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert server.asked == [None]
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


def test_md5(server: Server, path: Path) -> None:
    get(server, path, f"md5:{MD5}")
    check_file(path, f"md5:{MD5.upper()}")
    other = "0" * 32
    with pytest.raises(InputError, match=rf"is truncated or altered \(MD5 {MD5}, expected {other}\)"):
        check_file(path, f"md5:{other}")
    path.unlink()
    with pytest.raises(InputError, match=rf"is not the published file.tgz \(MD5 {MD5}, expected {other}\)"):
        fetch(server.url, path, checksum=f"md5:{other}")
    assert not path.exists()


def test_without_checksum_broken_connections_are_taken_up(server: Server, path: Path) -> None:
    server.break_after = 1_250_000
    get(server, path, None)
    assert server.asked == [None, "bytes=1250000-", "bytes=2500000-"]


def test_without_checksum_an_old_partial_file_is_not_taken_up(server: Server, path: Path) -> None:
    start_with(path, b"?" * 1_000_000)
    get(server, path, None)
    assert server.asked == [None]


def test_without_checksum_a_short_file_never_appears(server: Server, path: Path) -> None:
    server.break_after = 100_000
    with pytest.raises(InputError, match="the connection broke after 100000 of"):
        fetch(server.url, path, checksum=None)
    assert not path.exists()
    assert not part(path).exists()


@pytest.mark.parametrize(
    "checksum", [SHA256, f"sha256:{MD5}", f"md5:{SHA256}", f"sha1:{MD5}", f"sha256:{SHA256[:-1]}g", f"{CHECKSUM}0", ""]
)
def test_checksum_of_another_form(server: Server, path: Path, checksum: str) -> None:
    sentence = rf"checksum '{checksum}' is not of the form sha256:<64 .*> or md5:<32 .*>: write it so"
    with pytest.raises(InputError, match=sentence):
        fetch(server.url, path, checksum=checksum)
    with pytest.raises(InputError, match=sentence):
        check_file(path, checksum)
    assert server.asked == []
    assert not path.parent.exists()


def test_checksum(tmp_path: Path) -> None:
    path = tmp_path / "file.tgz"
    path.write_bytes(CONTENT)
    check_file(path, CHECKSUM)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=r"file.tgz' is truncated or altered .*: delete it so that it is downloaded"):
        check_file(path, CHECKSUM)
    path.unlink()
    with pytest.raises(InputError, match=r"file.tgz' cannot be read .*: make it readable"):
        check_file(path, CHECKSUM)


def test_a_failure_leaves_neither_file_nor_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.tgz"
    with pytest.raises(DataNotThereError, match=r"could not be downloaded from http://127\.0\.0\.1:9/"):
        fetch("http://127.0.0.1:9/file.tgz", path, checksum=CHECKSUM)
    assert not path.parent.exists()
