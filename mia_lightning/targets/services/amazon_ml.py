"""A stand-in for Amazon Machine Learning: multinomial logistic regression by SGD after quantile binning.

The service let its customers set the number of passes over the records and the amount of L2 regularisation; Shokri et
al. (2017), section VI-C, use (10, 1e-6), its defaults, and (100, 1e-4). It did not publish the rest, which is assumed
here. The number of bins, the batch size and the learning rate are constant. The penalty is `l2 / 2` times the squared
weights (biases included) beside the mean loss of a batch, so that each step of SGD also shrinks the weights by `l2`
times the learning rate.
"""

from functools import partial
from typing import Annotated

import torch

from mia_lightning.errors import InputError
from mia_lightning.models.fitted import QuantileLogistic
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1, NotNegative
from mia_lightning.settings.words import Such
from mia_lightning.targets.services.in_process import InProcessService
from mia_lightning.targets.services.interface import Service, ServiceJob
from mia_lightning.targets.services.service import ServiceTarget
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.stack.stack import MakeNetwork
from mia_lightning.training.step.recipe import Recipe

_PASSES, _L2 = 10, 1e-6  # the service's defaults
_BINS = 10
_BATCH_SIZE = 10
_LEARNING_RATE = 0.04


@settings("target")
class AmazonML(ServiceTarget):
    """Targets and shadow models trained by the service's logistic regression.

    Attributes:
        passes: over the training records, in an order shuffled anew for each; the paper uses 10 and 100.
        l2: amount of regularisation; the paper uses 1e-6 and 1e-4.
    """

    passes: AtLeast1 = _PASSES
    l2: Annotated[NotNegative, Such("1e-6")] = _L2

    def __post_init__(self) -> None:
        if self.url is not None and (self.passes, self.l2) != (_PASSES, _L2):
            raise InputError(
                "`target.passes` and `target.l2` are settings of the server at `target.url`; leave them out here, and "
                "give them to mia-serve amazon_ml."
            )

    def connect(self, engine: Engine) -> Service:
        """The service of this run with these settings: equal engines find equal services."""
        if self.url is not None:
            return self.remote("amazon_ml", self.url, engine)
        recipe = Recipe(
            epochs=self.passes,
            batch_size=_BATCH_SIZE,
            optimizer=partial(torch.optim.SGD, lr=_LEARNING_RATE, weight_decay=self.l2),
        )
        return InProcessService("amazon_ml", engine, choose=_network, recipe=recipe)


def _network(job: ServiceJob) -> tuple[MakeNetwork, int | None]:
    """Records whose features are all binary need no bins, which saves most of the columns."""
    is_binary = bool(((job.x_N == 0) | (job.x_N == 1)).all())
    bins = None if is_binary else _BINS
    make = partial(QuantileLogistic, bins=bins)
    return bind_shapes(make, tuple(job.x_N.shape[1:]), job.num_classes), bins
