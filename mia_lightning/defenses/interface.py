"""What a defence is: a change to what a model answers, or to how it is trained.

The mitigations of Shokri et al., "Membership Inference Attacks Against Machine Learning Models" (2017), section VIII.
To add one, write `mia_lightning/defenses/<name>.py` with a class whose fields `@settings("defense.<name>")` checks, and
`conf/defense/<name>.yaml` with its `_target_` and all its fields.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mia_lightning.defenses.accountant import Guarantee
from mia_lightning.errors import InputError
from mia_lightning.tasks import Task
from mia_lightning.training.plan.room import Room
from mia_lightning.training.signals import HIDDEN_PROBABILITY, AnswerForm
from mia_lightning.training.step.recipe import Recipe

PROBABILITY_FLOOR = HIDDEN_PROBABILITY
"""What stands for a probability that an answer leaves out."""

_SLICE_NUMBERS = 2**24  # 128 MiB in float64


@runtime_checkable
class OutputDefense(Protocol):
    """Changes what a model answers, each record by itself; it acts on predictions, after the model.

    Attributes:
        name: as in `conf/defense`.
        is_visible: whether anybody who sees answers knows of it.
        form: of the answers that it leaves, where it hides classes or rounds; `AnswerForm()` where it does neither,
            but changes the probabilities.
    """

    @property
    def name(self) -> str: ...

    @property
    def is_visible(self) -> bool: ...

    @property
    def form(self) -> AnswerForm: ...

    def describe(self) -> str:
        """A few words for a report, such as "top 3 classes"."""

    def apply(self, log_probability: Tensor) -> Tensor:
        """What is observed in place of the log probabilities `[..., C]`, in nats.

        Returns:
            float32 `[..., C]`, finite for finite answers; the probabilities need not add up to 1.
        """


@runtime_checkable
class TrainingDefense(Protocol):
    """Changes how a model is trained."""

    @property
    def name(self) -> str: ...

    def describe(self) -> str:
        """A few words for a report, such as "L2 penalty 0.001"."""

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe with the defence in it.

        Raises:
            InputError: the recipe cannot take it.
        """


@runtime_checkable
class ArchitectureDefense(TrainingDefense, Protocol):
    """Changes, beside or in place of the recipe, the networks that are trained."""

    def adapt_model(self, model: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        """What makes the defended network.

        Raises:
            InputError: the model cannot take it.
        """


@runtime_checkable
class PrivateTraining(TrainingDefense, Protocol):
    """Guarantees differential privacy of what is trained."""

    def guarantee(self, recipe: Recipe, num_records: int) -> Guarantee:
        """What holds for a model trained by `recipe` on so many records.

        Raises:
            InputError: the recipe cannot be adapted, or the guarantee cannot be met.
        """

    def with_num_records(self, num_records: int) -> "PrivateTraining":
        """The same where the number of training records is fixed beforehand: to this, unless it was given one."""


Defense = OutputDefense | TrainingDefense


def check_task(defenses: Sequence[Defense], task: Task) -> None:
    """Refuse defences that do not suit what the answers are: those whose `acts_on`, if they have it, does not name it.

    Raises:
        InputError: one of them, with those that do.
    """
    for defense in defenses:
        kinds = getattr(defense, "acts_on", None)
        if kinds is not None and task.outputs not in kinds:
            raise InputError(
                f"defense={defense.name} acts on {' and '.join(kinds)}, and the outputs under task={task.name} are "
                f"{task.outputs}; leave it out, or use one of training, such as l2, dropout or early_stopping."
            )


_OF_A_STEP = ("objective", "batch_objective", "mix", "sampler", "gradient_rule")


def defended_recipe(defenses: Sequence[TrainingDefense], recipe: Recipe) -> Recipe:
    """The recipe with all defences in it, in order.

    Raises:
        InputError: a defence in the loss or the gradients of models that are trained by a step of their own.
    """
    for defense in defenses:
        before, recipe = recipe, defense.adapt(recipe)
        own = recipe.own
        if own is not None and any(getattr(recipe, each) is not getattr(before, each) for each in _OF_A_STEP):
            raise InputError(
                f"defense={defense.name} changes the loss or the gradients of a step, and the LightningModule "
                f"{own.name} is trained by its own training_step; write the defence there, or give the network inside "
                "as `model`."
            )
    return recipe


def defended_model(defenses: Sequence[TrainingDefense], model: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """What makes the networks with all defences in them; `model` itself where none is in the architecture."""
    for defense in defenses:
        if isinstance(defense, ArchitectureDefense):
            model = defense.adapt_model(model)
    return model


def apply_all(defenses: Sequence[OutputDefense], log_probability: Tensor, *, room: Room | None = None) -> Tensor:
    """What is observed of `[..., C]`, in nats, behind the defences, the first of them nearest to the model.

    Args:
        room: where the answers lie; by default in memory, if they take no more than a quarter of what is free.
    """
    if not defenses:
        return log_probability
    C = log_probability.shape[-1]
    observed = (room or Room()).empty(log_probability.shape, dtype=torch.float32, device=log_probability.device)
    width = max(1, _SLICE_NUMBERS // C)
    for part, place in zip(log_probability.reshape(-1, C).split(width), observed.view(-1, C).split(width), strict=True):
        for defense in defenses:
            part = defense.apply(part)
        place.copy_(part)
    return observed


def channel_of(defenses: Sequence[OutputDefense]) -> str:
    """How answers are observed, for `Signals.channel`: `full`, or the descriptions in order."""
    return ", ".join(defense.describe() for defense in defenses) or "full"


def split_defenses(
    defenses: Sequence[Defense],
) -> tuple[tuple[OutputDefense, ...], tuple[TrainingDefense, ...]]:
    """Those that change answers and those that change training, each in the given order."""
    outputs = tuple(each for each in defenses if isinstance(each, OutputDefense))
    return outputs, tuple(each for each in defenses if isinstance(each, TrainingDefense))
