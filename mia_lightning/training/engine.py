"""Train K models of one role: the one engine for targets, shadow models and attack networks."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.store.artefacts import Store
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.chunks import Made, OneDevice, of_weights
from mia_lightning.training.devices.local_shard import HandedOver, LocalShard
from mia_lightning.training.devices.processes import threads_of_shard, train_on_devices
from mia_lightning.training.devices.split import may_split, split
from mia_lightning.training.devices.visible import environment_of
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.kept import Kept, kept_models
from mia_lightning.training.plan.cores import waiting_is_set
from mia_lightning.training.plan.execution import ExecutionPlan, Plans
from mia_lightning.training.plan.memory import release
from mia_lightning.training.plan.pace import HOW_TO_WAIT
from mia_lightning.training.plan.planner import Planner, signature_of
from mia_lightning.training.plan.threads import allowed_threads, using_threads
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings, quiet_lightning


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
        plans: the execution plans of the run, by which it was trained.
        planner: makes execution plans.
        store: where trained models are found and kept; None for nowhere.
        reused: by role, how many of its models were found there.
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
        return self.settings.device

    def places(self, role: str, num_models: int) -> range:
        """The numbers of the models of a role that are made here: all."""
        return range(num_models)

    def made(self, role: str, num_models: int, *, is_kept: bool) -> None:
        """Told when these models are made, by whoever makes others than networks.

        Args:
            is_kept: whether they are in the store.
        """

    def run(self, job: TrainingJob) -> TrainedStack:
        """Take from the store what it holds; plan and train the rest, on several devices side by side.

        Raises:
            InputError: `training.execution` is stack and vmap refuses the architecture, one model is too large, or the
                recipe does not fit the models.
        """
        job.check()
        kept = self.kept(job)
        trained = self._restored(job, kept)
        if trained is None:
            self._announce(job, kept)
            trained = self._trained(job, kept)
        self.losses[job.role] = (trained.train_loss_EK, trained.validation_loss_EK)
        return replace(trained, kept=kept.answers(self.stages.remark))

    def plan(self, job: TrainingJob, kept: Kept | None = None) -> ExecutionPlan:
        """The execution plan of a job; on several devices that of the largest shard.

        A plan of this run, of an earlier run in its folder or of a run that was stopped is taken; else a probe finds
        a new one.

        Raises:
            InputError: `training.execution` is stack and vmap refuses the architecture, or one model is too large.
        """
        kept = self.kept(job) if kept is None else kept
        remaining = 1 - kept.num_found() / job.num_models
        shards = job.shards(self.settings.num_devices)
        if len(shards) > 1:
            job = job.part(max(shards, key=len))
        executions = self._executions(job)
        device = self.device
        plan = self._known_plan(job, kept, device)
        if plan is None:
            planner = replace(self.planner.beside(len(shards)), remaining=remaining)
            with quiet_lightning(), self.settings.matmul_precision(), using_threads(threads_of_shard(len(shards))):
                plan = planner.plan(job, executions, self.settings, device)
            if device.type == "cpu":
                plan = split(
                    job,
                    plan,
                    self.settings,
                    hand_over=lambda plan: self._handed_over(job, plan),
                    budget=self.planner.budget(device),
                    seconds=self.planner.share * plan.seconds * remaining,
                )
            if plan.measured:
                self.stages.note(plan.sentence)
            if plan.threads > 1 and device.type == "cpu" and not waiting_is_set() and not any(self.plans):
                self.stages.note(f"On a machine that others use, too, {HOW_TO_WAIT}.")
        self.plans.keep(plan)
        kept.keep_plan(plan, device)
        return plan

    def kept(self, job: TrainingJob) -> Kept:
        """Where the models of the job are found and kept."""
        return kept_models(self.store, job, self.settings, self.stages.remark)

    def _known_plan(self, job: TrainingJob, kept: Kept, device: torch.device) -> ExecutionPlan | None:
        return self.plans.find(job.role, signature_of(job, device, self.settings)) or kept.find_plan(device)

    def _restored(self, job: TrainingJob, kept: Kept) -> TrainedStack | None:
        """All models from the store; None where one is missing."""
        if kept.num_found() < job.num_models:
            return None
        places = range(job.num_models)
        found = kept.find(places, self.stages.remark)
        if len(found) < job.num_models:
            return None
        plan = self._known_plan(job, kept, self.device)
        if plan is not None:
            self.plans.keep(plan)  # by which they were trained
        execution = self._executions(job)[0] if plan is None else plan.execution
        is_channels_last = plan is not None and plan.channels_last
        self.reused[job.role] = Reuse(found=job.num_models, trained=0)
        self.stages.note(f"{job.role}: {_counted(job.num_models)} from the store, nothing to train.")
        weights_K = [found[k] for k in places]
        return of_weights(job, weights_K, execution, self.device, is_channels_last=is_channels_last)

    def _announce(self, job: TrainingJob, kept: Kept) -> None:
        """Say what will be reused, and why not more, before anything is trained."""
        if not kept.keeps:
            return
        found, reason = kept.num_found(), kept.nearest()
        if found:
            self.stages.note(f"{job.role}: {found} of {_counted(job.num_models)} from the store.")
        elif reason is not None:
            self.stages.note(f"{job.role}: none of {_counted(job.num_models)} in the store; {reason}.")
        self.reused[job.role] = Reuse(found=0, trained=0, reason=reason)

    def _trained(self, job: TrainingJob, kept: Kept) -> TrainedStack:
        """Train what the store does not hold, by the job's execution plan."""
        plan = self.plan(job, kept)
        if plan.processes > 1 and not may_split(job, self.settings):  # a plan that was made under other conditions
            plan = replace(plan, processes=1)
        if job.recipe.threads == "auto":
            plan = replace(plan, threads=min(plan.threads, allowed_threads()))
        made = self._made(job, kept, plan)
        self.plans.keep(made.plan)
        earlier = self.reused.get(job.role)
        if earlier is not None:  # else nothing goes through a store
            trained = job.num_models - made.num_found
            self.reused[job.role] = replace(earlier, found=made.num_found, trained=trained)
        return made.trained

    def _made(self, job: TrainingJob, kept: Kept, plan: ExecutionPlan) -> Made:
        if len(self._parts(job, plan)) > 1:
            release(self.device)  # what a probe left there, which the first process may need
            try:
                return train_on_devices(self._handed_over(job, plan), stages=self.stages, device=self.device)
            except InputError as error:
                if plan.processes == 1:  # several devices were asked for
                    raise
                self.stages.note(f"{job.role}: several processes could not train it, so that one does ({error})")
                plan = replace(plan, processes=1)
        worker = OneDevice(
            job=job,
            settings=self.settings,
            kept=kept,
            plans=self.plans,
            stages=self.stages,
            folder=self.folder,
            clock=self.planner.clock,
        )
        return worker.follow(plan)

    def _parts(self, job: TrainingJob, plan: ExecutionPlan) -> list[list[int]]:
        """The places of the models in the parts of the job, each of which a process trains."""
        return job.shards(max(self.settings.num_devices, plan.processes))

    def _handed_over(self, job: TrainingJob, plan: ExecutionPlan) -> HandedOver:
        """What is trained, cut into the parts of several devices or processes."""
        places_D = self._parts(job, plan)
        shards = []
        for place, places in enumerate(places_D):
            settings = self.settings.alone(place, self.device.type)
            shards.append(
                LocalShard(
                    place=place,
                    device=settings.device,  # refused here, if it is not there
                    settings=settings,
                    places=places,
                    num_threads=threads_of_shard(len(places_D)),
                    folder=(self.folder or Path()) / f"device_{place}",
                    environment=environment_of(self.settings.index_of(place)) if self.device.type == "cuda" else {},
                )
            )
        return HandedOver(job=job, plan=plan, shards=shards, store=self.store)

    def _executions(self, job: TrainingJob) -> tuple[str, ...]:
        """Those that come into question, the preferred one first."""
        chosen, refusal = job.recipe.execution, job.architecture.refusal
        if chosen == "loop":
            return ("loop",)
        if refusal is None:
            return ("stack",) if chosen == "stack" else ("stack", "loop")
        self.stages.remark(f"{job.role}: {refusal}; its models are stepped one by one.")
        return ("loop",)


def _counted(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"
