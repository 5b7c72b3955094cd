"""Leave-one-out: every model of one stack is a target once, and the others are its shadow models."""

from typing import ClassVar

from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast2
from mia_lightning.targets.interface import Target
from mia_lightning.training.models import Models
from mia_lightning.training.setup import Setup


@settings("target")
class LeaveOneOut(Target):
    """`shadow.count` models, each of which is a target while those outside its block are its shadow models.

    Attributes:
        folds: attacks that learn (networks, thresholds) do so once for each fold of whole blocks, on the models of the
            other folds, so that no target is scored by an attack that was trained on it or its complement.
    """

    folds: AtLeast2 = 8
    count: ClassVar[int] = 0  # beside the shadow models
    is_every_model: ClassVar[bool] = True

    def obtain(self, setup: Setup) -> Models:
        """Train all models; some may fail."""
        return setup.train(setup.membership.shadows, "shadow")

    def train_shadows(self, setup: Setup) -> Models:
        """Not called: the targets are the shadow models."""
        raise AssertionError("the targets are the shadow models")
