"""What a run would take: every stage that trains is planned and measured, and nothing is trained."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from mia_lightning.attacks.applicable import refusal
from mia_lightning.attacks.interface import Attack, DoesNotApplyError
from mia_lightning.attacks.leave_one_out import score_each
from mia_lightning.datasets.canaries import Canaries
from mia_lightning.datasets.population import Array, Population
from mia_lightning.defenses.interface import Defense
from mia_lightning.ingredients import Ingredients, attacks_of, ingredients_of
from mia_lightning.membership import Plan
from mia_lightning.preparation import prepare, shadow_setup, whole_seed
from mia_lightning.scoring import evidence_of
from mia_lightning.shadows.guess import Guess
from mia_lightning.shadows.interface import Source
from mia_lightning.shadows.real import Real
from mia_lightning.store import Store
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.models import EndpointTarget
from mia_lightning.targets.interface import Target
from mia_lightning.training.execution import ExecutionPlan, duration
from mia_lightning.training.fit import Engine
from mia_lightning.training.kept import NothingKept
from mia_lightning.training.recipe import Recipe
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import Signals
from mia_lightning.training.task import Task
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings


@dataclass(frozen=True, kw_only=True)
class PlanningEngine(Engine):
    """Plans what it is told to train, and stops there."""

    def run(self, task: Task) -> TrainedStack:
        """Raise `_Planned`: whoever asked for trained models goes no further."""
        raise _Planned(self.plan(task, NothingKept()), self.kept(task).num_found())  # nothing is written


class _Planned(Exception):  # noqa: N818 (it is no error)
    def __init__(self, plan: ExecutionPlan, num_found: int) -> None:
        found = f"; {num_found} of them {'is' if num_found == 1 else 'are'} in the store" if num_found else ""
        self.sentence = plan.sentence + found
        self.seconds = plan.seconds * (1 - num_found / plan.num_models)
        super().__init__(self.sentence)


def estimate(
    data: Population | Array,
    label: Array | None = None,
    *,
    model: Callable[..., nn.Module],
    membership: Plan | None = None,
    target: Target | nn.Module | None = None,
    shadow: Real | Source | None = None,
    attacks: Sequence[Attack] | None = None,
    defenses: Sequence[Defense] = (),
    adaptive: bool = True,
    guess: Guess | None = None,
    skip_inapplicable: bool = False,
    canaries: Canaries | None = None,
    training: Recipe | None = None,
    trainer: TrainerSettings | None = None,
    store: Store | None = None,
    seed: int = 0,
) -> list[str]:
    """What `audit` with these arguments would take, a sentence for each stage that trains; nothing is trained.

    Each stage is measured by a few steps of throw-away networks, here and now.

    Raises:
        InputError: as `audit`, as far as this can be told before anything is trained.
    """
    ingredients = ingredients_of(
        data,
        label,
        model=model,
        membership=membership,
        target=target,
        shadow=shadow,
        attacks=attacks_of(attacks),
        defenses=defenses,
        adaptive=adaptive,
        guess=guess,
        skip_inapplicable=skip_inapplicable,
        canaries=canaries,
        training=training,
    )
    settings = trainer or TrainerSettings()
    setup = prepare(planning(Engine(seed=whole_seed(seed), settings=settings, store=store)), ingredients)
    return _estimates(setup, shadow_setup(setup, ingredients), ingredients)


def _estimates(setup: Setup, shadow_setup: Setup, ingredients: Ingredients) -> list[str]:
    """A sentence for each stage of a run that trains, and one for all of them together.

    Args:
        setup, shadow_setup: of the targets and of the shadow models, with a `PlanningEngine`.
    """
    sentences: list[str] = []
    seconds: list[float] = []

    def stage(train: Callable[[], object]) -> None:
        try:
            train()
        except _Planned as planned:
            seconds.append(planned.seconds)
            sentences.append(planned.sentence)

    plan, target, shadow = setup.membership, ingredients.target, ingredients.shadow
    is_service = target.is_trained_here and not target.takes_recipe
    if is_service:
        sentences.append("What a service trains is not estimated.")
    elif target.is_trained_here:
        stage(lambda: target.obtain(setup))
    elif isinstance(target, EndpointTarget):
        sentences.append(_questions(target.asking, ingredients, int(plan.asked_N.sum())))
    if not isinstance(shadow, Real):
        sentences.append(
            f"The shadow models train on records of shadow={shadow.source}, which are made from the target's answers: "
            "neither they nor the attacks are estimated."
        )
        return sentences
    if not plan.leaves_one_out and not (is_service and getattr(target, "shadows", "service") == "service"):
        stage(lambda: target.train_shadows(shadow_setup))
    for attack in ingredients.attacks:
        # Of those that train networks the size is known beforehand; the others take no time to speak of.
        if hasattr(attack, "training") and refusal(attack, plan, setup.population.input_shape) is None:
            try:
                stage(partial(_fit_and_score, attack, setup, ingredients.folds))
            except DoesNotApplyError:
                if not ingredients.skip_inapplicable:
                    raise
    sentences.append(f"All that is trained: about {duration(sum(seconds))} here.")
    return sentences


def _questions(asking: Asking, ingredients: Ingredients, num_records: int) -> str:
    """How often a model that somebody else serves would be asked, at most."""
    num = num_records * ingredients.needs.queries + 2 * asking.sentinels
    price = asking.price_per_thousand
    cost = "" if price is None else f", at a cost of about {num / 1000 * price:,.2f}"
    synthesis = "" if isinstance(ingredients.shadow, Real) else ", and further ones to make shadow records"
    return f"The served model is asked about at most {num:,} records{cost}{synthesis}; answers that are kept are free."


def _fit_and_score(attack: Attack, setup: Setup, folds: int) -> None:
    """On models that answer everything alike, which changes no size."""
    population, plan = setup.population, setup.membership
    everything = evidence_of(plan, population, _alike(plan.member_KN[plan.shadows].shape[0], population))
    targets = _alike(plan.num_targets, population)
    if plan.leaves_one_out:
        score_each(attack, everything, targets, setup.engine, folds=folds)
    else:
        attack.fit(everything, setup.engine).score(targets, everything.label_N)


def _alike(num_models: int, population: Population) -> Signals:
    """The answers of models that know nothing: one number, seen as an array."""
    one = torch.full((1, 1, 1, 1), -math.log(population.num_classes), device=population.device)
    return Signals(log_probability_KANC=one.expand(num_models, 1, len(population), population.num_classes))


def planning(engine: Engine) -> PlanningEngine:
    """An engine that plans as this one would, and measures even what is too short for a probe to pay."""
    return PlanningEngine(
        seed=engine.seed,
        settings=engine.settings,
        planner=replace(engine.planner, always=True),
        store=engine.store,
    )
