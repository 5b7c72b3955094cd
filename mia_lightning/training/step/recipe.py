"""Recipes: everything that a trained model depends on beside its data and its seed."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import torch
from pydantic import BeforeValidator, SkipValidation, model_validator
from pydantic_core import ArgsKwargs
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mia_lightning.datasets.augmentation import Augmentation
from mia_lightning.datasets.form import Form
from mia_lightning.datasets.loading import Loading
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, SettingError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1, Auto, FromList, Has, NotNegative, Positive
from mia_lightning.settings.words import Such, Words
from mia_lightning.training.stack.architecture import Architecture
from mia_lightning.training.stack.stack import MakeNetwork
from mia_lightning.training.step.batches import LoadedBatches, StackBatches
from mia_lightning.training.step.optimizers import (
    MakeOptimizer,
    MakeScheduler,
    check_optimizer,
    check_scheduler,
    fused_where_possible,
    steps_of,
)
from mia_lightning.training.step.own import OwnTraining
from mia_lightning.training.step.rules import Batches, Gradients, Sampler

Objective = Callable[[Tensor, Tensor], Tensor]
BatchObjective = Callable[[Tensor, Tensor, Tensor | None, int], Tensor]
Mix = Callable[[Tensor, Tensor, Tensor, int | Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]]


if TYPE_CHECKING:
    Epochs = int  # once a recipe is made, it has their number
else:
    Epochs = AtLeast1 | None

DEFAULT_EPOCHS = 100


class _Unset(int):
    """A number that nobody has set."""


_BY_TARGET = Words("a class by its `_target_`, with `_partial_: true`")
_AUGMENTATION = Has("refusal", "apply", words=Words("an augmentation", "augmentations by their `_target_`"))


def cross_entropy(logits_KBC: Tensor, label_KB: Tensor) -> Tensor:
    """The loss of each record, `[K, B]`, in nats."""
    return nn.functional.cross_entropy(logits_KBC.movedim(-1, 1), label_KB, reduction="none")


@settings("training.early_stopping")
class EarlyStopping:
    """Stop a model when its validation loss has not fallen by `min_delta` for `patience` epochs.

    Each model of a stack stops by itself and keeps the state of that moment.

    Attributes:
        max_gap: stop it as well when its validation loss is above its training loss of the epoch by more than this, in
            nats; None for any gap.
    """

    patience: AtLeast1 = 10
    min_delta: NotNegative = 0.0
    max_gap: NotNegative | None = None


def _early_stopping(given: object) -> object:
    is_named = isinstance(given, Mapping) and all(isinstance(name, str) for name in given)
    return EarlyStopping(**given) if is_named else given  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False, kw_only=True)
class Chunk:
    """Models that are about to train together.

    Attributes:
        make_network, architecture: what they are.
        population: their records.
        recipe: how they are trained.
        num_records_K: of each model, its number of training records.
        seed, role, models: model k of the chunk draws by (`seed`, `role`, `models[k]`) and nothing else.
    """

    make_network: MakeNetwork
    architecture: Architecture
    population: Population
    recipe: "Recipe"
    num_records_K: Sequence[int]
    seed: int
    role: str
    models: Sequence[int]


class GradientRule(Protocol):
    """Makes the gradients of a recipe's steps, in place of the gradient of the mean loss."""

    def for_models(self, models: Chunk) -> Gradients:
        """The gradients of these models; called for every chunk before the first chunk trains.

        Raises:
            InputError: the rule cannot hold for these models, their records or their recipe.
        """
        ...


