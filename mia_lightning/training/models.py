"""What a run needs to know of models, whoever trained them and wherever they are."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.store.identity import Identity
from mia_lightning.training.estimators.leaves import Structure
from mia_lightning.training.plan.room import Room
from mia_lightning.training.signals import Signals

ModelKind = Literal["network", "trees", "unknown"]


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
        size_unit: what `num_parameters` counts, in the plural.
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
    def size_unit(self) -> str:
        return "parameters"

    @property
    def failure(self) -> str | None:
        """Why the first of the models that failed did so, a clause; None for a loss that was no longer finite."""
        return None

    @property
    def structures(self) -> tuple[Structure | None, ...]:
        """The leaves of each model, None where they are not known; () for models that are no estimators fitted here."""
        return ()

    @property
    def kind(self) -> ModelKind:
        """Whether they are networks (linear models among them), ensembles of trees, or who knows what."""
        return "network"

    @property
    def trained_by(self) -> Literal["run", "service", "unknown"]:
        return "unknown"

    def observe(
        self,
        population: Population,
        *,
        room: Room | None = None,
        wanted: Tensor | None = None,
        answered: Callable[[int], object] | None = None,
    ) -> Signals:
        """What the models answer for records.

        Args:
            room: where large arrays lie.
            wanted: bool `[N]`, or `[K, N]` where the models differ; the records that a model is asked about, by default
                all. The answers for others mean nothing.
            answered: is called with the number of further answers, of all models together.

        Raises:
            InputError: they do not take the records, what they answer is none, or the answers fit neither memory nor
                disk.
        """
        if wanted is None:
            wanted = torch.ones(len(population), dtype=torch.bool)
        wanted_KN = wanted.cpu().expand(self.num_models, len(population))
        return self._observed(population, wanted_KN, room or Room(), answered or (lambda _: None))

    @abstractmethod
    def _observed(
        self, population: Population, wanted_KN: Tensor, room: Room, answered: Callable[[int], object]
    ) -> Signals:
        """As `observe`; bool `wanted_KN` is on the CPU."""

    def about(self, wanted: Tensor, answered: Callable[[int], object] | None = None) -> Observable:
        """The models, which are asked only about the records where the bool mask, `[N]` or `[K, N]`, is True."""
        return _About(models=self, wanted=wanted, answered=answered)

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


@dataclass(frozen=True, eq=False, kw_only=True)
class _About:
    """Models with what they are asked about, in any population of N records."""

    models: Models
    wanted: Tensor
    answered: Callable[[int], object] | None

    def observe(self, population: Population, *, room: Room | None = None) -> Signals:
        return self.models.observe(population, room=room, wanted=self.wanted, answered=self.answered)
