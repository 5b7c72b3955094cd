"""One published file, fetched over HTTP and checked: it is either there whole or not there."""

import contextlib
import fcntl
import hashlib
import http
import http.client
import io
import os
import re
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mia_lightning.errors import DataNotThereError, InputError

_ATTEMPTS = 5
_BLOCK = 1 << 20
_NAMES = {"sha256": "SHA-256", "md5": "MD5"}


def fetch(url: str, path: Path, *, checksum: str | None, timeout_s: float = 30.0) -> None:
    """Download `url` to `path`, unless `path` is there already; the file appears whole and checked.

    The bytes go to `<path>.part`, which a later call takes up where it stopped (HTTP Range); it is renamed
    once its checksum is right. Of several processes that fetch one file, one downloads and the others wait.

    Args:
        url: `http`, `https` or `file`.
        path: its folder is made where it is missing.
        checksum: of the whole file, `sha256:<hexadecimal>` or `md5:<hexadecimal>`. None is for files whose
            publisher gives no checksum: only the length that the server announces (Content-Length) is compared, so
            the caller has to check the content, and what an earlier call left behind is not taken up, since
            nothing could tell whether it is of the same file.
        timeout_s: seconds without an answer after which the server counts as silent.

    Raises:
        DataNotThereError: the file cannot be downloaded.
        InputError: it cannot be written, or is not the one expected, or `checksum` is not of one of the two forms.
    """
    expected = None if checksum is None else _parse(checksum)
    part = path.with_name(f"{path.name}.part")
    is_new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _open_locked(part)
    except OSError as error:
        raise InputError(
            f"{path.name} cannot be downloaded to '{path.parent.absolute()}' ({error}): set dataset.root to "
            "a folder that can be written"
        ) from error
    with handle:
        if path.exists():  # another process was faster
            part.unlink(missing_ok=True)
            return
        try:
            if expected is None:
                _receive_anew(url, handle, path, timeout_s)
            else:
                _fill(url, handle, path, expected, timeout_s)
        except InputError:
            if handle.seek(0, os.SEEK_END) == 0:  # nothing to take up
                part.unlink(missing_ok=True)
                if is_new:
                    with contextlib.suppress(OSError):  # another process is at work there
                        path.parent.rmdir()
            raise
        os.replace(part, path)


def check_file(path: Path, checksum: str) -> None:
    """Nothing, if the file is the published one.

    Args:
        path: of the file to read.
        checksum: `sha256:<hexadecimal>` or `md5:<hexadecimal>`.

    Raises:
        InputError: the file cannot be read, its checksum is another, or `checksum` is not of one of the two forms.
    """
    expected = _parse(checksum)
    try:
        with path.open("rb") as handle:
            found = expected.found_in(handle)
    except OSError as error:
        raise InputError(f"'{path.absolute()}' cannot be read ({error}): make it readable") from error
    if found != expected.value:
        raise InputError(
            f"'{path.absolute()}' is truncated or altered ({expected.said(found)}): delete it "
            "so that it is downloaded anew"
        )


@dataclass(frozen=True, kw_only=True)
class _Checksum:
    algorithm: str
    value: str  # hexadecimal, in small letters

    def found_in(self, handle: io.BufferedRandom | io.BufferedReader) -> str:
        handle.seek(0)
        return hashlib.file_digest(handle, lambda: _digest(self.algorithm)).hexdigest()

    def fits(self, handle: io.BufferedRandom) -> bool:
        return self.found_in(handle) == self.value

    def said(self, found: str) -> str:
        return f"{_NAMES[self.algorithm]} {found}, expected {self.value}"


def _parse(checksum: str) -> _Checksum:
    algorithm, _, value = str(checksum).partition(":")
    value = value.lower()
    if algorithm not in _NAMES or not re.fullmatch(f"[0-9a-f]{{{2 * _digest(algorithm).digest_size}}}", value):
        raise InputError(
            f"checksum {checksum!r} is not of the form sha256:<64 hexadecimal digits> or md5:<32 hexadecimal digits>: "
            "write it so, as `sha256sum` or `md5sum` prints it for the file"
        )
    return _Checksum(algorithm=algorithm, value=value)


def _digest(algorithm: str) -> Any:
    # MD5 guards against accidents here; where it is the only one published, a FIPS build has to allow it.
    return hashlib.new(algorithm, usedforsecurity=False)


def _fill(url: str, handle: io.BufferedRandom, path: Path, expected: _Checksum, timeout_s: float) -> None:
    """Bring the partial file to its whole, checked content; on failure what is sound of it stays."""
    resumed = handle.seek(0, os.SEEK_END) > 0
    if resumed and expected.fits(handle):  # the last run died just before it renamed the file
        return
    _receive(url, handle, path, timeout_s)
    if resumed and not expected.fits(handle):  # the old bytes were of something else
        handle.truncate(0)
        _receive(url, handle, path, timeout_s)
    if (found := expected.found_in(handle)) != expected.value:
        handle.truncate(0)
        raise InputError(
            f"the file at {url} is not the published {path.name} ({expected.said(found)}): "
            f"{_mend(path)}, or set dataset.url to a mirror"
        )


def _receive_anew(url: str, handle: io.BufferedRandom, path: Path, timeout_s: float) -> None:
    """All or nothing: bytes that no checksum can vouch for are of no use to a later call."""
    handle.truncate(0)
    try:
        _receive(url, handle, path, timeout_s)
    except InputError:
        handle.truncate(0)
        raise


def _receive(url: str, handle: io.BufferedRandom, path: Path, timeout_s: float) -> None:
    """Append the missing bytes; a broken connection is taken up again as long as each attempt brings some."""
    failure: Exception | None = None
    for _ in range(_ATTEMPTS):
        before = handle.seek(0, os.SEEK_END)
        try:
            _stream(url, handle, timeout_s)
            return
        except (OSError, http.client.HTTPException, ValueError) as error:
            failure = error
        if handle.seek(0, os.SEEK_END) <= before:
            break
    raise DataNotThereError(f"{path.name} could not be downloaded from {url} ({failure}): {_mend(path)}") from failure


def _stream(url: str, handle: io.BufferedRandom, timeout_s: float) -> None:
    start = handle.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"User-Agent": "mia-lightning"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing; whether it is the right content, the checksum tells
        raise
    with response:
        resumes = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if start and not resumes:  # a server without ranges sends the whole file
            handle.truncate(0)
            start = 0
        length = response.headers.get("Content-Length")
        shutil.copyfileobj(response, handle, _BLOCK)
    # A connection that closes early looks like the end of the file.
    received = handle.seek(0, os.SEEK_END) - start
    if length is not None and received < int(length):
        raise ConnectionError(f"the connection broke after {received} of {length} bytes")


def _mend(path: Path) -> str:
    return (
        f"put the file {path.name} into '{path.parent.absolute()}' by hand, or set dataset.root to the "
        "folder that holds it"
    )


def _open_locked(part: Path) -> io.BufferedRandom:
    """The partial file, for one process at a time; one that was renamed or removed while we waited is opened anew."""
    while True:
        handle = part.open("a+b")
        # Some network file systems have no locks; there the checksum still refuses the work of two writers.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle.fileno()), part.stat()):
                return handle
        handle.close()
