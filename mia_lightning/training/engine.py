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
from mia_lightning.store.artefacts import Store
from mia_lightning.store.identity import NoIdentityError
from mia_lightning.terminal.progress import EpochBar, Stages
from mia_lightning.training.devices.processes import as_one_of, threads_of_share, train_on_devices
from mia_lightning.training.devices.share import Share
from mia_lightning.training.job import TrainingJob, cut, fit
from mia_lightning.training.kept import Begun, Kept, KeptModels, NothingKept
from mia_lightning.training.kept_answers import InStore
from mia_lightning.training.plan.execution import ExecutionPlan, Plans
from mia_lightning.training.plan.memory import is_out_of_memory, release
from mia_lightning.training.plan.planner import Planner, does_not_fit, signature_of
from mia_lightning.training.stack.architecture import Architecture, inspect_architecture
from mia_lightning.training.stack.stack import MakeNetwork
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.step.rules import Gradients
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """What became of the models of a role.

    Attributes:
        found: in the store.
        trained: in this run.
        reason: which fields differ from the nearest that the store held; None where it held these, or nothing.
    """

    found: int
    trained: int
    reason: str | None = None


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
        store: where trained models are found and kept; None for nowhere.
        reused: by role, what of it was found there.
    """

    seed: int
    settings: TrainerSettings = field(default_factory=TrainerSettings)
    stages: Stages = field(default_factory=Stages)
    folder: Path | None = None
    losses: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    plans: Plans = field(default_factory=Plans)
    planner: Planner = field(default_factory=Planner)
    store: Store | None = None
    reused: dict[str, Reuse] = field(default_factory=dict)

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
        keep: bool = False,
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
            keep: whether the models are looked for, and kept, in the store.

        Raises:
            InputError: the architecture, the recipe or the records cannot be trained.
        """
        return self.run(
            self.job(
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
                keep=keep,
            )
        )

    def job(
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
        keep: bool = False,
    ) -> TrainingJob:
        """What `train` trains, checked."""
        if recipe.early_stopping is not None and validation_N is None:
            raise InputError(
                f"`training.early_stopping` is set for {role}, by itself or by defense=early_stopping, but no records "
                "are held out; set `membership.validation` to their number (attack networks have none)."
            )
        recipe.check()
        recipe.check_records(population.input_shape)
        with _quiet_lightning(), self.settings.matmul_precision():
            return TrainingJob(
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
                keep=keep,
            )

    def plan(self, job: TrainingJob, kept: Kept | None = None) -> ExecutionPlan:
        """How the job will be trained: as this run, an earlier one in its folder, or one that was stopped has done, or
        by a probe.

        On several devices it is the plan of the largest share.

        Raises:
            InputError: `training.execution` is stack and vmap refuses the architecture, or one model is too large.
        """
        kept = self.kept(job) if kept is None else kept
        remaining = 1 - kept.num_found() / job.num_models
        shares = job.shares(self.settings.num_devices)
        if len(shares) > 1:
            job = job.part(max(shares, key=len))
        executions = self._executions(job)
        device = self.device
        signature = signature_of(job, device, self.settings)
        plan = self.plans.find(job.role, signature) or kept.find_plan(device)
        if plan is None:
            planner = replace(self.planner.beside(len(shares)), remaining=remaining)
            with _quiet_lightning(), self.settings.matmul_precision(), as_one_of(len(shares)):
                plan = planner.plan(job, executions, self.settings, device)
            if plan.measured:
                self.stages.note(plan.sentence)
        self.plans.keep(plan)
        kept.keep_plan(plan, device)
        return plan

    def kept(self, job: TrainingJob) -> Kept:
        """Where the models of the job are found and kept."""
        if self.store is None or not job.keep:
            return NothingKept()
        try:
            return KeptModels.of(self.store, job, self.settings)
        except NoIdentityError as error:
            self.stages.remark(
                f"{job.role}: nothing is kept in the store, since it cannot be said what {error} in `model`, "
                "`training`, `defense` or `trainer` is."
            )
            return NothingKept()

    def run(self, job: TrainingJob) -> TrainedStack:
        """Take what the store holds; plan and train the rest, chunk by chunk, on several devices side by side; join."""
        kept = self.kept(job)
        trained = self._restored(job, kept)
        if trained is None:
            self._announce(job, kept)
            plan = self.plan(job, kept)
            shares = job.shares(self.settings.num_devices)
            trained = self.follow(job, plan, kept) if len(shares) == 1 else self._run_shares(job, shares, plan)
        self.losses[job.role] = (trained.train_loss_EK, trained.validation_loss_EK)
        if isinstance(kept, KeptModels):
            models = InStore(store=kept.store, key_K=kept.key_K, tell=self.stages.remark)
            trained = replace(trained, kept=models)
        return trained

    def follow(self, job: TrainingJob, plan: ExecutionPlan, kept: Kept | None = None) -> TrainedStack:
        """Train on the first device as the plan says, but for what the store holds."""
        if kept is None:
            kept = self.kept(job)
            self.reused[job.role] = Reuse(found=0, trained=0)
        job = replace(job, population=job.population.near(self.device))  # once for all chunks
        with _quiet_lightning(), self.settings.matmul_precision():
            parts, order = self._train_chunks(job, plan, kept)
        return TrainedStack.joined(parts, torch.tensor(order).argsort())

    def _restored(self, job: TrainingJob, kept: Kept) -> TrainedStack | None:
        """All models from the store; None where one is missing."""
        if kept.num_found() < job.num_models:
            return None
        places = range(job.num_models)
        found = kept.find(places, self.stages.remark)
        if len(found) < job.num_models:
            return None
        signature = signature_of(job, self.device, self.settings)
        plan = self.plans.find(job.role, signature) or kept.find_plan(self.device)
        if plan is not None:
            self.plans.keep(plan)  # by which they were trained
        execution = self._executions(job)[0] if plan is None else plan.execution
        self.reused[job.role] = Reuse(found=job.num_models, trained=0)
        self.stages.note(f"{job.role}: {_counted(job.num_models)} from the store, nothing to train.")
        return self._of_weights(job, [found[k] for k in places], execution)

    def _of_weights(self, job: TrainingJob, weights_K: Sequence[Mapping[str, Tensor]], execution: str) -> TrainedStack:
        return TrainedStack.of_weights(job.stack([0]).to(self.device), weights_K, job.architecture, execution)

    def _announce(self, job: TrainingJob, kept: Kept) -> None:
        """What will be reused, and why not more; said before it is done, and again in the report."""
        if isinstance(kept, NothingKept):
            return
        found, reason = kept.num_found(), kept.nearest()
        if found:
            self.stages.note(f"{job.role}: {found} of {_counted(job.num_models)} from the store.")
        elif reason is not None:
            self.stages.note(f"{job.role}: none of {_counted(job.num_models)} in the store; {reason}.")
        self.reused[job.role] = Reuse(found=0, trained=0, reason=reason)

    def num_found(self, role: str) -> int:
        """How many models of a role came from the store."""
        return self.reused[role].found if role in self.reused else 0

    def _run_shares(self, job: TrainingJob, places_D: Sequence[list[int]], plan: ExecutionPlan) -> TrainedStack:
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
        trained, followed, found = train_on_devices(
            job,
            shares,
            plan,
            partial(Engine, seed=self.seed, store=self.store),
            stages=self.stages,
            device=self.device,
        )
        self.plans.keep(followed)
        self._count(job.role, found=found, trained=job.num_models - found)
        return trained

    def _executions(self, job: TrainingJob) -> tuple[str, ...]:
        """Those that come into question, the preferred one first."""
        chosen, refusal = job.recipe.execution, job.architecture.refusal
        if chosen == "loop":
            return ("loop",)
        if refusal is None:
            return ("stack",) if chosen == "stack" else ("stack", "loop")
        if chosen == "stack":
            raise InputError(f"`training.execution` is stack, but {refusal}; set training.execution=loop.")
        self.stages.remark(f"{job.role}: {refusal}; its models are stepped one by one.")
        return ("loop",)

    def _train_chunks(self, job: TrainingJob, plan: ExecutionPlan, kept: Kept) -> tuple[list[TrainedStack], list[int]]:
        """The chunks, with the places of their models; those that do not fit the memory are halved."""
        # All before the first one trains: what cannot hold is refused before anything expensive.
        waiting = [(places, job.gradients(places)) for places in job.chunks(plan.chunk)]
        parts: list[TrainedStack] = []
        order: list[int] = []
        num_chunks = len(waiting)
        with self.stages.stage(job.role, job.recipe.epochs * num_chunks, job.num_models) as bar:
            while waiting:
                places, gradients = waiting[0]
                made = self._chunk(job, places, gradients, plan.execution, bar, kept)
                if made is None:
                    plan = self._halved(job, plan, len(places))
                    kept.keep_plan(plan, self.device)
                    others = [cut(each, plan.chunk) for each, _ in waiting]
                    num_chunks += len(list(chain.from_iterable(others))) - len(waiting)
                    waiting = [(each, job.gradients(each)) for each in chain.from_iterable(others)]
                    bar.restart_chunk()
                    bar.until(job.recipe.epochs * num_chunks)
                    continue
                for part, own in made:
                    parts.append(part)
                    order += own
                bar.end_chunk(len(places), job.recipe.epochs)
                del waiting[0]
        return parts, order

    def _chunk(
        self,
        job: TrainingJob,
        places: list[int],
        gradients: Gradients | None,
        execution: str,
        bar: EpochBar,
        kept: Kept,
    ) -> list[tuple[TrainedStack, list[int]]] | None:
        """What the store holds of a chunk, and the rest trained, with the places of each; None where memory ran out."""

        def waiting() -> None:
            self.stages.note(f"{job.role}: another process trains some of these models; this one waits for them.")

        with kept.alone(places, waiting):
            begun = kept.begin(places, execution, self.stages.remark)
            made: list[tuple[TrainedStack, list[int]]] = []
            if begun.found:
                own = list(begun.found)
                made.append((self._of_weights(job, [begun.found[k] for k in own], execution), own))
            if begun.places:
                if begun.places != places:
                    gradients = job.gradients(begun.places)
                if begun.checkpoint is not None:
                    self.stages.note(f"{job.role}: goes on from where an earlier process was stopped.")
                part = self._train_chunk(job, begun, gradients, execution, bar)
                if part is None:
                    return None
                begun.end(part)
                made.append((part, begun.places))
        self._count(job.role, found=len(begun.found), trained=len(begun.places))
        return made

    def _count(self, role: str, *, found: int, trained: int) -> None:
        earlier = self.reused.get(role)
        if earlier is not None:  # else it goes through no store
            self.reused[role] = replace(earlier, found=earlier.found + found, trained=earlier.trained + trained)

    def _train_chunk(
        self, job: TrainingJob, begun: Begun, gradients: Gradients | None, execution: str, bar: EpochBar
    ) -> TrainedStack | None:
        """None where memory ran out."""
        folder = None if self.folder is None else self.folder / "lightning" / job.role
        callbacks = [bar.for_trainer(), *begun.callbacks]
        trainer = self.settings.make(epochs=job.recipe.epochs, callbacks=callbacks, folder=folder)
        device, places = trainer.strategy.root_device, begun.places
        try:
            module = job.module(places, job.stack(places), execution=execution, gradients=gradients, device=device)
            fit(trainer, module, resume=begun.checkpoint)
            module.to(device)  # Lightning's teardown moves it to the CPU
            return TrainedStack.of_module(module, job.architecture)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _halved(self, job: TrainingJob, plan: ExecutionPlan, width: int) -> ExecutionPlan:
        """The plan with half as many models at once, written down and said.

        Raises:
            InputError: it was a single one.
        """
        release(self.device)  # outside of the handler, whose traceback holds the models
        if width == 1:
            raise does_not_fit(job.role, self.device)
        halved = replace(plan, chunk=-(-width // 2), reason=f"halved, since memory ran out with {width} models at once")
        self.stages.remark(
            f"{job.role}: memory ran out with {width} models at once; it goes on with {halved.chunk}, and keeps what "
            "is trained."
        )
        self.plans.keep(halved)
        return halved


def _counted(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's remarks on hardware and loaders, which speak of each of our many short fits."""
    log = logging.getLogger("pytorch_lightning")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Of a machine with Slurm lightning_fabric remarks that it was not started by it: we start it ourselves.
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
            warnings.filterwarnings("ignore", message="There is a performance drop because we have not yet implemented")
            yield
    finally:
        log.setLevel(before)
