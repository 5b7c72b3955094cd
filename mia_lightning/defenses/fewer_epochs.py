"""Training for fewer epochs, before records are memorised."""

from dataclasses import replace
from typing import ClassVar

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Between0And1
from mia_lightning.training.step.recipe import Recipe


@settings("defense.fewer_epochs")
class FewerEpochs:
    """Trains for a share of the recipe's epochs, to the nearest whole number and at least one.

    A learning-rate schedule is as long as before, so that training ends within it.

    Attributes:
        share: of the epochs, above 0 and below 1.
    """

    name: ClassVar[str] = "fewer_epochs"

    share: Between0And1 = 0.5

    def describe(self) -> str:
        return f"{100 * self.share:.12g} % of the epochs"

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe with fewer epochs.

        Raises:
            InputError: it has so few that none is left out.
        """
        epochs = max(1, round(recipe.epochs * self.share))
        if epochs >= recipe.epochs:
            raise InputError(
                f"`defense.fewer_epochs.share` is {self.share:g}, which leaves all {int(recipe.epochs)} epochs of "
                "`training.epochs`; lower it, or leave the defence out."
            )
        return replace(recipe, epochs=epochs)
