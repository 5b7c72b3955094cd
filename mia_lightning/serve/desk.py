"""The handling of every request for predictions: type and limit of its body, latency, faults and counts."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from mia_lightning.serve.faults import TURNED_AWAY, Faults
from mia_lightning.serve.refusals import RefusedError

JSON, BYTES, CSV = "application/json", "application/octet-stream", "text/csv"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The content of an answer, and for how many records it is."""

    content: bytes
    num_records: int
    media_type: str = JSON


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Takes requests and gives answers.

    Attributes:
        latency: seconds by which each answer is delayed.
        faults: made on purpose.
        retry_after: seconds that a refused client is asked to wait; None to ask for none.
        max_bytes: the most bytes of a body.
        counts: so far, of `requests`, of `records` that the model answered, and of each kind of fault.
    """

    latency: float = 0.0
    faults: Faults = field(default_factory=lambda: Faults(shares={}))
    retry_after: int | None = None
    max_bytes: int = 2**26
    counts: Counter[str] = field(default_factory=Counter)

    async def answer(self, request: Request, types: Sequence[str], reply: Callable[[bytes], Reply]) -> Response:
        """What `reply` makes of the body, or the fault that is made in its place.

        Raises:
            RefusedError: the body is of none of the `types` or too large, or `reply` refuses it.
        """
        fault = self.faults.of(self.counts["requests"])
        self.counts["requests"] += 1
        body = await self.body(request, types)
        await asyncio.sleep(self.latency)
        if fault in TURNED_AWAY:
            self.counts[fault] += 1
            return self._turned_away(int(fault))
        made = await run_in_threadpool(reply, body)
        self.counts["records"] += made.num_records
        if fault is None:
            return Response(made.content, media_type=made.media_type)
        self.counts[fault] += 1
        return _broken(fault, made)

    async def body(self, request: Request, types: Sequence[str]) -> bytes:
        """The whole body; its bytes are counted as they arrive, since a header can say anything.

        Types are asked for by name, since a page in a browser may send some, and a body without any, to other sites.

        Raises:
            RefusedError: it is larger than `max_bytes`, or of none of the `types`.
        """
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self.max_bytes:
                raise RefusedError(
                    413,
                    f"the body has more than {self.max_bytes} bytes, the most that this server takes (--max-bytes); "
                    "send fewer records at once",
                    headers={"Connection": "close"},
                )
        if media_type(request) not in types:
            given = request.headers.get("content-type")
            raise RefusedError(
                415,
                ("the body has no Content-Type" if given is None else f"the body is {given[:100]!r}")
                + f"; send {' or '.join(types)}",
            )
        return bytes(body)

    def _turned_away(self, status: int) -> Response:
        reason = "too many requests" if status == 429 else "the server is not available now"
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return JSONResponse({"error": f"{reason}; try again later"}, status_code=status, headers=headers)


def media_type(request: Request) -> str:
    """The type of the body, without parameters; bytes of any kind, where the request does not say (RFC 9110, 8.3)."""
    return request.headers.get("content-type", BYTES).partition(";")[0].strip().lower()


def _broken(fault: str, made: Reply) -> Response:
    half = made.content[: len(made.content) // 2]
    if fault == "500":
        return JSONResponse({"error": "the server failed; try again later"}, status_code=500)
    if fault == "garbage":
        return Response(b"\x00" + half, media_type=made.media_type)
    return _CutResponse(made.content, media_type=made.media_type)


class _CutResponse(Response):
    """Announces its length and sends half of it; uvicorn then closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body[: len(self.body) // 2], "more_body": True})
