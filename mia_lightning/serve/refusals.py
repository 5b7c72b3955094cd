"""What a client is told when a request is refused: a status and one sentence, the same in every protocol."""

from collections.abc import Mapping


class RefusedError(Exception):
    """The request is at fault, or this server's limits forbid it.

    Args:
        status: of HTTP.
        reason: one sentence, for the client.
        headers: of the answer.
    """

    def __init__(self, status: int, reason: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})
