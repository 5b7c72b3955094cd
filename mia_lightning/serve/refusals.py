"""The refusal of a request: a status and one sentence for the client, the same in every protocol."""

from collections.abc import Mapping


class RefusedError(Exception):
    """A request that is at fault, or beyond the limits of this server.

    Args:
        status: of HTTP.
        reason: one sentence, for the client.
        headers: of the answer.
    """

    def __init__(self, status: int, reason: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})
