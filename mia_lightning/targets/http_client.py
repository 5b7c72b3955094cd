"""HTTP to somebody else's server, which may be slow, broken or hostile.

A request has a limit of time as a whole and its answer one of size, whatever the server does. A failure says whether it
may pass. No message repeats a secret, even where the server does.
"""

import asyncio
import math
import os
import re
import ssl
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from importlib import import_module
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from mia_lightning.errors import InputError, first_line
from mia_lightning.targets.address import checked_url
from mia_lightning.targets.connections import Connections
from mia_lightning.targets.failures import StatusError, TryAgainError
from mia_lightning.targets.json_answers import TooMuchError, read_json
from mia_lightning.targets.said import keep_secret, said

DEFAULT_TOKEN_VARIABLE = "MIA_TOKEN"
LARGEST_BODY = 64 * 2**20  # bytes of an answer
_LARGEST_REFUSAL = 2**20  # bytes of the words beside another status than 2xx
_LONGEST_MESSAGE = 200  # characters of a server's own words

_CODINGS = frozenset(("gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"))

Headers = Mapping[str, str]


class HttpClient:
    """Connections to one server; many threads may use it at once.

    Redirects are not followed, so that no token goes to another server, and no cookies are kept.

    Args:
        url: of the server, with the path that all requests begin with.
        timeout: seconds, of a request as a whole.
        slowest: bytes of a request in a second for which a request has further time.
        connections: at once.
        authorise: makes the headers that show who asks, anew for each request; no message repeats their values.
        setting: the name of the setting that `url` comes from, for messages.

    Attributes:
        place: the address, without what may be secret.

    Raises:
        InputError: `url` is no address or holds a user or password, httpx is not installed, or the environment names a
            proxy or a file of authorities that cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        slowest: float = math.inf,
        connections: int = 4,
        authorise: Callable[[], Headers] = dict,
        setting: str = "target.url",
    ) -> None:
        self.place = checked_url(url, setting)
        self._timeout, self._slowest, self._authorise = timeout, slowest, authorise
        self._httpx = _httpx()
        try:
            self._connections = Connections(self._httpx, connecting=0.9 * timeout, keep=max(1, connections))
        except (ValueError, OSError, ImportError, self._httpx.InvalidURL) as error:  # which may repeat a password
            raise InputError(
                f"No connections can be made ({type(error).__name__}); correct the proxy and the file of authorities "
                "that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE), or unset them."
            ) from None
        self._finish = weakref.finalize(self, self._connections.close)

    def get(self, path: str) -> Any:
        """What the server answers, as JSON.

        Raises:
            TryAgainError, RefusedError, InputError: as in `ask`.
        """
        return self.ask("GET", path)

    def post(self, path: str, body: bytes, headers: Headers | None = None) -> Any:
        """What the server answers to a body of JSON, as JSON.

        Raises:
            TryAgainError, RefusedError, InputError: as in `ask`.
        """
        return self.ask("POST", path, body, {"Content-Type": "application/json", **(headers or {})})

    def close(self) -> None:
        self._finish()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Headers | None = None,
        read: Callable[[bytes], Any] = read_json,
    ) -> Any:
        """What the server answers.

        Args:
            read: makes something of the body of the answer, or raises a ValueError.

        Raises:
            TryAgainError: the server was too busy (429), failed (5xx) or did not answer in time, the connection broke,
                or the answer cannot be read.
            RefusedError: the server turned the request away.
            InputError: the server cannot be trusted, sends the client elsewhere, or sends too much or compressed.
        """
        shown = self._authorise()
        for value in shown.values():
            keep_secret(value.rpartition(" ")[2])
        everything = {"Accept": "application/json", "Accept-Encoding": "identity", **(headers or {}), **shown}
        answer = self._exchange(method, path, body, everything)
        self._check_status(answer)
        try:
            return read(bytes(answer.content))
        except TooMuchError as error:  # asked again, it would answer the same, and each time count
            raise InputError(f"The answer of {self.place} cannot be read: {error}.") from None
        except ValueError:
            words = said(answer.content.decode(errors="replace"))
            raise TryAgainError(f"its answer cannot be read: {words!r}") from None

    def _exchange(self, method: str, path: str, body: bytes, headers: Headers) -> "_Answer":
        answer, httpx = _Answer(), self._httpx
        try:
            self._connections.run(self._fetch(answer, method, self.place + path, body, headers))
        except (TimeoutError, httpx.TimeoutException):
            how = "whole answer" if answer.content else "answer" if answer.was_asked else "connection"
            raise TryAgainError(f"no {how} in {self._timeout:g} s", was_asked=answer.was_asked) from None
        except OSError as error:  # too many open files
            raise TryAgainError(f"no connection: {said(first_line(error))}", was_asked=False) from None
        except httpx.TransportError as error:
            reason = said(first_line(error), _LONGEST_MESSAGE)
            if _is_distrusted(error):
                raise InputError(
                    f"The certificate of {self.place} cannot be trusted ({reason}); ask its owner, or name the "
                    "authority that signed it in the environment variable SSL_CERT_FILE."
                ) from None
            what = "the connection broke" if answer.was_asked else "no connection"
            raise TryAgainError(f"{what}: {reason}", was_asked=answer.was_asked) from None
        except (httpx.InvalidURL, UnicodeError):
            place = said(self.place + path, _LONGEST_MESSAGE)
            raise InputError(f"{place} is no address; set `target.url` and the model's name.") from None
        return answer

    async def _fetch(self, answer: "_Answer", method: str, url: str, body: bytes, headers: Headers) -> None:
        """One request, given up at its limit of time wherever it is: names, handshakes, headers or body."""

        async def notice(event: str, info: Mapping[str, Any]) -> None:
            is_to_proxy = getattr(info.get("request"), "method", b"") == b"CONNECT"
            answer.was_asked |= event.endswith("send_request_headers.started") and not is_to_proxy

        client = self._connections.client
        more: dict[str, Any] = {"content": body, "headers": headers, "extensions": {"trace": notice}}
        limit = self._timeout + len(body) / self._slowest
        async with asyncio.timeout(limit), client.stream(method, url, **more) as response:
            answer.status, answer.headers = response.status_code, response.headers
            if answer.is_compressed:
                return
            async for part in response.aiter_raw():
                answer.content += part
                if not answer.is_good and len(answer.content) > _LARGEST_REFUSAL:
                    answer.content.clear()
                    return
                if len(answer.content) > LARGEST_BODY:
                    raise InputError(
                        f"{self.place} sends more than {LARGEST_BODY >> 20} MiB in an answer; lower "
                        "target.asking.batch_size, or set `target.url` to a model's server."
                    )

    def _check_status(self, answer: "_Answer") -> None:
        status = answer.status
        if answer.is_good:
            if answer.is_compressed:
                how = said(answer.headers["Content-Encoding"])
                raise InputError(
                    f"{self.place} compresses its answers ({how}), though the request wants them as they are; set "
                    "`target.url` to a server, or a proxy before it, that does not."
                )
            return
        words = _words(bytes(answer.content))
        reason = f"status {status}" + (f": {words}" if words else "")
        if status in (408, 425, 429) or status >= 500:
            after = retry_after(answer.headers.get("Retry-After"), answer.headers.get("Date"))
            raise TryAgainError(reason, after=after, was_asked=status not in (425, 429))
        if 300 <= status < 400:
            elsewhere = _without_query(said(answer.headers.get("Location", ""), _LONGEST_MESSAGE))
            raise InputError(
                f"{self.place} says that the model is elsewhere (status {status}, {elsewhere or 'without a place'}); "
                "set `target.url` to that place, which is not followed by itself so that no credentials go astray."
            )
        raise StatusError(f"{self.place} refuses the request ({reason}); {_mend(status)}.", status)


def token_headers(variable: str, header: str) -> Callable[[], Headers]:
    """What makes the header with a token, which is read from the environment now.

    Args:
        variable: of the environment; "" for none. Where the default variable is not set, there is no header.
        header: `Authorization` has "Bearer" before the token, any other header the token alone.

    Raises:
        InputError: there is no such variable, its value cannot stand in a header, or `header` is no name of one.
    """
    token = os.environ.get(variable, "").strip() if variable else ""
    if not token:
        if variable not in ("", DEFAULT_TOKEN_VARIABLE):
            raise InputError(
                f"`target.token_variable` names the environment variable {variable}, which is not set; export it with "
                "the token of the server, or set target.token_variable='' where it wants none."
            )
        return dict
    if not all("!" <= character <= "~" for character in token):
        raise InputError(
            f"The environment variable {variable} holds blanks or characters that no token has; export the token alone."
        )
    if re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", header, re.ASCII) is None:
        raise InputError(
            f"`target.token_header` is {header!r}, which no header is called; name one, such as X-Api-Key."
        )
    value = f"Bearer {token}" if header.lower() == "authorization" else token
    return lambda: {header: value}


def retry_after(value: str | None, now: str | None = None) -> float | None:
    """Seconds to wait by a `Retry-After` header, in seconds or as a date; None where it says nothing.

    Args:
        now: the `Date` header, by the server's own clock.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    try:
        start = time.time() if now is None else parsedate_to_datetime(now).timestamp()
    except (ValueError, TypeError, OverflowError):
        start = time.time()
    return max(0.0, until - start)


