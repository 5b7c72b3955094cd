"""Targets that are trained here, on the records that the membership plan gives them."""

import operator
from dataclasses import dataclass
from typing import ClassVar, SupportsIndex

from mia_lightning.errors import InputError
from mia_lightning.training.setup import Setup
from mia_lightning.training.trained import TrainedStack


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A stack of `count` targets; figures are means over them."""

    count: int = 1
    is_trained_here: ClassVar[bool] = True
    takes_recipe: ClassVar[bool] = True
    takes_guess: ClassVar[bool] = True

    def __post_init__(self) -> None:
        count: object = self.count  # of any type, from a configuration
        if isinstance(count, bool) or not isinstance(count, SupportsIndex) or operator.index(count) < 1:
            raise InputError(f"`target.count` is {count!r}; it must be a whole number of at least 1.")
        object.__setattr__(self, "count", operator.index(count))  # an int of Python, also from numpy

    def obtain(self, setup: Setup) -> TrainedStack:
        """Train the targets, those whose loss becomes NaN or infinite among them.

        Raises:
            InputError: this happens to all of them.
        """
        trained = setup.train(setup.membership.targets, "target")
        if bool((trained.failed_epoch_K >= 0).all()):
            raise InputError(
                f"The loss of target 0 was no longer finite in epoch {int(trained.failed_epoch_K[0])}; lower "
                "`training.optimizer.lr` or set `training.gradient_clip_norm`."
            )
        return trained

    def train_shadows(self, setup: Setup) -> TrainedStack:
        """Networks of the configured `model`, trained by the configured recipe."""
        return setup.train(setup.membership.shadows, "shadow")
