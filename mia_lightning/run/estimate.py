"""What a run would take: stages that train are planned and measured, answers too; nothing is trained."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch

from mia_lightning.attacks.applicable import refusal
from mia_lightning.attacks.interface import Attack, DoesNotApplyError
from mia_lightning.attacks.leave_one_out import score_each
from mia_lightning.datasets.population import Population
from mia_lightning.run.completion import completed
from mia_lightning.run.definition import Audit
from mia_lightning.run.observation import asked_of_shadows
from mia_lightning.run.preparation import prepare, shadow_setup
from mia_lightning.run.scoring import evidence_of
from mia_lightning.terminal.amounts import duration
from mia_lightning.training.engine import Engine
from mia_lightning.training.estimators.estimators import seconds_of_a_fit
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.kept import Kept
from mia_lightning.training.plan.execution import ExecutionPlan
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import Signals
from mia_lightning.training.stack.looped import all_logits
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.trained import TrainedStack


@dataclass(frozen=True, kw_only=True)
class PlanningEngine(Engine):
    """Plans what it is told to train, and stops there."""

    def run(self, job: TrainingJob) -> TrainedStack:
        """Raise `_Planned`: whoever asked for trained models goes no further."""
        raise _Planned(self.plan(job, Kept()), self.kept(job).num_found())  # nothing is written


class _Planned(Exception):  # noqa: N818 (it is no error)
    def __init__(self, plan: ExecutionPlan, num_found: int) -> None:
        found = f"; {num_found} of them {'is' if num_found == 1 else 'are'} in the store" if num_found else ""
        self.sentence = plan.sentence + found
        self.seconds = plan.seconds * (1 - num_found / plan.num_models)
        super().__init__(self.sentence)


class Estimate(NamedTuple):
    """What an audit would take: sentences, and the seconds of all stages together as far as they are known."""

    sentences: list[str]
    seconds: float


def estimate_of(audit: Audit) -> list[str]:
    """What an audit would take, a sentence for each stage that trains, and one for all of them together; as `measured`.

    Raises:
        InputError: likewise.
    """
    return measured(audit).sentences


def measured(audit: Audit) -> Estimate:
    """What an audit would take.

    Nothing is trained: each stage is measured by a few steps of throw-away networks, here and now.

    Raises:
        InputError: as an audit, as far as this can be told before anything is trained.
    """
    engine = planning(Engine(seed=audit.seed, settings=audit.trainer, store=audit.store))
    audit = completed(audit, engine.stages)
    setup = prepare(engine, audit)
    sentences: list[str] = []
    seconds: list[float] = []

    def stage(train: Callable[[], object]) -> None:
        try:
            train()
        except _Planned as planned:
            seconds.append(planned.seconds)
            sentences.append(planned.sentence)

    membership, target = setup.membership, audit.attacked
    beside = target.cost(int(membership.asked_N.sum()) * audit.needs.queries, makes_records=audit.shadow.makes_records)
    if beside is not None:
        sentences.append(beside)
    if target.is_trained_here and target.takes_recipe and setup.estimators is None:
        stage(lambda: target.obtain(setup))
    if audit.shadow.makes_records:
        sentences.append(
            f"The shadow models train on records of shadow={audit.shadow.source}, which are made from the target's "
            "answers: neither they nor the attacks are estimated."
        )
        return Estimate(sentences, sum(seconds))
    fitted = audit.shadow_estimators
    if fitted is not None:
        num_models = len(membership.block_K) - (0 if target.is_trained_here else membership.num_targets)
        one = seconds_of_a_fit(fitted, setup.population, membership.records_of(membership.shadows)[0])
        seconds.append(num_models * one / min(fitted.num_processes, num_models))
        sentences.append(f"{num_models} fits of {fitted.name}: about {duration(seconds[-1])}.")
    elif not membership.leaves_one_out and not target.trains_shadows:
        stage(lambda: target.train_shadows(shadow_setup(setup, audit)))
    if target.has_weights and audit.trains_network_shadows:
        membership = shadow_setup(setup, audit).membership
        of_targets = 0 if membership.leaves_one_out else membership.num_targets * int(membership.asked_N.sum())
        num_answers = (of_targets + int(asked_of_shadows(membership, audit).sum())) * audit.needs.queries
        seconds.append(num_answers * _seconds_of_an_answer(setup))
        sentences.append(f"The models answer for {num_answers:,} records: about {duration(seconds[-1])}.")
    for attack in audit.attacks:
        # Of those that train networks the size is known beforehand; the others take no time to speak of.
        if (
            hasattr(attack, "training")
            and refusal(
                attack,
                membership,
                setup.population.input_shape,
                form=setup.population.form,
                folds=target.folds,
                task=setup.population.task,
            )
            is None
        ):
            try:
                stage(partial(_fit_and_score, attack, setup, target.folds))
            except DoesNotApplyError:
                if not audit.may_leave_out(attack):
                    raise
    sentences.append(f"All that is trained and answered: about {duration(sum(seconds))} here.")
    return Estimate(sentences, sum(seconds))


def _seconds_of_an_answer(setup: Setup) -> float:
    """Of one untrained network for one record, in a batch."""
    stack = Stack.build(setup.make_network, [0], seed=setup.engine.seed, role="estimate").to(setup.engine.device).eval()
    index_B = torch.arange(min(256, len(setup.population)), device=stack.device)
    records = setup.population.near(stack.device).records(index_B, stack.dtype)
    with torch.inference_mode():
        begun = 0.0
        for _ in range(2):  # the first warms up
            begun = time.perf_counter()
            all_logits(stack, records, "loop").cpu()
    return (time.perf_counter() - begun) / len(records)


def _fit_and_score(attack: Attack, setup: Setup, folds: int) -> None:
    """On models that answer everything alike, which changes no size."""
    population, membership = setup.population, setup.membership
    num_shadows = membership.member_KN[membership.shadows].shape[0]
    everything = evidence_of(membership, population, _alike(num_shadows, population))
    targets = _alike(membership.num_targets, population)
    if membership.leaves_one_out:
        score_each(attack, everything, targets, setup.engine, folds=folds)
    else:
        attack.fit(everything, setup.engine).score(targets, everything.label_N)


def _alike(num_models: int, population: Population) -> Signals:
    """The answers of models that know nothing: one number, seen as an array."""
    one = torch.full((1, 1, 1, 1), -math.log(population.num_classes), device=population.device)
    answer_KANC = one.expand(num_models, 1, len(population), population.num_classes)
    return Signals(log_probability_KANC=answer_KANC, task=population.task)


def planning(engine: Engine) -> PlanningEngine:
    """An engine that plans as this one would, and measures even what is too short for a probe to pay."""
    return PlanningEngine(
        seed=engine.seed,
        settings=engine.settings,
        planner=replace(engine.planner, always=True),
        store=engine.store,
    )