@dataclass(kw_only=True, eq=False)
class _Answer:
    """What is known of an answer so far.

    Attributes:
        was_asked: whether the server may have seen the request.
        status, headers, content: of HTTP.
    """

    was_asked: bool = False
    status: int = 0
    headers: Headers = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_compressed(self) -> bool:
        return not _CODINGS.isdisjoint(re.split(r"[\s,]+", self.headers.get("Content-Encoding", "").lower()))


def _httpx() -> ModuleType:
    try:
        return import_module("httpx")
    except ImportError as error:
        raise InputError(
            "A target at an address needs the package `httpx`, which cannot be imported; pip install "
            "'mia-lightning[remote]'."
        ) from error


def _is_distrusted(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _words(content: bytes) -> str:
    """A server's own short message, where it sends one in a form that servers use."""
    try:
        body = read_json(content)
    except ValueError:
        body = content.decode(errors="replace")
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and name in body:
            body = body[name]
    return said(body, _LONGEST_MESSAGE)


def _without_query(address: str) -> str:
    try:
        parts = urlsplit(address)
        return f"{parts.scheme}://{parts.hostname}{parts.path}" if parts.hostname else parts.path
    except ValueError:
        return ""


def _mend(status: int) -> str:
    if status in (401, 403):
        return "export the token that it wants in the environment variable that `target.token_variable` names"
    if status == 404:
        return "set `target.url` and the model's name to a model that it serves"
    if status == 413:
        return "lower target.asking.batch_size"
    return "give it records in the form that it takes"
