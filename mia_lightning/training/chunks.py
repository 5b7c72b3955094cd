"""Train a job on one device, chunk by chunk: take what the store holds, train the rest, halve what memory refuses."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mia_lightning.terminal.progress import EpochBar, Stages
from mia_lightning.training.job import TrainingJob, cut, fit
from mia_lightning.training.kept import Begun, Kept
from mia_lightning.training.plan.execution import SWITCHES, ExecutionPlan, Plans
from mia_lightning.training.plan.memory import is_out_of_memory, release
from mia_lightning.training.plan.pace import Clock, Pace
from mia_lightning.training.plan.planner import REFUSALS, does_not_fit
from mia_lightning.training.plan.threads import numbers_of_threads, using_threads
from mia_lightning.training.step.compiled import Compiler
from mia_lightning.training.step.rules import Gradients
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings, quiet_lightning


@dataclass(frozen=True, eq=False, kw_only=True)
class Made:
    """What became of a job.

    Attributes:
        trained: its models, in order.
        plan: the execution plan that was followed in the end; where memory ran out, it has fewer models at once.
        num_found: how many of the models were in the store.
    """

    trained: TrainedStack
    plan: ExecutionPlan
    num_found: int


@dataclass(frozen=True, eq=False, kw_only=True)
class OneDevice:
    """Trains the models of one job on one device.

    Attributes:
        job: its records are brought near the device when training begins.
        settings: of the trainer, whose first device is used.
        kept: where the models are found and kept.
        plans: where an execution plan is kept that was changed on the way.
        stages: where progress and remarks are shown.
        folder: where Lightning's own callbacks and loggers write; None for the working folder.
        clock: in seconds.
        compiler: of the steps of all chunks.
    """

    job: TrainingJob
    settings: TrainerSettings
    kept: Kept
    plans: Plans
    stages: Stages
    folder: Path | None
    clock: Clock = time.perf_counter
    compiler: Compiler = field(default_factory=Compiler)

    def follow(self, plan: ExecutionPlan) -> Made:
        """Take what the store holds and train the rest as the execution plan says.

        Raises:
            InputError: not even a single model fits the memory, or the recipe does not fit the models.
        """
        near = replace(self, job=replace(self.job, population=self.job.population.near(self.settings.device)))
        with quiet_lightning(), self.settings.matmul_precision():
            return near._all_chunks(plan)

    def _all_chunks(self, plan: ExecutionPlan) -> Made:
        job, pace = self.job, self._pace(plan)
        # All rules of gradients are made before the first chunk trains: what cannot hold is refused at once.
        waiting = [(places, job.gradients(places)) for places in job.chunks(plan.chunk)]
        parts: list[_Part] = []
        num_chunks, num_found = len(waiting), 0
        with self.stages.stage(job.role, job.recipe.epochs * num_chunks, job.num_models) as bar:
            while waiting:
                places, gradients = waiting[0]
                made = self._chunk(places, gradients, pace, bar)
                if made is None:
                    pace.plan = self._halved(pace.plan, len(places))
                    others = list(chain.from_iterable(cut(each, pace.plan.chunk) for each, _ in waiting))
                    num_chunks += len(others) - len(waiting)
                    waiting = [(each, job.gradients(each)) for each in others]
                    bar.restart_chunk()
                    bar.until(job.recipe.epochs * num_chunks)
                    continue
                own, found = made
                parts += own
                num_found += found
                bar.end_chunk(len(places), job.recipe.epochs)
                del waiting[0]
        trained_places = [place for _, own in parts for place in own]
        assert sorted(trained_places) == list(range(job.num_models))
        order = torch.tensor(trained_places).argsort()
        trained = TrainedStack.joined([part for part, _ in parts], order)
        return Made(trained=trained, plan=pace.plan, num_found=num_found)

    def _pace(self, plan: ExecutionPlan) -> Pace:
        """The pace by the plan; where it changes the plan, this is kept and said."""

        def changed(plan: ExecutionPlan, sentence: str) -> None:
            self.plans.keep(plan)  # of this run alone: the store's plans are of machines that were free
            self.stages.note(sentence)

        threads = numbers_of_threads(self.job.recipe, self.settings.device)
        return Pace(plan, threads=threads, clock=self.clock, changed=changed)

    def _chunk(
        self, places: list[int], gradients: Gradients | None, pace: Pace, bar: EpochBar
    ) -> tuple[list["_Part"], int] | None:
        """The models of a chunk, and how many of them the store held; None where memory ran out."""
        job, stages, execution = self.job, self.stages, pace.plan.execution

        def waiting() -> None:
            stages.note(f"{job.role}: another process trains some of these models; this one waits for them.")

        parts: list[_Part] = []
        with self.kept.alone(places, waiting):
            begun = self.kept.begin(places, execution, stages.remark)
            if begun.found:
                weights_K, is_channels_last = list(begun.found.values()), pace.plan.channels_last
                found = of_weights(job, weights_K, execution, self.settings.device, is_channels_last=is_channels_last)
                parts.append((found, list(begun.found)))
            if begun.places:
                if begun.places != places:
                    gradients = job.gradients(begun.places)
                if begun.checkpoint is not None:
                    stages.note(f"{job.role}: goes on from where an earlier process was stopped.")
                trained = self._train(begun, gradients, pace, bar)
                if trained is None:
                    return None
                begun.end(trained)
                is_new_K = torch.tensor([place not in begun.found for place in begun.places])
                new = [place for place in begun.places if place not in begun.found]
                parts.append((trained if is_new_K.all() else trained.select(is_new_K), new))
        return parts, len(begun.found)

    def _train(self, begun: Begun, gradients: Gradients | None, pace: Pace, bar: EpochBar) -> TrainedStack | None:
        """None where memory ran out."""
        job, places, plan = self.job, begun.places, pace.plan
        folder = None if self.folder is None else self.folder / "lightning" / job.role
        callbacks = [bar.for_trainer(), pace, *begun.callbacks]
        trainer = self.settings.make(epochs=job.recipe.epochs, callbacks=callbacks, folder=folder)
        device = trainer.strategy.root_device
        try:
            with using_threads(plan.threads):
                stack = job.stack(places)
                switched_on = self._switched_on(plan, device)
                if self.settings.precision.startswith("64"):
                    stack = stack.double()  # before Lightning loads a checkpoint, which it would round to float32
                module = job.module(
                    places,
                    stack,
                    execution=plan.execution,
                    gradients=gradients,
                    device=device,
                    compiler=self.compiler if switched_on.pop("compile") else None,
                    **switched_on,
                )
                fit(trainer, module, resume=begun.checkpoint)
            if module.graphed is not None and module.graphed.failure is not None:
                pace.plan = self._without("cuda_graphs", pace.plan, module.graphed.failure)
            if module.compiled is not None and self.compiler.failure is not None:
                pace.plan = self._without("compile", pace.plan, self.compiler.failure)
            module.to(device)  # Lightning's teardown moves it to the CPU
            return TrainedStack.of_module(module, job.architecture)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _switched_on(self, plan: ExecutionPlan, device: torch.device) -> dict[str, bool]:
        """What of `SWITCHES` the plan has on; it may have been made with other callbacks, or on another device."""
        return {
            name: getattr(plan, name) and refusal(self.job, self.settings, device) is None
            for name, refusal in REFUSALS.items()
        }

    def _without(self, name: str, plan: ExecutionPlan, failure: str) -> ExecutionPlan:
        """The plan without one of `SWITCHES`, which is kept and said."""
        words = SWITCHES[name]
        self.stages.note(f"{self.job.role}: it goes on without {words}, since {failure}.")
        off: dict[str, Any] = {name: False}
        plain = replace(plan, **off, reason=f"{plan.reason}; without {words}, since {failure}")
        self.plans.keep(plain)
        self.kept.keep_plan(plain, self.settings.device)
        return plain

    def _halved(self, plan: ExecutionPlan, width: int) -> ExecutionPlan:
        """The plan with half as many models at once, which is kept and remarked.

        Raises:
            InputError: it was a single model.
        """
        role, device = self.job.role, self.settings.device
        release(device)  # outside of the handler, whose traceback holds the models
        if width == 1:
            raise does_not_fit(role, device)
        halved = replace(plan, chunk=-(-width // 2), reason=f"halved, since memory ran out with {width} models at once")
        self.stages.remark(
            f"{role}: memory ran out with {width} models at once; it goes on with {halved.chunk}, and keeps what is "
            "trained."
        )
        self.plans.keep(halved)
        self.kept.keep_plan(halved, device)
        return halved


_Part = tuple[TrainedStack, list[int]]  # models, and their places in the job


def of_weights(
    job: TrainingJob,
    weights_K: Sequence[Mapping[str, Tensor]],
    execution: str,
    device: torch.device,
    *,
    is_channels_last: bool,
) -> TrainedStack:
    """Models of the job from what `TrainedStack.weights` gave of each, on the device.

    Args:
        execution, is_channels_last: of their plan.
    """
    channels_last = job.is_channels_last(execution, device, chosen=is_channels_last)
    one = job.stack([0]).to(device)
    return TrainedStack.of_weights(one, weights_K, job.architecture, execution, channels_last=channels_last)
