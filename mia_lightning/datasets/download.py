"""Download of one published file over HTTP; the file appears complete and checked, or not at all."""

import contextlib
import fcntl
import hashlib
import http
import http.client
import io
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mia_lightning.errors import DataNotThereError, InputError

_ATTEMPTS = 5
_BLOCK = 1 << 20
_LARGEST = 16 << 30  # bytes of a file; more than any that is published
_NAMES = {"sha256": "SHA-256", "md5": "MD5"}


def fetch(url: str, path: Path, *, checksum: str | None, timeout_s: float = 30.0) -> None:
    """Download `url` to `path`, unless `path` exists; the file appears complete and checked.

    The bytes go to `<path>.part`, which a later call continues (HTTP Range), and which is renamed when its checksum
    matches. Of several processes that fetch one file, one downloads and the others wait.

    Args:
        url: `http`, `https` or `file`.
        path: its folder is created where it is missing.
        checksum: of the whole file, `sha256:<hexadecimal>` or `md5:<hexadecimal>`. None is for files whose
            publisher gives no checksum: only the length that the server announces (Content-Length) is compared, so
            the caller must check the content; and a partial file of an earlier call is not continued, since
            nothing tells whether it belongs to the same file.
        timeout_s: seconds without an answer after which the download is given up.

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
        if expected is None:
            handle.truncate(0)
        try:
            _fill(url, handle, path, expected, timeout_s)
        except InputError:
            if expected is None:
                handle.truncate(0)
            if handle.seek(0, os.SEEK_END) == 0:  # nothing to continue
                part.unlink(missing_ok=True)
                if is_new:
                    with contextlib.suppress(OSError):  # another process uses the folder
                        path.parent.rmdir()
            raise
        os.replace(part, path)


def check_file(path: Path, checksum: str) -> None:
    """Refuse a file that is not the published one.

    Args:
        path: of the file to read.
        checksum: `sha256:<hexadecimal>` or `md5:<hexadecimal>`.

    Raises:
        InputError: the file cannot be read, its checksum is another, or `checksum` is not of one of the two forms.
    """
    expected = _parse(checksum)
    try:
        with path.open("rb") as handle:
            difference = expected.difference(handle)
    except OSError as error:
        raise InputError(f"'{path.absolute()}' cannot be read ({error}): make it readable") from error
    if difference is not None:
        raise InputError(
            f"'{path.absolute()}' is truncated or altered ({difference}): delete it so that it is downloaded again"
        )


@dataclass(frozen=True, kw_only=True)
class _Checksum:
    algorithm: str
    value: str  # hexadecimal, in small letters

    def difference(self, handle: io.BufferedRandom | io.BufferedReader) -> str | None:
        """The checksum of the file beside this one; None where they are equal."""
        handle.seek(0)
        found = hashlib.file_digest(handle, lambda: _digest(self.algorithm)).hexdigest()
        return None if found == self.value else f"{_NAMES[self.algorithm]} {found}, expected {self.value}"


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


def _fill(url: str, handle: io.BufferedRandom, path: Path, expected: _Checksum | None, timeout_s: float) -> None:
    """Complete the partial file and check it; after a failure the bytes that may be right stay."""
    resumed = handle.seek(0, os.SEEK_END) > 0
    if resumed and expected is not None and expected.difference(handle) is None:  # it was complete, but not renamed
        return
    _receive(url, handle, path, timeout_s)
    difference = None if expected is None else expected.difference(handle)
    if expected is not None and difference is not None and resumed:  # the old bytes belonged to another file
        handle.truncate(0)
        _receive(url, handle, path, timeout_s)
        difference = expected.difference(handle)
    if difference is not None:
        handle.truncate(0)
        raise InputError(
            f"the file at {url} is not the published {path.name} ({difference}): {_mend(path)}, or set dataset.url to "
            "a mirror"
        )


def _receive(url: str, handle: io.BufferedRandom, path: Path, timeout_s: float) -> None:
    """Append the missing bytes; a broken connection is opened again as long as each attempt brings some."""
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
            return  # no bytes are missing; whether they are right, the checksum tells
        raise
    with response:
        resumes = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if start and not resumes:  # a server without ranges sends the whole file
            handle.truncate(0)
            start = 0
        length = response.headers.get("Content-Length")
        while block := response.read(_BLOCK):
            handle.write(block)
            if handle.tell() > _LARGEST:
                raise ValueError(f"it sends more than {_LARGEST >> 30} GiB, without an end")
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
    """The partial file, locked against other processes; opened again where another process has renamed it meanwhile."""
    while True:
        handle = part.open("a+b")
        # Some network file systems have no locks; there the checksum refuses what two writers have mixed.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle.fileno()), part.stat()):
                return handle
        handle.close()
