"""The FastAPI application: its routes, what a request needs to reach them, and errors as one JSON sentence."""

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mia_lightning.serve.desk import Desk
from mia_lightning.serve.hosts import Hosts
from mia_lightning.serve.refusals import RefusedError

LONGEST_BODY = 300.0  # seconds until the body of a request is there
# Routes that tell a platform that the server is alive, and nothing about the model; they need no token.
_OPEN = ("/ping", "/v2/health/live", "/v2/health/ready")


@dataclass(frozen=True, kw_only=True)
class Token:
    """The token that a request must have in a header; in Authorization as `Bearer <token>`."""

    value: str = field(repr=False)
    header: str = "Authorization"

    def check(self, request: Request) -> None:
        """Refuse a request without it; the time does not depend on how much of a token is right.

        Raises:
            RefusedError: it has none, or another.
        """
        if request.scope["path"] in _OPEN:
            return
        prefix = "Bearer " if self.header.lower() == "authorization" else ""
        given = request.headers.get(self.header, "")
        if not hmac.compare_digest(given.encode(), f"{prefix}{self.value}".encode()):
            raise RefusedError(
                401,
                f"the request has no valid token in its header {self.header}",
                headers={"WWW-Authenticate": "Bearer"},
            )


def make_app(
    routers: Sequence[APIRouter], desk: Desk, *, description: str, hosts: Hosts, token: Token | None = None
) -> FastAPI:
    """The application; it answers `GET /` with the description and `GET /counts` with its counts."""
    app = FastAPI(title="mia-serve", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    def root() -> PlainTextResponse:
        return PlainTextResponse(description)

    @app.get("/counts")
    def counts() -> dict[str, int]:
        return dict(desk.counts)

    for router in routers:
        app.include_router(router)

    @app.exception_handler(RefusedError)
    def refused(request: Request, error: RefusedError) -> Response:
        return _answer(error)

    @app.exception_handler(HTTPException)
    def no_such_route(request: Request, error: HTTPException) -> Response:
        path = quote(request.scope["path"], safe="/:")[:200]
        reason = f"{request.method} {path} is none of this server's routes; GET / lists them"
        return JSONResponse({"error": reason}, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(ClientDisconnect)
    def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)

    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> Response:
        # The traceback goes to the server's own log: it is a bug.
        return JSONResponse({"error": "the server failed; its own log says why"}, status_code=500)

    app.add_middleware(_Door, checks=[hosts.check] if token is None else [hosts.check, token.check])
    return app


class _Door:
    """Turns requests away before their body is read, or where it comes too slowly."""

    def __init__(self, app: ASGIApp, checks: Sequence[Callable[[Request], None]]) -> None:
        self._app, self._checks = app, checks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            try:
                for check in self._checks:
                    check(Request(scope))
            except RefusedError as error:
                app = _answer(error, {"Connection": "close"})
            receive = _in_time(receive)
        await app(scope, receive, send)


def _in_time(receive: Receive) -> Receive:
    """The same, refusing a body that is not there in time."""
    until, is_whole = time.monotonic() + LONGEST_BODY, False

    async def receive_in_time() -> Message:
        nonlocal is_whole
        if is_whole:  # what is waited for now is that the client leaves
            return await receive()
        try:
            async with asyncio.timeout(until - time.monotonic()):
                message = await receive()
        except TimeoutError:
            reason = f"the body of the request did not come in {LONGEST_BODY:g} s"
            raise RefusedError(408, reason, headers={"Connection": "close"}) from None
        is_whole = not message.get("more_body", False)
        return message

    return receive_in_time


def _answer(error: RefusedError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    everything = {**error.headers, **(headers or {})}
    return JSONResponse({"error": error.reason}, status_code=error.status, headers=everything)
