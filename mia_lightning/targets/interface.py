"""What is attacked: models that can be observed on records, whoever trained them and wherever they are."""

from pathlib import Path
from typing import Protocol

from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.training.room import Room
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import Signals


class Models(Protocol):
    """K models of one origin, targets or shadow models, as far as a run needs to know them.

    Attributes:
        num_models: K.
        architecture_name: what reports call the architecture, as far as it is known.
        num_parameters: of one model; None where it is not known.
        failed_epoch_K: int64, the epoch at which a model's loss was first not finite; -1 for none.
    """

    @property
    def num_models(self) -> int: ...

    @property
    def architecture_name(self) -> str: ...

    @property
    def num_parameters(self) -> int | None: ...

    @property
    def failed_epoch_K(self) -> Tensor: ...

    def observe(self, population: Population, *, room: Room | None = None) -> Signals:
        """What every model answers for every record; `room` says where large arrays lie."""
        ...

    def select(self, kept_K: Tensor) -> "Models":
        """The models where the bool mask is True; this object is not to be used again."""
        ...

    def save(self, path: Path) -> None:
        """Write the weights as safetensors.

        Raises:
            InputError: they are not known here.
        """
        ...


class Target(Protocol):
    """Where the target models come from, and how an attacker imitates them.

    Attributes:
        count: T, the number of targets.
        is_trained_here: False where the models exist already, so that their members must be `given`.
        takes_recipe: whether `training`, and so a defence that changes it, applies to the target.
        takes_guess: whether the shadow models can be of another architecture or training than the target.
    """

    @property
    def count(self) -> int: ...

    @property
    def is_trained_here(self) -> bool: ...

    @property
    def takes_recipe(self) -> bool: ...

    @property
    def takes_guess(self) -> bool: ...

    def obtain(self, setup: Setup) -> Models: ...

    def train_shadows(self, setup: Setup) -> Models:
        """Shadow models on their records: through the target's own training service, where it has one."""
        ...
