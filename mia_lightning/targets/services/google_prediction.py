"""A stand-in for the Google Prediction API: a service that trains and predicts, and does not say how.

The service that Shokri et al. (2017) attacked no longer exists, and its models were never published. The stand-in does
what their attack met: a customer uploads records, chooses nothing, and gets a model that has nearly memorised its
training records. Inside is a wide network on range-scaled features, which is trained for a fixed number of passes, well
beyond a training accuracy of 1; customers can neither see nor set any of this.
"""

from functools import partial

import torch

from mia_lightning.models.fitted import RangeScaledMLP
from mia_lightning.settings import settings
from mia_lightning.targets.services.in_process import InProcessService
from mia_lightning.targets.services.interface import Service, ServiceJob
from mia_lightning.targets.services.service import ServiceTarget
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.stack.stack import MakeNetwork
from mia_lightning.training.step.recipe import Recipe

_HIDDEN = (256,)
_ACTIVATION = "relu"
_EPOCHS = 60


@settings("target")
class GooglePrediction(ServiceTarget):
    """Targets and shadow models trained by an opaque service (Shokri et al. 2017, section VI-C)."""

    def connect(self, engine: Engine) -> Service:
        """The service of this run: equal engines find equal services."""
        if self.url is not None:
            return self.remote("google_prediction", self.url, engine)
        recipe = Recipe(
            epochs=_EPOCHS,
            batch_size=50,
            optimizer=partial(torch.optim.Adam, lr=2e-3),
            scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=_EPOCHS),
        )
        return InProcessService("google_prediction", engine, choose=_network, recipe=recipe)


def _network(job: ServiceJob) -> tuple[MakeNetwork, None]:
    make = partial(RangeScaledMLP, hidden=_HIDDEN, activation=_ACTIVATION)
    return bind_shapes(make, tuple(job.x_N.shape[1:]), job.num_classes), None
