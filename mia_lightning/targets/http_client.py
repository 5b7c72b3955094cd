"""HTTP to somebody else's server: which failures may pass and which will not, and no secret in any message."""

import json
import os
import ssl
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from importlib import import_module
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from mia_lightning.errors import InputError, first_line
from mia_lightning.targets.address import checked_url
from mia_lightning.targets.failures import StatusError, TryAgainError

DEFAULT_TOKEN_VARIABLE = "MIA_TOKEN"
_LARGEST_BODY = 256 * 2**20  # bytes of an answer
_LONGEST_MESSAGE = 200  # characters of a server's own words
_SHORTEST_SECRET = 4  # shorter ones would be found in any text

Headers = Mapping[str, str]


class HttpClient:
    """Connections to one server; many threads may use it at once.

    Redirects are not followed, so that no token goes to another server.

    Args:
        url: of the server, with the path that all requests begin with.
        timeout: seconds, of a request as a whole.
        connections: at once.
        authorise: makes the headers that show who asks, anew for each request; no message repeats their values.
        setting: the name of the setting that `url` comes from, for messages.

    Attributes:
        place: the address, without what may be secret.

    Raises:
        InputError: `url` is no address or holds a user or password, or httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        connections: int = 4,
        authorise: Callable[[], Headers] = dict,
        setting: str = "target.url",
    ) -> None:
        self.place = checked_url(url, setting)
        self._timeout, self._authorise = timeout, authorise
        self._httpx = _httpx()
        limits = self._httpx.Limits(max_connections=None, max_keepalive_connections=max(1, connections))
        self._client = self._httpx.Client(timeout=timeout, limits=limits, follow_redirects=False)

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
        self._client.close()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Headers | None = None,
        read: Callable[[bytes], Any] = json.loads,
    ) -> Any:
        """What the server answers.

        Args:
            read: makes something of the body of the answer, or raises a ValueError.

        Raises:
            TryAgainError: the server was too busy (429), failed (5xx) or did not answer in time, the connection broke,
                or the answer cannot be read.
            RefusedError: the server turned the request away.
            InputError: the server cannot be trusted, sends the client elsewhere, or sends too much.
        """
        shown = self._authorise()
        secrets = [
            part for value in shown.values() for part in (value, *value.split()) if len(part) >= _SHORTEST_SECRET
        ]
        hide = _Hiding(secrets)
        everything = {"Accept": "application/json", "Accept-Encoding": "identity", **(headers or {}), **shown}
        httpx = self._httpx
        try:
            with self._client.stream(method, self.place + path, content=body, headers=everything) as response:
                content = self._read(response)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            if _is_distrusted(error):
                raise InputError(
                    f"The certificate of {self.place} cannot be trusted ({hide(str(error))}); ask its owner, or name "
                    "the authority that signed it in the environment variable SSL_CERT_FILE."
                ) from None
            raise TryAgainError(f"no connection: {hide(_reason(error))}", was_asked=False) from None
        except httpx.TimeoutException:
            raise TryAgainError(f"no answer in {self._timeout:g} s") from None
        except httpx.TransportError as error:
            raise TryAgainError(f"the connection broke: {hide(_reason(error))}") from None
        except httpx.InvalidURL:
            raise InputError(f"{self.place}{path} is no address; set `target.url` and the model's name.") from None
        self._check_status(response, content, hide)
        try:
            return read(content)
        except (ValueError, RecursionError):
            raise TryAgainError(f"its answer cannot be read: {hide(_text(content, 60))!r}") from None

    def _read(self, response: Any) -> bytes:
        """The body, unless it is too long or takes too long."""
        end, parts, size = time.monotonic() + self._timeout, [], 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > _LARGEST_BODY:
                raise InputError(
                    f"{self.place} sends more than {_LARGEST_BODY >> 20} MiB in an answer; lower "
                    "target.asking.batch_size, or set `target.url` to a model's server."
                )
            if time.monotonic() > end:
                raise TryAgainError(f"no whole answer in {self._timeout:g} s")
        return b"".join(parts)

    def _check_status(self, response: Any, content: bytes, hide: "_Hiding") -> None:
        status = response.status_code
        if 200 <= status < 300:
            return
        words = hide(_words(content))
        said = f"status {status}" + (f": {words}" if words else "")
        if status in (408, 425, 429) or status >= 500:
            after = retry_after(response.headers.get("Retry-After"), response.headers.get("Date"))
            raise TryAgainError(said, after=after, was_asked=status not in (425, 429))
        if 300 <= status < 400:
            elsewhere = hide(_without_secrets(response.headers.get("Location", "")))
            raise InputError(
                f"{self.place} says that the model is elsewhere (status {status}, {elsewhere or 'without a place'}); "
                "set `target.url` to that place, which is not followed by itself so that no credentials go astray."
            )
        raise StatusError(f"{self.place} refuses the request ({said}); {_mend(status)}.", status)


def token_headers(variable: str, header: str) -> Callable[[], Headers]:
    """What makes the header with a token, which is read from the environment now.

    Args:
        variable: of the environment; "" for none. Where the default variable is not set, there is no header.
        header: `Authorization` has "Bearer" before the token, any other header the token alone.

    Raises:
        InputError: there is no such variable, or its value cannot stand in a header.
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


class _Hiding:
    """Replaces secrets in a text."""

    def __init__(self, secrets: list[str]) -> None:
        self._secrets = sorted((each for each in secrets if each != "Bearer"), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text


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


def _reason(error: BaseException) -> str:
    return first_line(error)[:_LONGEST_MESSAGE]


def _text(content: bytes, length: int) -> str:
    text = " ".join(content[: 4 * length + 16].decode(errors="replace").split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _words(content: bytes) -> str:
    """A server's own short message, where it sends one in a form that servers use."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and name in body:
            body = body[name]
    text = body if isinstance(body, str) else content.decode(errors="replace") if body is None else json.dumps(body)
    return _text(text.encode(), _LONGEST_MESSAGE)


def _without_secrets(address: str) -> str:
    try:
        parts = urlsplit(address)
        return f"{parts.scheme}://{parts.hostname}{parts.path}"[:_LONGEST_MESSAGE] if parts.hostname else parts.path
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
