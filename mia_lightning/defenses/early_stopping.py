"""Stopping before records are memorised: a model stops when its loss on held-out records no longer falls."""

from dataclasses import replace
from typing import ClassVar

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1, NotNegative
from mia_lightning.training.step.recipe import EarlyStopping, Recipe


@settings("defense.early_stopping")
class StopEarly:
    """Each model stops for itself when its loss on the held-out records has not fallen for some epochs.

    It needs `membership.validation` records, which are evidence about no model. A model is what it was when it
    stopped.

    Attributes:
        patience: epochs without a fall, at least 1.
        min_delta: by how much the loss must fall to count, at least 0, in nats.
        holds_out: it needs records that no model trains on.
        max_gap: a model stops as well when its loss on the held-out records is above that on its training records, of
            the epoch, by more than this, at least 0, in nats; None for any gap.
    """

    name: ClassVar[str] = "early_stopping"
    holds_out: ClassVar[bool] = True

    patience: AtLeast1 = 5
    min_delta: NotNegative = 0.0
    max_gap: NotNegative | None = None

    def describe(self) -> str:
        at = "" if self.max_gap is None else f" at a gap of {self.max_gap:.12g}"
        return f"early stopping {self.patience}{at}"

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
        stopping = EarlyStopping(patience=self.patience, min_delta=self.min_delta, max_gap=self.max_gap)
        return replace(recipe, early_stopping=stopping)
