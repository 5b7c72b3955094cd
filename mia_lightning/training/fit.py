"""Train K models of one role: the one engine for targets, shadow models and attack networks."""

import logging
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.seeds import derive
from mia_lightning.training.architecture import Architecture, inspect_architecture
from mia_lightning.training.module import StackModule
from mia_lightning.training.progress import EpochBar, Stages
from mia_lightning.training.recipe import Recipe
from mia_lightning.training.rules import Gradients, Models
from mia_lightning.training.stack import MakeNetwork, Stack
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What all stages of a run share.

    Attributes:
        seed: of the run.
        settings: of every `pl.Trainer`.
        stages: where progress and remarks are shown.
        folder: where Lightning's own callbacks and loggers write; None for the working folder.
        losses: by role, the losses `(train_loss_EK, validation_loss_EK)` of all that was trained.
    """

    seed: int
    settings: TrainerSettings = field(default_factory=TrainerSettings)
    stages: Stages = field(default_factory=Stages)
    folder: Path | None = None
    losses: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """The device that the settings name."""
        with _quiet_lightning():
            device: torch.device = self.settings.make(epochs=1).strategy.root_device
        return device

    def train(
        self,
        make_network: MakeNetwork,
        population: Population,
        records_K: Sequence[Tensor],
        recipe: Recipe,
        *,
        role: str,
        models: Sequence[int] | None = None,
        validation_N: Tensor | None = None,
        architecture: Architecture | None = None,
        response_KN: Tensor | None = None,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> TrainedStack:
        """Train one model on each of `records_K` (int64 record indices).

        Model k is a function of (seed, role, `models[k]`), its records and the recipe: training all at once, in
        chunks, in a loop or one alone gives the same networks up to the order of floating-point sums.

        Args:
            models: the numbers of the models; 0 to K - 1 by default.
            validation_N: record indices for early stopping.
            architecture: of `make_network`, if it was already inspected.
            response_KN: floating point, for regressions: what the objective is given of record n for model k in the
                place of its label. The classes of `population` are then the numbers that a network puts out.
            buffers: by their names in a network, what buffers of the models hold from the start, `[K, ...]`.

        Raises:
            InputError: the architecture, the recipe or the records cannot be trained.
        """
        models = range(len(records_K)) if models is None else models
        if recipe.early_stopping is not None and validation_N is None:
            raise InputError(
                f"`training.early_stopping` is set for {role}, by itself or by defense=early_stopping, but no records "
                "are held out; set `membership.validation` to their number (attack networks have none)."
            )
        recipe.check()
        with _quiet_lightning(), self.settings.matmul_precision():
            architecture = architecture or inspect_architecture(make_network, population)
            execution = self._execution(architecture, recipe, role)
            chunks = list(_chunks([len(r) for r in records_K], recipe))
            chunk_models = [
                Models(
                    make_network=make_network,
                    architecture=architecture,
                    population=population,
                    recipe=recipe,
                    num_records_K=[len(records_K[k]) for k in chunk],
                    seed=self.seed,
                    role=role,
                    models=[models[k] for k in chunk],
                )
                for chunk in chunks
            ]
            rule = recipe.gradient_rule
            # All before the first one trains: what cannot hold is refused before anything expensive.
            rules = [None if rule is None else rule.for_models(each) for each in chunk_models]
            with self.stages.stage(role, recipe.epochs * len(chunks)) as bar:
                parts = [
                    self._train_chunk(
                        make_network,
                        population,
                        [records_K[k] for k in chunk],
                        [models[k] for k in chunk],
                        recipe,
                        role=role,
                        execution=execution,
                        validation_N=validation_N,
                        architecture=architecture,
                        gradients=gradients,
                        bar=bar,
                        response_KN=None if response_KN is None else response_KN[chunk],
                        buffers={name: buffer_K[chunk] for name, buffer_K in (buffers or {}).items()},
                    )
                    for chunk, gradients in zip(chunks, rules, strict=True)
                ]
        trained = _join(parts, [k for chunk in chunks for k in chunk], architecture, execution)
        self.losses[role] = (trained.train_loss_EK, trained.validation_loss_EK)
        return trained

    def _execution(self, architecture: Architecture, recipe: Recipe, role: str) -> str:
        if recipe.execution == "loop":
            return "loop"
        if architecture.refusal is None:
            return "stack"
        if recipe.execution == "stack":
            raise InputError(f"`training.execution` is stack, but {architecture.refusal}; set training.execution=loop.")
        self.stages.remark(f"{role}: {architecture.refusal}; its models are stepped one by one.")
        return "loop"

    def _train_chunk(
        self,
        make_network: MakeNetwork,
        population: Population,
        records_K: list[Tensor],
        models: list[int],
        recipe: Recipe,
        *,
        role: str,
        execution: str,
        validation_N: Tensor | None,
        architecture: Architecture,
        gradients: Gradients | None,
        bar: EpochBar,
        response_KN: Tensor | None,
        buffers: Mapping[str, Tensor],
    ) -> StackModule:
        folder = None if self.folder is None else self.folder / "lightning" / role
        trainer = self.settings.make(epochs=recipe.epochs, callbacks=[bar.for_trainer()], folder=folder)
        batches = recipe.sampler(
            records_K,
            torch.tensor([derive(self.seed, role, k, "order") for k in models]),
            batches_per_epoch=recipe.steps_per_epoch(len(records_K[0])),
            device=trainer.strategy.root_device,
        )
        if architecture.has_batch_norm and batches.smallest_batch < 2:
            raise InputError(
                f"`training.batch_size` divides {min(len(r) for r in records_K)} records into batches of one, over "
                f"which the batch normalisation of {architecture.name} is undefined; use larger batches."
            )
        if architecture.mixes_records and any(batches.has_padding_S):
            raise InputError(
                f"The model {architecture.name} lets records of one batch reach each other (its batch may not be the "
                "first axis), and models of unequal numbers of records need padding, which would reach them too; use "
                "training.chunk=1, or keep records apart."
            )
        stack = Stack.build(
            make_network,
            models,
            seed=self.seed,
            role=role,
            training_records=lambda place: population.records(records_K[place].to(population.device)),
        )
        for name, buffer_K in buffers.items():
            stack.networks.get_buffer(name).copy_(buffer_K)
        module = StackModule(
            stack,
            population,
            batches,
            recipe,
            gradients=gradients,
            execution=execution,
            validation_N=validation_N,
            role=role,
            response_KN=response_KN,
        )
        try:
            with _interruptible():
                trainer.fit(module)
        except MisconfigurationException as error:
            raise InputError(f"pytorch_lightning.Trainer refuses to train: {str(error).splitlines()[0]}") from error
        module.to(trainer.strategy.root_device)  # Lightning's teardown moves it to the CPU
        return module.eval()


def _chunks(sizes: list[int], recipe: Recipe) -> Iterator[list[int]]:
    """Models that train together: equal in steps per epoch, at most `recipe.chunk` of them."""
    groups: dict[int, list[int]] = {}
    for k, size in enumerate(sizes):
        groups.setdefault(recipe.steps_per_epoch(size), []).append(k)
    for group in groups.values():
        width = recipe.chunk or len(group)
        for start in range(0, len(group), width):
            yield group[start : start + width]


def _join(parts: list[StackModule], order: list[int], architecture: Architecture, execution: str) -> TrainedStack:
    place = torch.tensor(order).argsort()

    def losses(name: str) -> Tensor:
        columns = [torch.stack(getattr(part, name)).cpu() for part in parts]
        epochs = max(len(column) for column in columns)
        padded = [torch.nn.functional.pad(c, (0, 0, 0, epochs - len(c)), value=torch.nan) for c in columns]
        return torch.cat(padded, dim=1)[:, place]

    def per_model(name: str) -> Tensor:
        return torch.cat([part.progress[name].cpu() for part in parts])[place]

    return TrainedStack(
        stack=Stack.concatenate([part.stack for part in parts], order=place).eval(),
        architecture=architecture,
        execution=execution,
        failed_epoch_K=per_model("failed_epoch_K"),
        stopped_epoch_K=per_model("stopped_epoch_K"),
        train_loss_EK=losses("train_loss_EK"),
        validation_loss_EK=losses("validation_loss_EK") if parts[0].validation_loss_EK else None,
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C stays a KeyboardInterrupt; Lightning would end the process and ignore the signal from then on."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        if not isinstance(ended.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from ended


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's remarks on hardware and loaders, which speak of each of our many short fits."""
    log = logging.getLogger("pytorch_lightning")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            warnings.filterwarnings("ignore", message="There is a performance drop because we have not yet implemented")
            yield
    finally:
        log.setLevel(before)
