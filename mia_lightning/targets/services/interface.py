"""A prediction service as its customers see it: an endpoint that trains models, and one that answers for them.

Shokri et al. (2017), section VI-C, attack models that a cloud service trained. The attacker knows nothing of the
service but these two endpoints: plain tensors go in and come out, so that a service may be an object in this process
or a server.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class ServiceJob:
    """One model that a service is to train.

    Attributes:
        name: of the job and of its model.
        x_N: training records `[N, *features]`, in the population's own form.
        label_N: int64.
        num_classes: C.
    """

    name: str
    x_N: Tensor
    label_N: Tensor
    num_classes: int


class Service(Protocol):
    """What a prediction service lets its customers do.

    Attributes:
        name: of the service.
    """

    @property
    def name(self) -> str: ...

    def train(self, jobs: Iterable[ServiceJob]) -> list[str | None]:
        """Train a model for each job; returns the names of the models, None for a job that failed."""
        ...

    def predict(self, model: str, x_B: Tensor) -> Tensor:
        """The probabilities `[B, C]` that a model gives the classes of records in the form of its training records;
        `[B]` or `[B, 1]` of the second of two classes is taken, too."""
        ...
