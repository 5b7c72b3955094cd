"""What an attacker can ask of the target."""

from typing import Protocol

from torch import Tensor


class BlackBox(Protocol):
    """Gives predictions for records, each of which counts as a query; nothing else of the target is known.

    Attributes:
        num_queries: records asked about so far.
        num_classes: C.
    """

    @property
    def num_queries(self) -> int: ...

    @property
    def num_classes(self) -> int: ...

    def predict(self, x_B: Tensor) -> Tensor:
        """Probabilities `[B, C]` float32, on the device of `x_B`.

        Args:
            x_B: records `[B, *features]` in the form of `Population.x_N`, before any normalisation.
        """
        ...
