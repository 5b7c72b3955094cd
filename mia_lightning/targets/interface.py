"""What a target is: where the target models come from, and how an attacker imitates them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import nn

from mia_lightning.datasets.population import Population
from mia_lightning.membership import Membership
from mia_lightning.terminal.progress import RemarkKind
from mia_lightning.training.estimators.leaves import Structure
from mia_lightning.training.estimators.making import Making
from mia_lightning.training.models import Models
from mia_lightning.training.setup import Setup

Remarks = list[tuple[RemarkKind, str]]
"""Sentences for the report, each with its kind."""


class Target(ABC):
    """Where the target models come from, and how an attacker imitates them.

    Attributes:
        count: T, the number of targets.
        is_trained_here: False where the models exist already, so that their members must be given.
        takes_recipe: whether `training`, and so a defence that changes it, applies to the target.
        takes_guess: whether the shadow models can be of another architecture or training than the target.
        has_weights: whether the weights of the target are known here, so that they can be saved.
        answers_others: whether it can be asked about other records than those of the data set.
        is_every_model: whether every shadow model is a target once; `count` is then 0.
        takes_other_tasks: whether its answers may be other than the probabilities of classes.
        folds: into how many folds attacks that learn divide the models where that is so; else 0.
    """

    is_trained_here: ClassVar[bool] = True
    takes_recipe: ClassVar[bool] = True
    takes_guess: ClassVar[bool] = True
    has_weights: ClassVar[bool] = True
    answers_others: ClassVar[bool] = True
    is_every_model: ClassVar[bool] = False
    takes_other_tasks: ClassVar[bool] = True

    @property
    @abstractmethod
    def count(self) -> int: ...

    @property
    def expected_accuracy(self) -> float | None:
        """On records that it was not trained on, as it was seen elsewhere; None for unknown."""
        return None

    @property
    def sees_normalised(self) -> bool:
        """Whether it takes records as networks do: scaled and normalised."""
        return True

    @property
    def trained_epochs(self) -> int | None:
        """For how many epochs it was trained, where it is trained already and says so; else None."""
        return None

    def completed(
        self, make: Callable[..., nn.Module], population: Population
    ) -> tuple[Callable[..., nn.Module], Remarks]:
        """What makes a network like the target, with what the target says of its architecture filled in; and remarks.

        Args:
            make: the configured `model`.
        """
        return make, []

    @property
    def folds(self) -> int:
        return 0

    @property
    def own_kind(self) -> Making | None:
        """What makes models of the target's own kind where it is an estimator, to be its shadow models; else None."""
        return None

    @property
    def trains_shadows(self) -> bool:
        """Whether the target's own service trains the shadow models, too."""
        return False

    def cost(self, num_records: int, *, makes_records: bool) -> str | None:
        """What an estimate says of work that is done elsewhere, in a sentence; None where there is none.

        Args:
            num_records: about which the target is asked.
            makes_records: whether further ones are asked about to make shadow records.
        """
        return None

    def asked_again(self, models: Models, setup: Setup) -> Models | None:
        """What answers for the records of `setup` once more without spending anything; None where that would cost.

        Args:
            models: what `obtain` gave, for the same records in another form.
        """
        return models

    def names_classes(self, class_names: Sequence[str]) -> bool:
        """Whether it says by name which class each of its outputs stands for.

        Args:
            class_names: of the data set.
        """
        return False

    def class_mend(self, class_names: Sequence[str], order: Sequence[int]) -> str:
        """How the classes are put right whose outputs stand for the classes `order` of the data set."""
        few = ", ".join(class_names[c] for c in order[:12]) + (", …" if len(order) > 12 else "")
        return f"put its outputs, which stand for {few}, in the order of the data set"

    def structures(
        self, models: Models, population: Population, membership: Membership
    ) -> tuple[Structure | None, ...]:
        """The leaves of each target, None where they are not known; () for targets that are no estimators.

        Args:
            models: what `obtain` gave.
            population, membership: the records of the targets, and who trained on which.
        """
        return models.structures

    @abstractmethod
    def obtain(self, setup: Setup) -> Models:
        """The target models."""

    def train_shadows(self, setup: Setup) -> Models:
        """Shadow models on their records: by default networks of the configured `model` and `training`, or what
        `Setup.estimators` makes."""
        return setup.train(setup.membership.shadows, "shadow")
