"""A training job: the models of one role, cut into chunks of models that train together."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from mia_lightning.datasets.form import Records, of_model
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, SettingError, first_line
from mia_lightning.seeds import derive
from mia_lightning.training.own.schedules import check_schedules, stand_in_of
from mia_lightning.training.own.stack_module import OfFirst, OwnStackModule, first_loss, moved_to_stack
from mia_lightning.training.own.stand_in import StandInTrainer
from mia_lightning.training.stack.architecture import Architecture, inspect_architecture
from mia_lightning.training.stack.stack import MakeNetwork, Stack
from mia_lightning.training.step import channels_last
from mia_lightning.training.step.compiled import Compiler
from mia_lightning.training.step.module import StackModule
from mia_lightning.training.step.recipe import Chunk, Recipe
from mia_lightning.training.step.rules import Batches, Gradients
from mia_lightning.training.step.weights import weights_of
from mia_lightning.training.trainer import quiet_lightning


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingJob:
    """K models of one role.

    Model k is a function of (`seed`, `role`, `models[k]`), its records and the recipe: trained all at once, in chunks,
    in a loop or one alone, the networks are the same up to the order of floating-point sums.

    Attributes:
        seed: of the run.
        role: "target", "shadow", "attack/shokri", ...
        make_network: makes an untrained network.
        population: the records.
        records_K: the training records of each model, int64 indices.
        recipe: how the models are trained.
        models: the number of each model; 0 to K - 1 by default.
        architecture: of `make_network`; inspected by default.
        validation_N: int64 indices of the records for early stopping; None for none.
        response_KN: floating point `[K, N, ...]`, for regressions: what the objective is given of record n for model k
            in the place of its label. The classes of `population` are then the numbers that a network puts out.
        buffers: by their names in a network, what buffers of the models hold from the start, `[K, ...]`.
        keep: whether the models are looked for, and kept, in the store.

    Raises:
        InputError: the architecture, the recipe or the records cannot be trained.
    """

    seed: int
    role: str
    make_network: MakeNetwork
    population: Population
    records_K: Sequence[Tensor]
    recipe: Recipe
    models: Sequence[int] = ()
    architecture: Architecture = None  # type: ignore[assignment]  # None only until `__post_init__`
    validation_N: Tensor | None = None
    response_KN: Tensor | None = None
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    keep: bool = False

    def __post_init__(self) -> None:
        if self.recipe.early_stopping is not None and self.validation_N is None:
            raise InputError(
                f"`training.early_stopping` is set for {self.role}, by itself or by defense=early_stopping, but no "
                "records are held out; set `membership.validation` to their number (attack networks have none)."
            )
        self.recipe.check_records(self.population.input_shape, self.population.form)
        self.recipe.check_weights(self.population, self.role)
        if self.response_KN is not None and self.recipe.class_weights is not None:
            raise SettingError(
                "training", "class_weights", f"is set, and {self.role} learns no classes; leave it null."
            )
        if not self.models:
            object.__setattr__(self, "models", range(len(self.records_K)))
        given: Architecture | None = self.architecture
        if given is None:
            with quiet_lightning():
                object.__setattr__(self, "architecture", inspect_architecture(self.make_network, self.population))

    def check(self) -> None:
        """Raise an `InputError` for what would stop the training, as far as this can be told before the first step."""
        recipe, architecture = self.recipe, self.architecture
        recipe.check_schedule(self.role, map(len, self.records_K))
        if recipe.own is not None:
            check_schedules(self.make_network, recipe, self.role, map(len, self.records_K))
        elif self.response_KN is None:
            recipe.check_outputs(architecture, self.population.num_classes)
        if recipe.execution == "stack" and architecture.refusal is not None:
            raise InputError(f"`training.execution` is stack, but {architecture.refusal}; set training.execution=loop.")
        groups = self.groups() if recipe.chunk != 1 else [[place] for place in range(self.num_models)]
        for places in groups:
            self.gradients(places)
        for places in groups:
            self._batches(places, torch.device("cpu"))

    @property
    def num_models(self) -> int:
        return len(self.records_K)

    @property
    def num_steps(self) -> int:
        """Optimiser steps of all models together, over all epochs."""
        return self.recipe.epochs * sum(self.recipe.steps_per_epoch(len(records)) for records in self.records_K)

    def groups(self) -> list[list[int]]:
        """Places of the models that can train together, by `Recipe.alike`."""
        groups: dict[int, list[int]] = {}
        for place, records in enumerate(self.records_K):
            groups.setdefault(self.recipe.alike(len(records)), []).append(place)
        return list(groups.values())

    def chunks(self, width: int) -> list[list[int]]:
        """The groups, each cut into as few chunks of at most `width` models as possible, of even size."""
        return [chunk for group in self.groups() for chunk in cut(group, width)]

    def part(self, places: Sequence[int]) -> "TrainingJob":
        """The models at these places, in this order."""
        return replace(
            self,
            records_K=[self.records_K[place] for place in places],
            models=[self.models[place] for place in places],
            response_KN=None if self.response_KN is None else self.response_KN[list(places)],
            buffers={name: buffer_K[list(places)] for name, buffer_K in self.buffers.items()},
        )

    def shards(self, count: int) -> list[list[int]]:
        """The places, divided among at most `count` devices: each group evenly, its rest where the fewest steps are."""
        shard_D: list[list[int]] = [[] for _ in range(count)]
        steps_D = [0] * count
        for group in self.groups():
            parts = divided(group, min(count, len(group)))
            by_steps = sorted(range(count), key=steps_D.__getitem__)
            for device, part in zip(by_steps, sorted(parts, key=len, reverse=True), strict=False):
                shard_D[device] += part
                steps_D[device] += len(part) * self.recipe.steps_per_epoch(len(self.records_K[part[0]]))
        return [sorted(shard) for shard in shard_D if shard]

    def gradients(self, places: Sequence[int]) -> Gradients | None:
        """The gradients of the recipe's rule for these models; None where it has no rule.

        Raises:
            InputError: the rule cannot hold for these models.
        """
        if self.recipe.gradient_rule is None:
            return None
        return self.recipe.gradient_rule.for_models(
            Chunk(
                make_network=self.make_network,
                architecture=self.architecture,
                population=self.population,
                recipe=self.recipe,
                num_records_K=[len(self.records_K[place]) for place in places],
                seed=self.seed,
                role=self.role,
                models=[self.models[place] for place in places],
            )
        )

    def stack(self, places: Sequence[int]) -> Stack:
        """These models, untrained."""

        def training_records(place: int) -> Records:
            return self.population.records(self.records_K[places[place]].to(self.population.device))

        models = [self.models[place] for place in places]
        stack = Stack.build(
            self.make_network, models, seed=self.seed, role=self.role, training_records=training_records
        )
        for name, buffer_K in self.buffers.items():
            stack.networks.get_buffer(name).copy_(buffer_K[list(places)])
        return stack

    def first_of(self, stack: Stack) -> OfFirst:
        """A context that gives the loss of the first model of a stack; within it the gradient can be taken, too."""
        if self.recipe.own is not None:
            return first_loss(stack, self._stand_in())

        def loss(x: Records, truth: Tensor) -> Tensor:
            logits_KBC = stack.call_one(stack.state_of(0), of_model(x, 0), step=0)[None]
            return self.recipe.objective(logits_KBC, truth).mean()

        return lambda: nullcontext(loss)

    def optimizer(self, stack: Stack) -> torch.optim.Optimizer:
        """The optimiser of a stack."""
        if self.recipe.own is not None:
            return moved_to_stack(stack, self._stand_in()).optimizer
        return self.recipe.make_optimizer([p for p in stack.parameters() if p.requires_grad])

    def _stand_in(self) -> StandInTrainer:
        return stand_in_of(self.recipe, self.recipe.steps_per_epoch(len(self.records_K[0])))

    def module(
        self,
        places: Sequence[int],
        stack: Stack,
        *,
        execution: str,
        gradients: Gradients | None,
        device: torch.device,
        compiler: Compiler | None = None,
        cuda_graphs: bool = False,
        packed_bits: bool = False,
        streams: bool = False,
        channels_last: bool = False,
    ) -> StackModule:
        """The module that trains `stack` as the models at these places.

        Args:
            compiler: of their gradients; None where these are not compiled.
            channels_last: whether the plan has the convolutions of a loop so; on a CPU the recipe alone decides.

        Raises:
            InputError: the architecture cannot be trained on such batches.
        """
        if self.recipe.own is not None:
            make: Callable[..., StackModule] = partial(
                OwnStackModule,
                draws=self.architecture.draws,
                gives_probabilities=self.architecture.gives_probabilities,
            )
        else:
            make = StackModule
        records_K = [self.records_K[place] for place in places]
        return make(
            stack,
            self.population,
            self._batches(places, device),
            self.recipe,
            gradients=gradients,
            execution=execution,
            validation_N=self.validation_N,
            role=self.role,
            response_KN=None if self.response_KN is None else self.response_KN[list(places)],
            channels_last=self.is_channels_last(execution, device, chosen=channels_last),
            weights=weights_of(self.population, self.recipe.class_weights, records_K),
            compiler=compiler,
            cuda_graphs=cuda_graphs,
            packed_bits=packed_bits,
            streams=streams,
        )

    def is_channels_last(self, execution: str, device: torch.device, *, chosen: bool) -> bool:
        """Whether the models lay out convolutions channels last; `chosen` is what their plan says."""
        return channels_last.is_on(self.recipe, self.architecture, device, execution=execution, chosen=chosen)

    def _batches(self, places: Sequence[int], device: torch.device) -> Batches:
        """Which records these models see at each step.

        Raises:
            InputError: the architecture cannot be trained on such batches.
        """
        records_K = [self.records_K[place] for place in places]
        keys = [derive(self.seed, self.role, self.models[place], "order") for place in places]
        batches = self.recipe.batches(records_K, torch.tensor(keys), device)
        if self.architecture.has_batch_norm and batches.smallest_batch < 2:
            rest = "batches of one"
            if self.recipe.loading is not None:
                rest = "a last batch of one (a loader with drop_last=True would leave it out)"
            raise InputError(
                f"`training.batch_size` divides {min(len(r) for r in records_K)} records into {rest}, over which the "
                f"batch normalisation of {self.architecture.name} is undefined; use other batches."
            )
        if self.architecture.mixes_records and any(batches.has_padding_S):
            raise InputError(
                f"The model {self.architecture.name} lets the records of a batch influence each other (perhaps its "
                "batch is not the first axis), and models with different numbers of records need padding, which would "
                "influence them too; use training.chunk=1, or a model that keeps records apart."
            )
        return batches


def cut(places: Sequence[int], width: int) -> list[list[int]]:
    """As few parts of at most `width` places as possible; their sizes differ by at most one."""
    return divided(places, -(-len(places) // width))


def divided(places: Sequence[int], count: int) -> list[list[int]]:
    """The places in `count` parts, one after the other; their sizes differ by at most one."""
    bounds = [len(places) * part // count for part in range(count + 1)]
    return [list(places[start:end]) for start, end in pairwise(bounds)]


def fit(trainer: pl.Trainer, module: StackModule, *, resume: Path | None = None) -> None:
    """`trainer.fit(module)`, from a checkpoint where there is one; what Lightning refuses is one sentence.

    Raises:
        InputError: Lightning refuses to train.
    """
    try:
        with _interruptible():
            trainer.fit(module, ckpt_path=resume, weights_only=True)
    except MisconfigurationException as error:
        raise InputError(
            f"pytorch_lightning.Trainer refuses to train ({first_line(error)}); change the `trainer` settings."
        ) from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt; Lightning would end the process and ignore the signal from then on."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        if not isinstance(ended.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise ended.__context__ from None  # which may be SIGTERM's
