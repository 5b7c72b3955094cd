"""Targets that are trained here, on the records that the membership plan gives them."""

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1
from mia_lightning.targets.interface import Target
from mia_lightning.training.models import Models
from mia_lightning.training.setup import Setup


@settings("target")
class Trained(Target):
    """A stack of `count` targets; figures are means over them."""

    count: AtLeast1 = 1

    def obtain(self, setup: Setup) -> Models:
        """Train the targets; the loss of some may become NaN or infinite.

        Raises:
            InputError: this happens to all of them.
        """
        trained = setup.train(setup.membership.targets, "target")
        if bool((trained.failed_epoch_K >= 0).all()):
            raise InputError(
                f"The loss of target 0 was no longer finite in epoch {int(trained.failed_epoch_K[0])}; lower "
                f"`training.optimizer.lr` or set `training.gradient_clip_norm`{_about_gaps(setup)}."
            )
        return trained


def _about_gaps(setup: Setup) -> str:
    """A clause where records have gaps, which are NaN to a network."""
    form = setup.population.form
    if form is None or not any(field.has_gaps for field in form.fields):
        return ""
    return "; the records have gaps, NaN, which the network must fill, as model=tabular does"
