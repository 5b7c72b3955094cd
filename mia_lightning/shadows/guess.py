"""The assumptions of an attacker who does not know the target's architecture or training."""

from mia_lightning.settings import settings
from mia_lightning.training.stack.architecture import MakesNetwork
from mia_lightning.training.step.recipe import Recipe


@settings("guess")
class Guess:
    """The shadow models of an attacker who knows the target's architecture or training only roughly.

    Attributes:
        model: makes an untrained shadow model, like `model` of `mia_lightning.audit`; None for the target's own.
        training: of the shadow models; None for the target's own.
    """

    model: MakesNetwork | None = None
    training: Recipe | None = None
