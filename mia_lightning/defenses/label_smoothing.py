"""Training towards softened labels: Szegedy et al. (2016), section 7."""

from dataclasses import replace
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import ShareBelow1
from mia_lightning.training.step.recipe import Recipe, cross_entropy


@settings("defense.label_smoothing")
class LabelSmoothing:
    """Trains towards (1 − s) of the label and s spread evenly over all C classes, in place of the label alone.

    The loss is then least at a probability of 1 − s + s / C, so that no record is worth an unbounded logit.

    Attributes:
        smoothing: s, at least 0 and below 1.

    Source: Szegedy et al., "Rethinking the Inception architecture for computer vision" (2016), section 7.
    """

    name: ClassVar[str] = "label_smoothing"
    acts_on: ClassVar[tuple[str, ...]] = ("classes",)

    smoothing: ShareBelow1 = 0.1

    def describe(self) -> str:
        return f"label smoothing {self.smoothing:.12g}"

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe with the smoothed loss, which is that of early stopping, too.

        Raises:
            InputError: the recipe has another loss than the cross-entropy.
        """
        if recipe.objective is not cross_entropy or recipe.batch_objective is not None:
            raise InputError(
                "defense=label_smoothing smooths the cross-entropy, but the recipe has another loss; leave out "
                "defense=relaxloss or the recipe's own objective."
            )
        return replace(recipe, objective=partial(smoothed_cross_entropy, smoothing=self.smoothing))


def smoothed_cross_entropy(logits_KBC: Tensor, label_KB: Tensor, *, smoothing: float) -> Tensor:
    """The cross-entropy of each record from its smoothed label, `[K, B]`, in nats."""
    return nn.functional.cross_entropy(logits_KBC.movedim(-1, 1), label_KB, reduction="none", label_smoothing=smoothing)
