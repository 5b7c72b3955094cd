"""Stopping before records are learnt by heart: a model stops when records held out gain no more."""

from dataclasses import dataclass, replace
from typing import ClassVar

from mia_lightning.errors import InputError
from mia_lightning.training.step import recipe as recipes
from mia_lightning.training.step.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Each model stops for itself when its loss on the held-out records has not fallen for some epochs.

    It needs `membership.validation` records, which are evidence about no model. A model is what it was when it
    stopped.

    Attributes:
        patience: epochs without a fall, at least 1.
        min_delta: by how much the loss must fall to count, at least 0, in nats.
    """

    name: ClassVar[str] = "early_stopping"

    patience: int = 5
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if type(self.patience) is not int or self.patience < 1:
            raise InputError(
                f"`defense.early_stopping.patience` is {self.patience!r}; it must be a whole number of epochs, at "
                "least 1."
            )
        if type(self.min_delta) not in (int, float) or not self.min_delta >= 0:
            raise InputError(
                f"`defense.early_stopping.min_delta` is {self.min_delta!r}; it must be a number of at least 0."
            )

    def describe(self) -> str:
        return f"early stopping {self.patience}"

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe with early stopping.

        Raises:
            InputError: the recipe stops early already.
        """
        if recipe.early_stopping is not None:
            raise InputError(
                "defense=early_stopping is set beside `training.early_stopping`; set the latter to null, or leave the "
                "defence out."
            )
        stopping = recipes.EarlyStopping(patience=self.patience, min_delta=self.min_delta)
        return replace(recipe, early_stopping=stopping)
