"""The assumptions of an attacker who does not know the target's architecture or training."""

from mia_lightning.settings import settings
from mia_lightning.settings.kinds import OutputForm
from mia_lightning.training.stack.architecture import MakesNetwork
from mia_lightning.training.step.recipe import Recipe


@settings("guess")
class Guess:
    """The shadow models of an attacker who knows the target's architecture or training only roughly.

    Attributes:
        model: makes an untrained shadow model, like `model` of `mia_lightning.audit`; None for the target's own.
        output: what the networks of this `model` give, as `model_output` of `mia_lightning.audit`.
        training: of the shadow models; None for the target's own.
    """

    model: MakesNetwork | None = None
    output: OutputForm = "auto"
    training: Recipe | None = None
