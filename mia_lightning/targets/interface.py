"""What is attacked: anything that can be observed on the population's records."""

from typing import Protocol

from mia_lightning.training.fit import TrainedStack
from mia_lightning.training.setup import Setup


class Target(Protocol):
    """Where the target models come from.

    Attributes:
        count: T, the number of targets.
        is_trained_here: False where the models exist already, so that their members must be `given`.
    """

    @property
    def count(self) -> int: ...

    @property
    def is_trained_here(self) -> bool: ...

    def obtain(self, setup: Setup) -> TrainedStack: ...
