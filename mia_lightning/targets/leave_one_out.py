"""Many targets for free: every model of one stack is a target once, and the others are its shadow models."""

from dataclasses import dataclass
from typing import ClassVar

from mia_lightning.errors import InputError
from mia_lightning.training.setup import Setup
from mia_lightning.training.trained import TrainedStack


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """`shadow.count` models, each of which is a target while those outside its block are its shadow models.

    Attributes:
        folds: attacks that learn (networks, thresholds) do so once for each fold of whole blocks, on the models of the
            other folds, so that no target is scored by what has seen it or its complement.
    """

    folds: int = 8
    count: ClassVar[int] = 0  # beside the shadow models
    is_trained_here: ClassVar[bool] = True
    takes_recipe: ClassVar[bool] = True
    takes_guess: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if type(self.folds) is not int or self.folds < 2:
            raise InputError(f"`target.folds` is {self.folds!r}; it must be a whole number of at least 2.")

    def obtain(self, setup: Setup) -> TrainedStack:
        """Train all models, those that fail among them."""
        return setup.train(setup.membership.shadows, "shadow")

    def train_shadows(self, setup: Setup) -> TrainedStack:
        """Not called: the targets are the shadow models."""
        raise AssertionError("the targets are the shadow models")