@settings("training")
class Recipe:
    """The `training` section of the configuration.

    Attributes:
        epochs: passes over a model's training records; None for those of a trained target that says for how many it was
            trained, and else 100.
        batch_size: at most so many records of a model in one step; exclusive with `batches_per_epoch`; 100 if
            neither is given.
        batches_per_epoch: a fixed number of steps for an epoch, over which the records are divided evenly.
        optimizer: makes one optimiser from the parameters of the stack; it must act element by element.
        scheduler: makes a learning-rate schedule from the optimiser, or None.
        scheduler_interval: whether the schedule advances each epoch or each step.
        gradient_clip_norm: limit of the gradient's 2-norm of each model by itself, or None.
        accumulate_batches: batches whose gradients are averaged for one optimiser step.
        early_stopping: an `EarlyStopping`, a mapping of its fields, or None; needs validation records.
        class_weights: how much the records of each class count in the loss, where that of a batch is Σ w l / Σ w, as of
            torch's CrossEntropyLoss(weight): a number for each class, or `balanced`, n / (C n_c) of each model's own n
            training records; beside weights of the records (`Population.weight_N`) their product. None for the same.
        augment: augmentations of the records in training, in order (`mia_lightning.datasets.augmentation`).
        execution: `stack` (vmap), `loop` (the same stacked parameters, model by model) or `auto`: the one that is
            measured to be faster, `loop` where vmap refuses the architecture.
        chunk: at most so many models are trained at once; `auto` for the number that fits the memory and is measured
            to be fastest, None for all.
        threads: of torch on the CPU; `auto` for the number that is measured to be fastest, of all that affinity and
            quota allow, half of them, and one.
        cuda_graphs: whether the steps are recorded as CUDA graphs, where the device and the recipe allow it; `auto`
            where that is measured to be faster.
        packed_bits: whether records of zeros and ones lie on a CUDA device as bits; `auto` as for `cuda_graphs`.
        compile: whether forward pass, loss and backward pass are compiled; `auto` on a CUDA device, where that is
            measured to be faster and the training is long enough for it.
        streams: whether several models of a loop are stepped at the same time on a CUDA device; `auto` as for
            `cuda_graphs`.
        channels_last: whether a loop lays out the weights of 2-d convolutions channels last; `auto` on a CPU always, on
            a CUDA device where that is measured to be faster.
        objective: loss of each record `[K, B]` from logits `[K, B, C]` and labels `[K, B]`, or, in a regression, from
            outputs and responses (`TrainingJob.response_KN`).
        of_classes: whether the objective is given class numbers, as under a task with classes.
        batch_objective: the quantity that a step lowers of each model, `[K]`, from logits, labels, `is_real_KB` (None
            where a batch has no padding) and the epoch, from 0; None for the mean of `objective`, which is reported in
            any case.
        mix: makes mixed records from the records `[K, B, *features]` of a batch, their labels, `key_K`, the step and
            `is_real_KB`; gives these records, the second label of each and the share of the first, both `[K, B]`. None
            for no mixing.
        sampler: decides which records each model sees at each step.
        gradient_rule: makes the gradients in place of that of the mean loss; None for the latter.
        loading: of the loader that deals a model's records into batches of `batch_size`; None for batches of even size.
        own: where a LightningModule trains itself; optimizer, scheduler and objective have no part in it. Else None.

    Raises:
        InputError: a value is out of range, optimiser or schedule cannot be made, or an optimiser couples models.
    """

    epochs: Epochs = None  # type: ignore[assignment]  # a number once it is made
    optimizer: Annotated[MakeOptimizer, _BY_TARGET] = partial(torch.optim.Adam, lr=5e-3)
    batch_size: AtLeast1 | None = None
    batches_per_epoch: AtLeast1 | None = None
    scheduler: Annotated[MakeScheduler, _BY_TARGET] | None = None
    scheduler_interval: Literal["epoch", "step"] = "epoch"
    gradient_clip_norm: Positive | None = None
    accumulate_batches: AtLeast1 = 1
    early_stopping: Annotated[EarlyStopping | None, BeforeValidator(_early_stopping), Such("{patience:10}")] = None
    class_weights: (
        Annotated[
            Literal["balanced"] | Annotated[Sequence[NotNegative], FromList],
            Words("balanced, or a number for each class"),
        ]
        | None
    ) = None
    augment: Annotated[Sequence[Annotated[Augmentation, _AUGMENTATION]], FromList] = ()
    execution: Literal["auto", "stack", "loop"] = "auto"
    chunk: AtLeast1 | Auto | None = "auto"
    threads: AtLeast1 | Auto = "auto"
    cuda_graphs: bool | Auto = "auto"
    packed_bits: bool | Auto = "auto"
    compile: bool | Auto = "auto"
    streams: bool | Auto = "auto"
    channels_last: bool | Auto = "auto"
    objective: Objective = cross_entropy
    of_classes: bool = True
    batch_objective: BatchObjective | None = None
    mix: Mix | None = None
    sampler: SkipValidation[Sampler] = StackBatches
    gradient_rule: SkipValidation[GradientRule] | None = None
    loading: SkipValidation[Loading] | None = None
    own: SkipValidation[OwnTraining] | None = None

    @model_validator(mode="before")
    @classmethod
    def _left_open(cls, given: ArgsKwargs) -> ArgsKwargs:
        """The size of a batch, where neither it nor their number is given; epochs that nobody has set stay so."""
        named = dict(given.kwargs or {})
        if isinstance(named.get("epochs"), _Unset):  # of another recipe, of which this one is a changed copy
            named["epochs"] = None
        if not {"batch_size", "batches_per_epoch"} & set(named):
            named["batch_size"] = 100
        return ArgsKwargs((), named)

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", _Unset(DEFAULT_EPOCHS) if self.epochs is None else self.epochs)
        if (self.batch_size is None) == (self.batches_per_epoch is None):
            raise InputError(
                f"`training.batch_size` is {self.batch_size} and `training.batches_per_epoch` is "
                f"{self.batches_per_epoch}; give exactly one of them."
            )
        check_optimizer(self.optimizer)
        if self.scheduler is not None:
            parameter = nn.Parameter(torch.zeros(1))
            parameter.grad = torch.zeros(1)
            check_scheduler(self.scheduler, self.make_optimizer([parameter]))

    @property
    def leaves_epochs_open(self) -> bool:
        """Whether nobody has set the epochs."""
        return isinstance(self.epochs, _Unset)

    def trained_for(self, epochs: int | None) -> "Recipe":
        """The recipe with these epochs, where it leaves them open."""
        return replace(self, epochs=epochs) if self.leaves_epochs_open and epochs is not None else self

    def steps_per_epoch(self, num_records: int) -> int:
        """Number of batches into which a model's records are divided in each epoch."""
        if self.batches_per_epoch is not None:
            return self.batches_per_epoch
        assert self.batch_size is not None
        if self.loading is not None and self.loading.drop_last:
            return num_records // self.batch_size
        return max(1, math.ceil(num_records / self.batch_size))

    def batches(self, records_K: Sequence[Tensor], key_K: Tensor, device: torch.device) -> Batches:
        """Which records the models see at each step; they have equal numbers of steps."""
        steps = self.steps_per_epoch(len(records_K[0]))
        make = self.sampler
        if self.loading is not None and self.batches_per_epoch is None:
            make = partial(LoadedBatches, loading=self.loading)
        return make(records_K, key_K, batches_per_epoch=steps, device=device)

    def alike(self, num_records: int) -> int:
        """Models for which this is equal can train together: by steps per epoch or, without padding, by records."""
        return self.steps_per_epoch(num_records) if self.own is None else num_records

    def check_schedule(self, role: str, num_records_K: Iterable[int]) -> None:
        """Refuse a schedule that ends before the training of models with so many records.

        Raises:
            SettingError: with the steps that it has and those that the models take.
        """
        if self.scheduler is None:
            return
        batches = max((self.steps_per_epoch(num_records) for num_records in num_records_K), default=1)
        each = math.ceil(batches / self.accumulate_batches) if self.scheduler_interval == "step" else 1
        taken = self.epochs * each
        has = steps_of(self.scheduler, self.optimizer, taken)
        if has < taken:
            inner = f" of {each} steps" if self.scheduler_interval == "step" else ""
            rest = (
                f"ends after step {has}, but the models of {role} take {taken} steps of it, in {self.epochs} "
                f"epochs{inner}; give it as many, one for each `training.scheduler_interval`."
            )
            raise SettingError("training", "scheduler", rest)

    def check_outputs(self, architecture: Architecture, num_classes: int) -> None:
        """Refuse a model that gives probabilities if the objective takes logits, as cross-entropy does.

        Raises:
            InputError: naming the model's last layer.
        """
        task = architecture.task
        if task.has_classes:
            takes_logits = bool(architecture.probabilities_in) and _takes_logits(self.objective, num_classes)
        else:
            takes_logits = self.objective is task.objective
        if architecture.probabilities_in and takes_logits:
            mode = "" if len(architecture.probabilities_in) > 1 else f" in {architecture.probabilities_in[0]} mode"
            last = f", by its last layer {architecture.last_layer}" if architecture.last_layer else ""
            raise InputError(
                f"The model {architecture.name} gives probabilities{mode}{last}, but is trained with cross-entropy, "
                "which takes logits; leave that layer (a softmax or sigmoid) out."
            )

    def check_weights(self, population: Population, role: str) -> None:
        """Refuse weights that this recipe cannot train with.

        Raises:
            InputError: there are more or fewer than classes, or no classes, or loss or gradients are not those of
                single records.
        """
        given, C = self.class_weights, population.num_classes
        if given is None and population.weight_N is None:
            return
        if given is not None and not population.task.has_classes:
            rest = f"is set, and under task={population.task.name} a record has no class; leave it null."
            raise SettingError("training", "class_weights", rest)
        if given is not None and given != "balanced":
            if len(given) != C:
                raise SettingError("training", "class_weights", f"has {len(given)} numbers for {C} classes; give {C}.")
            if not any(given):
                raise SettingError("training", "class_weights", "is 0 for all classes; give some a weight above 0.")
        what = "`training.class_weights`" if given is not None else f"weight of population {population.name!r}"
        ways = {
            "mix": "mixes records",
            "batch_objective": "has a loss of whole batches",
            "gradient_rule": "clips gradients",
        }
        odd = next((way for name, way in ways.items() if getattr(self, name) is not None), None)
        if odd is not None:
            raise InputError(
                f"{what} weights the loss of each record, but the training of {role} {odd}, by a defence, and how "
                "weights would count in it is not defined; leave the weights out, or the defence."
            )

    def make_optimizer(self, parameters: Iterable[Tensor]) -> Optimizer:
        """The optimiser of a stack."""
        return fused_where_possible(self.optimizer)(parameters)

    def check_records(self, shape: tuple[int, ...], form: Form | None = None) -> None:
        """Raise an `InputError` if records of this shape and form cannot be augmented or mixed."""
        if form is not None and self.augment and not form.is_image:
            raise InputError(f"`training.augment` changes images, and a record here is {form.words}; set it to [].")
        if form is not None and self.mix is not None and not form.is_quantity:
            raise InputError(f"defense=mixup averages records, and a record here is {form.words}; leave it out.")
        for each in self.augment:
            reason = each.refusal(shape)
            if reason is not None:
                raise InputError(reason)

    def make_scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """The schedule, or None."""
        return None if self.scheduler is None else self.scheduler(optimizer)


def default_recipe() -> Recipe:
    """How target and shadow models are trained by default."""
    return Recipe()


def _takes_logits(objective: Objective, num_classes: int) -> bool:
    """Whether the loss stays what it is when a number is added to all outputs of a record."""
    output_KBC = torch.linspace(0.1, 0.9, 2 * num_classes).view(1, 2, num_classes).softmax(-1)
    label_KB = torch.tensor([[0, num_classes - 1]])
    return torch.allclose(objective(output_KBC, label_KB), objective(output_KBC + 1, label_KB), atol=1e-5)
