"""What an endpoint is: it answers one request, and knows nothing of retries, budgets or caches.

To add a protocol, write `mia_lightning/targets/endpoints/<name>.py` with a frozen dataclass that has `asking`, derives
from `EndpointTarget` and makes an `Endpoint` of its own, and `conf/target/<name>.yaml` that names it.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

# The answer for one record as it came: a number for each class, in the server's order of classes; or the class alone,
# by its name or number; or some classes by their names, with their probabilities.
RawAnswer = Sequence[float] | str | int | Mapping[str, float]


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
        """Everything that answers depend on beside the records, as JSON, without secrets: the key of kept responses."""
        ...

    def ask(self, x_B: Tensor) -> Sequence[RawAnswer]:
        """One request: an answer for each record `[B, *features]`, in the form of `Population.x_N`, on the CPU.

        Raises:
            TryAgainError: the request may work another time.
            RefusedError: the request was turned away, and so is not counted: refused credentials, no such model.
            InputError: the request will never work: the model does not take such records, or the body is no answer.
        """
        ...

    def close(self) -> None:
        """Give connections back."""
        ...
