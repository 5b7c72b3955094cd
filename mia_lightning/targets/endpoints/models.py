"""A target that somebody else serves: one model, known by its answers alone."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.interface import Endpoint
from mia_lightning.training.room import Room
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import Signals
from mia_lightning.training.trained import TrainedStack


@dataclass(frozen=True, kw_only=True)
class EndpointTarget(ABC):
    """A model that exists already, of unknown architecture; its members must be given.

    Attributes:
        asking: how it is asked.
    """

    asking: Asking = field(default_factory=Asking)
    count: ClassVar[int] = 1
    is_trained_here: ClassVar[bool] = False
    takes_recipe: ClassVar[bool] = False
    takes_guess: ClassVar[bool] = True

    @abstractmethod
    def connect(self, setup: Setup) -> Endpoint:
        """What is asked; nothing is asked yet."""

    def obtain(self, setup: Setup) -> "EndpointModels":
        """The model, as far as its answers show it; nothing is asked yet."""
        return EndpointModels(self.connect(setup), self.asking, setup.population.class_names)

    def train_shadows(self, setup: Setup) -> TrainedStack:
        """Networks of the configured `model`, trained by the configured recipe: guesses, since the target's own
        architecture is unknown."""
        return setup.train(setup.membership.shadows, "shadow")


class EndpointModels:
    """One model behind an endpoint (`mia_lightning.targets.interface.Models`)."""

    num_parameters: ClassVar[None] = None

    def __init__(self, endpoint: Endpoint, asking: Asking, class_names: tuple[str, ...]) -> None:
        self._endpoint, self._asking, self._class_names = endpoint, asking, class_names

    @property
    def num_models(self) -> int:
        return 1

    @property
    def architecture_name(self) -> str:
        return f"unknown ({self._endpoint.protocol})"

    @property
    def failed_epoch_K(self) -> Tensor:
        return torch.tensor([-1])

    def observe(self, population: Population, *, room: Room | None = None) -> Signals:
        raise NotImplementedError

    def select(self, kept_K: Tensor) -> "EndpointModels":
        """The models where the bool mask is True."""
        return self

    def save(self, path: Path) -> None:
        """Refuses: the weights are somebody else's."""
        raise InputError(
            f"The model at {self._endpoint.place} cannot be saved to {path.name}, since its weights never leave the "
            "server; set save_models=false."
        )
