"""How a request to somebody else's server fails: it may work another time, or never."""

from mia_lightning.errors import InputError

LONGEST_PAUSE = 600.0  # seconds that a server may ask for


class TryAgainError(Exception):
    """A request that failed in a way that may pass: too many requests, a fault of the server, a broken connection.

    Args:
        reason: what happened, for a person, without anything secret.
        after: seconds that the server asks to wait; None where it says nothing.
        was_asked: whether the records may have been answered, and paid for, all the same. False only where the server
            turned the request away (429) or was never reached.
    """

    def __init__(self, reason: str, *, after: float | None = None, was_asked: bool = True) -> None:
        super().__init__(reason)
        self.reason, self.after, self.was_asked = reason, after, was_asked


class RefusedError(InputError):
    """A request that the server turned away before the model saw its records, as it will any other time."""


class StatusError(RefusedError):
    """A request that the server turned away.

    Args:
        message: for a person.
        status: of HTTP.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
