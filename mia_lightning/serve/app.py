"""The FastAPI application: its routes, the token that requests need, and errors as one JSON sentence."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from mia_lightning.serve.desk import Desk
from mia_lightning.serve.refusals import RefusedError

# Routes that tell a platform that the server is alive, and nothing about the model; they need no token.
_OPEN = ("/ping", "/v2/health/live", "/v2/health/ready")


@dataclass(frozen=True, kw_only=True)
class Token:
    """The token that a request must have in a header; in Authorization as `Bearer <token>`."""

    value: str = field(repr=False)
    header: str = "Authorization"

    def is_in(self, request: Request) -> bool:
        """Whether the request has it; the time does not depend on how much of it is right."""
        prefix = "Bearer " if self.header.lower() == "authorization" else ""
        given = request.headers.get(self.header, "")
        return hmac.compare_digest(given.encode(), f"{prefix}{self.value}".encode())


def make_app(routers: Sequence[APIRouter], desk: Desk, *, description: str, token: Token | None = None) -> FastAPI:
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
        return JSONResponse({"error": error.reason}, status_code=error.status, headers=error.headers)

    @app.exception_handler(HTTPException)
    def no_such_route(request: Request, error: HTTPException) -> Response:
        reason = f"{request.method} {request.url.path[:200]} is none of this server's routes; GET / lists them"
        return JSONResponse({"error": reason}, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(ClientDisconnect)
    def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)

    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> Response:
        # The traceback goes to the server's own log: it is a bug.
        return JSONResponse({"error": "the server failed; its own log says why"}, status_code=500)

    if token is not None:
        app.add_middleware(_TokenRequired, token=token)
    return app


class _TokenRequired:
    """Refuses requests without the token before their body is read."""

    def __init__(self, app: ASGIApp, token: Token) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN or self._token.is_in(Request(scope)):
            await self._app(scope, receive, send)
            return
        headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
        reason = f"the request has no valid token in its header {self._token.header}"
        await JSONResponse({"error": reason}, status_code=401, headers=headers)(scope, receive, send)
