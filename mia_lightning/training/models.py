"""What a run needs to know of models, whoever trained them and wherever they are."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.store.identity import Identity
from mia_lightning.training.plan.room import Room
from mia_lightning.training.signals import Signals

Kind = Literal["network", "trees", "unknown"]


class Observable(Protocol):
    """Whatever answers for records."""

    def observe(self, population: Population, *, room: Room | None = None) -> Signals:
        """What every model answers for every record; `room` says where large arrays lie."""
        ...


class Models(ABC):
    """K models of one origin, targets or shadow models.

    Attributes:
        num_models: K.
        architecture_name: what reports call the architecture, as far as it is known.
        num_parameters: of one model; None where it is not known.
        failed_epoch_K: int64, the epoch at which a model's loss was first not finite; -1 for none.
        is_local: whether their weights are here, so that answers are free, and equal to the bit for equal records.
        trained_by: `run`, a `service`, or `unknown`.
        answers_others: whether they can be asked about other records than those of the data set.
    """

    failed_epoch_K: Tensor
    is_local: ClassVar[bool] = False
    answers_others: ClassVar[bool] = True

    @property
    @abstractmethod
    def num_models(self) -> int: ...

    @property
    @abstractmethod
    def architecture_name(self) -> str: ...

    @property
    def num_parameters(self) -> int | None:
        return None

    @property
    def kind(self) -> Kind:
        """Whether they are networks (linear models among them), ensembles of trees, or who knows what."""
        return "network"

    @property
    def trained_by(self) -> Literal["run", "service", "unknown"]:
        return "unknown"

    @abstractmethod
    def observe(self, population: Population, *, room: Room | None = None) -> Signals:
        """What every model answers for every record; `room` says where large arrays lie."""

    def about(self, wanted_N: Tensor) -> Observable:
        """The models for records of which only those where the bool mask is True need an answer."""
        return self

    @abstractmethod
    def select(self, kept_K: Tensor) -> "Models":
        """The models where the bool mask is True; this object is not to be used again."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the weights as safetensors.

        Raises:
            InputError: the weights are not known here.
        """

    def identity(self) -> Identity:
        """The code and the weights of the first model, as JSON; None where they are not known here.

        Raises:
            NoIdentityError: its code cannot be told.
        """
        return None

    def testimony(self) -> Any:
        """For served models a `Testimony` about how they were asked; None for others."""
        return None

    def close(self) -> None:  # noqa: B027 (most have none)
        """Close connections, where there are any."""
