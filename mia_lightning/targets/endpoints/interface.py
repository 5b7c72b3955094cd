"""What a served model is: one request at a time, and nothing of retries, budgets or caches.

To add a protocol, write `mia_lightning/targets/endpoints/<name>.py` with a frozen dataclass that has `asking`, derives
from `EndpointTarget` and makes an `Endpoint` of its own, and `conf/target/<name>.yaml` that names it.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from mia_lightning.errors import InputError

# What a served model says of one record, as it came over the wire: numbers, one for each class, in the server's order
# of classes; or the class alone, by its name or number; or some classes by their names, with their probabilities.
RawAnswer = Sequence[float] | str | int | Mapping[str, float]


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


class Endpoint(Protocol):
    """One served model; many threads may ask it at once.

    Attributes:
        protocol: its name in reports, such as "open_inference".
        place: where it is, for reports and messages: an address without user, password and query, a file, a name.
    """

    @property
    def protocol(self) -> str: ...

    @property
    def place(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, object]:
        """All that its answers depend on beside the records, as JSON, without secrets: the key of kept responses."""
        ...

    def ask(self, x_B: Tensor) -> Sequence[RawAnswer]:
        """One request: an answer for each record `[B, *features]`, in the form of `Population.x_N`, on the CPU.

        Raises:
            TryAgainError: it may work another time.
            RefusedError: it was turned away, and so is not counted: refused credentials, no such model.
            InputError: it will not work: records of a form that the model does not take, a body that is no answer.
        """
        ...

    def close(self) -> None:
        """Give connections back."""
        ...
