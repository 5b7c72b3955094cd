"""Train K models of one role: the one engine for targets, shadow models and attack networks."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.training.architecture import Architecture, inspect_architecture
from mia_lightning.training.devices import as_one_of, threads_of_share, train_on_devices
from mia_lightning.training.execution import ExecutionPlan, Plans
from mia_lightning.training.memory import is_out_of_memory, release
from mia_lightning.training.module import StackModule
from mia_lightning.training.planner import Planner, does_not_fit, job_of
from mia_lightning.training.progress import EpochBar, Stages
from mia_lightning.training.recipe import Recipe
from mia_lightning.training.rules import Gradients
from mia_lightning.training.share import Share
from mia_lightning.training.stack import MakeNetwork, Stack
from mia_lightning.training.task import Task, cut, fit
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
        plans: how it was trained, kept with the run.
        planner: what decides that.
    """

    seed: int
    settings: TrainerSettings = field(default_factory=TrainerSettings)
    stages: Stages = field(default_factory=Stages)
    folder: Path | None = None
    losses: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    plans: Plans = field(default_factory=Plans)
    planner: Planner = field(default_factory=Planner)

    @property
    def device(self) -> torch.device:
        """The device that the settings name, the first of several."""
        if self.settings.accelerator == "cpu":  # what Lightning would say, in the time of a small training
            return torch.device("cpu")
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
        return self.run(
            self.task(
                make_network,
                population,
                records_K,
                recipe,
                role=role,
                models=models,
                validation_N=validation_N,
                architecture=architecture,
                response_KN=response_KN,
                buffers=buffers,
            )
        )

    def task(
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
    ) -> Task:
        """What `train` trains, checked."""
        if recipe.early_stopping is not None and validation_N is None:
            raise InputError(
                f"`training.early_stopping` is set for {role}, by itself or by defense=early_stopping, but no records "
                "are held out; set `membership.validation` to their number (attack networks have none)."
            )
        recipe.check()
        recipe.check_records(population.input_shape)
        with _quiet_lightning(), self.settings.matmul_precision():
            return Task(
                seed=self.seed,
                role=role,
                make_network=make_network,
                architecture=architecture or inspect_architecture(make_network, population),
                population=population,
                records_K=records_K,
                recipe=recipe,
                models=range(len(records_K)) if models is None else models,
                validation_N=validation_N,
                response_KN=response_KN,
                buffers=buffers or {},
            )

    def plan(self, task: Task) -> ExecutionPlan:
        """How the task will be trained: as this run, or an earlier one in its folder, has done, or by a probe.

        On several devices it is the plan of the largest share.

        Raises:
            InputError: `training.execution` is stack and vmap refuses the architecture, or one model is too large.
        """
        shares = task.shares(self.settings.num_devices)
        if len(shares) > 1:
            task = task.part(max(shares, key=len))
        executions = self._executions(task)
        device = self.device
        plan = self.plans.find(task.role, job_of(task, device, self.settings))
        if plan is None:
            planner = self.planner.beside(len(shares))
            with _quiet_lightning(), self.settings.matmul_precision(), as_one_of(len(shares)):
                plan = planner.plan(task, executions, self.settings, device)
            if plan.measured:
                self.stages.note(plan.sentence)
        self.plans.keep(plan)
        return plan

    def run(self, task: Task) -> TrainedStack:
        """Plan, train chunk by chunk, on several devices side by side, join."""
        plan = self.plan(task)
        shares = task.shares(self.settings.num_devices)
        trained = self.follow(task, plan) if len(shares) == 1 else self._run_shares(task, shares, plan)
        self.losses[task.role] = (trained.train_loss_EK, trained.validation_loss_EK)
        return trained

    def follow(self, task: Task, plan: ExecutionPlan) -> TrainedStack:
        """Train on the first device as the plan says."""
        task = replace(task, population=task.population.near(self.device))  # once for all chunks
        with _quiet_lightning(), self.settings.matmul_precision():
            parts, order = self._train_chunks(task, plan)
        return _join(parts, order, task.architecture, plan.execution)

    def _run_shares(self, task: Task, places_D: Sequence[list[int]], plan: ExecutionPlan) -> TrainedStack:
        """Each in a process of its own, on a device of its own."""
        shares = []
        for place, places in enumerate(places_D):
            settings = self.settings.alone(place, self.device.type)
            device = replace(self, settings=settings).device  # refused here, if it is not there
            shares.append(
                Share(
                    place=place,
                    device=device,
                    settings=settings,
                    places=places,
                    num_threads=threads_of_share(len(places_D)),
                    folder=(self.folder or Path()) / f"device_{place}",
                )
            )
        release(self.device)  # what a probe left there, which the first process may need
        trained, followed = train_on_devices(
            task, shares, plan, partial(Engine, seed=self.seed), stages=self.stages, device=self.device
        )
        self.plans.keep(followed)
        return trained

    def _executions(self, task: Task) -> tuple[str, ...]:
        """Those that come into question, the preferred one first."""
        chosen, refusal = task.recipe.execution, task.architecture.refusal
        if chosen == "loop":
            return ("loop",)
        if refusal is None:
            return ("stack",) if chosen == "stack" else ("stack", "loop")
        if chosen == "stack":
            raise InputError(f"`training.execution` is stack, but {refusal}; set training.execution=loop.")
        self.stages.remark(f"{task.role}: {refusal}; its models are stepped one by one.")
        return ("loop",)

    def _train_chunks(self, task: Task, plan: ExecutionPlan) -> tuple[list[StackModule], list[int]]:
        """The trained chunks, with the places of their models; those that do not fit the memory are halved."""
        # All before the first one trains: what cannot hold is refused before anything expensive.
        waiting = [(places, task.gradients(places)) for places in task.chunks(plan.chunk)]
        parts: list[StackModule] = []
        order: list[int] = []
        with self.stages.stage(task.role, task.recipe.epochs * len(waiting)) as bar:
            while waiting:
                places, gradients = waiting[0]
                part = self._train_chunk(task, places, gradients, plan.execution, bar)
                if part is None:
                    plan = self._halved(task, plan, len(places))
                    others = [cut(each, plan.chunk) for each, _ in waiting]
                    waiting = [(each, task.gradients(each)) for each in chain.from_iterable(others)]
                    bar.until(task.recipe.epochs * (len(parts) + len(waiting)))
                    continue
                parts.append(part)
                order += places
                del waiting[0]
        return parts, order

    def _train_chunk(
        self, task: Task, places: list[int], gradients: Gradients | None, execution: str, bar: EpochBar
    ) -> StackModule | None:
        """None where memory ran out."""
        folder = None if self.folder is None else self.folder / "lightning" / task.role
        trainer = self.settings.make(epochs=task.recipe.epochs, callbacks=[bar.for_trainer()], folder=folder)
        device = trainer.strategy.root_device
        try:
            module = task.module(places, task.stack(places), execution=execution, gradients=gradients, device=device)
            fit(trainer, module)
            module.to(device)  # Lightning's teardown moves it to the CPU
            return module.eval()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _halved(self, task: Task, plan: ExecutionPlan, width: int) -> ExecutionPlan:
        """The plan with half as many models at once, written down and said.

        Raises:
            InputError: it was a single one.
        """
        release(self.device)  # outside of the handler, whose traceback holds the models
        if width == 1:
            raise does_not_fit(task.role, self.device)
        halved = replace(plan, chunk=-(-width // 2), reason=f"halved, since memory ran out with {width} models at once")
        self.stages.remark(
            f"{task.role}: memory ran out with {width} models at once; it goes on with {halved.chunk}, and keeps what "
            "is trained."
        )
        self.plans.keep(halved)
        return halved


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
