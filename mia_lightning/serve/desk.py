"""What every request for predictions goes through: limits on its body, latency, faults, and the counts of all."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from mia_lightning.serve.faults import TURNED_AWAY, Faults
from mia_lightning.serve.refusals import RefusedError


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What an answer says, and for how many records."""

    content: bytes
    num_records: int
    media_type: str = "application/json"


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where requests are taken and answers given out.

    Attributes:
        latency: seconds that each answer is held back.
        faults: that befall requests.
        retry_after: seconds that a request turned away is told to wait; None to tell nothing.
        max_bytes: of a body.
        counts: of this server so far: `requests`, `records` that the model answered, and each fault by its kind.
    """

    latency: float = 0.0
    faults: Faults = field(default_factory=lambda: Faults(shares={}))
    retry_after: int | None = None
    max_bytes: int = 2**26
    counts: Counter[str] = field(default_factory=Counter)

    async def answer(self, request: Request, reply: Callable[[bytes], Reply]) -> Response:
        """What `reply` makes of the body, or the fault that befalls the request.

        Raises:
            RefusedError: the body is too large, or `reply` refuses it.
        """
        fault = self.faults.of(self.counts["requests"])
        self.counts["requests"] += 1
        body = await self.body(request)
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

    async def body(self, request: Request) -> bytes:
        """The whole body, counted as it streams in: a header can say anything.

        Raises:
            RefusedError: it is larger than `max_bytes`.
        """
        size = 0
        parts = []
        async for part in request.stream():
            size += len(part)
            if size > self.max_bytes:
                raise RefusedError(
                    413,
                    f"the body has more than {self.max_bytes} bytes, the most that this server takes (--max-bytes); "
                    "send fewer records at once",
                    headers={"Connection": "close"},
                )
            parts.append(part)
        return b"".join(parts)

    def _turned_away(self, status: int) -> Response:
        reason = "too many requests" if status == 429 else "the server is not available now"
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return JSONResponse({"error": f"{reason}; try again later"}, status_code=status, headers=headers)


def _broken(fault: str, made: Reply) -> Response:
    half = made.content[: len(made.content) // 2]
    if fault == "500":
        return JSONResponse({"error": "the server failed; try again later"}, status_code=500)
    if fault == "garbage":
        return Response(b"\x00" + half, media_type=made.media_type)
    return _CutResponse(made.content, media_type=made.media_type)


class _CutResponse(Response):
    """Says how long it is, sends half of that, and returns: uvicorn then closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body[: len(self.body) // 2], "more_body": True})
