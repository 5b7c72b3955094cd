"""Before anything is trained: what the models are trained from, checked, and the engine that trains them."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mia_lightning.attacks.applicable import refusal
from mia_lightning.attacks.interface import Attack, DoesNotApplyError
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.fixed_size import of_fixed_size
from mia_lightning.defenses.interface import TrainingDefense, defended_model, defended_recipe
from mia_lightning.errors import InputError
from mia_lightning.ingredients import Ingredients
from mia_lightning.membership import Halves, Membership, OneCanary, plan_name
from mia_lightning.metrics.model_free import model_free_warning
from mia_lightning.shadows.guess import Guess
from mia_lightning.shadows.interface import Source
from mia_lightning.shadows.real import Real
from mia_lightning.store import Store
from mia_lightning.targets.endpoints.models import EndpointTarget
from mia_lightning.targets.interface import Target
from mia_lightning.targets.leave_one_out import LeaveOneOut
from mia_lightning.training.architecture import bind_shapes, inspect_architecture
from mia_lightning.training.execution import Plans
from mia_lightning.training.fit import Engine
from mia_lightning.training.progress import Stages
from mia_lightning.training.recipe import Recipe
from mia_lightning.training.setup import Setup
from mia_lightning.training.trainer import TrainerSettings


def engine_of(
    *,
    seed: int,
    trainer: TrainerSettings | None,
    store: Store | None,
    stages: Stages,
    folder: Path | None,
    make: Callable[..., Engine] = Engine,
) -> Engine:
    """The engine of a run.

    Args:
        folder: for the files of the run; None where it writes none.
        make: the class, with the fields of its own.

    Raises:
        InputError: the seed is no whole number, or nothing could be kept in the store.
    """
    seed = whole_seed(seed)
    if store is not None:
        store.check()
    settings = trainer or TrainerSettings()
    return make(seed=seed, settings=settings, stages=stages, folder=folder, plans=Plans(folder), store=store)


def whole_seed(seed: object) -> int:
    """The seed as Python's own whole number.

    Raises:
        InputError: it is none.
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise InputError(f"`seed` is {seed!r}; it must be a whole number.")
    return operator.index(seed)


def prepare(engine: Engine, ingredients: Ingredients) -> Setup:
    """What the targets are trained from, checked.

    Raises:
        DoesNotApplyError: an attack that the plan cannot serve.
        InputError: settings that do not fit the records or each other, as far as this can be told before anything is
            trained.
    """
    _check_guess(ingredients)
    trainings = ingredients.training_defenses
    if trainings and not ingredients.target.takes_recipe:
        raise InputError(
            f"defense={trainings[0].name} changes how the target is trained, but `target` says that this is not done "
            "here; use target=trained, or leave the defence out."
        )
    population = _with_canaries(engine, ingredients).near(engine.device)
    make_network = bind_shapes(
        defended_model(trainings, ingredients.model), population.input_shape, population.num_classes
    )
    plan = _plan(ingredients, population, engine.seed)
    if isinstance(ingredients.shadow, Real):
        check_attacks(ingredients.refused_attacks, plan, population, ingredients.target)
    if not ingredients.membership.draws_target:
        warning = model_free_warning(population, plan.member_KN[0], plan.nonmember_KN[0], seed=engine.seed)
        if warning is not None:
            engine.stages.remark(warning)
    return Setup(
        engine=engine,
        make_network=make_network,
        architecture=inspect_architecture(make_network, population),
        recipe=defended_recipe(*as_trained(trainings, ingredients.recipe, plan)),
        population=population,
        membership=plan,
    )


def shadow_setup(setup: Setup, ingredients: Ingredients) -> Setup:
    """What the shadow models are trained from: what the targets are, but for what the attacker does not know.

    Args:
        setup: of the targets, with the records of the shadow models.
    """
    guess = ingredients.guess or Guess()
    trainings = ingredients.training_defenses
    if guess.model is None and guess.training is None and (ingredients.adaptive or not trainings):
        return setup
    population = setup.population
    known, recipe = as_trained(
        trainings if ingredients.adaptive else (), guess.training or ingredients.recipe, setup.membership
    )
    make_network = bind_shapes(
        defended_model(known, guess.model or ingredients.model), population.input_shape, population.num_classes
    )
    return replace(
        setup,
        recipe=defended_recipe(known, recipe),
        make_network=make_network,
        architecture=inspect_architecture(make_network, population),
    )


def as_trained(
    trainings: Sequence[TrainingDefense], recipe: Recipe, plan: Membership
) -> tuple[Sequence[TrainingDefense], Recipe]:
    """Defences and recipe as given, but that trials of one record more or less take equal steps."""
    if plan.plan != "one_canary":
        return trainings, recipe
    assert plan.known_N is not None
    return of_fixed_size(trainings, recipe, int(plan.known_N.sum()))


def check_attacks(attacks: Sequence[Attack], plan: Membership, population: Population, target: Target) -> None:
    """Refuse attacks that the plan or the target cannot serve.

    Raises:
        DoesNotApplyError: one of them, with the reason.
    """
    for attack in attacks:
        answers_others = not isinstance(target, EndpointTarget) or target.answers_others
        reason = refusal(attack, plan, population.input_shape, answers_others=answers_others)
        if reason is not None:
            raise DoesNotApplyError(reason)


def _check_guess(ingredients: Ingredients) -> None:
    guess, target = ingredients.guess, ingredients.target
    if guess is None:
        return
    if isinstance(target, LeaveOneOut):
        raise InputError(
            "`guess` describes shadow models that are other than the target, and under target=leave_one_out they are "
            "the targets; leave it out, or use target=trained."
        )
    if not target.takes_guess:
        raise InputError(
            "`guess` describes shadow models that are trained here, and those of this `target` are trained by its "
            "service; set target.shadows=guessed, with `model` and `training` as the guess."
        )
    if guess.training is not None:
        guess.training.check_records(ingredients.population.input_shape)


def _with_canaries(engine: Engine, ingredients: Ingredients) -> Population:
    population, canaries = ingredients.population, ingredients.canaries
    if canaries is None:
        return population
    changed = canaries.apply(population, engine.seed)
    engine.stages.remark(
        f"{canaries.count} of the {len(population)} records are canaries ({canaries.kind}): figures over all records, "
        "the target's accuracies too, include them; those of natural records stand under the groups."
    )
    return changed


def _plan(ingredients: Ingredients, population: Population, seed: int) -> Membership:
    """The whole plan for real shadow records; the rows of the target alone for records that are made later."""
    if isinstance(ingredients.shadow, Real):
        return _plan_of_real_records(ingredients, ingredients.shadow, population, seed)
    return _plan_of_the_target(ingredients, ingredients.shadow, population, seed)


def _plan_of_real_records(ingredients: Ingredients, shadow: Real, population: Population, seed: int) -> Membership:
    membership, target = ingredients.membership, ingredients.target
    if isinstance(target, LeaveOneOut) and not isinstance(membership, Halves):
        raise InputError(
            "target=leave_one_out makes every model a target once, for which all must be drawn from the same "
            f"records, and membership={plan_name(membership)} gives the target records of its own; use "
            "membership=halves."
        )
    plan = membership.fill(
        population,
        num_targets=target.count,
        num_shadows=shadow.count,
        seed=seed,
        overlap=shadow.overlap,
        wants_population=ingredients.needs.population,
    )
    return plan.each_a_target() if isinstance(target, LeaveOneOut) else plan


def _plan_of_the_target(ingredients: Ingredients, shadow: Source, population: Population, seed: int) -> Membership:
    membership, target = ingredients.membership, ingredients.target
    if isinstance(membership, OneCanary):
        raise InputError(
            f"shadow={shadow.source} makes records, and under membership=one_canary attacks learn from models of the "
            "same real records, with the canary and without it; use shadow=real."
        )
    if isinstance(target, LeaveOneOut):
        raise InputError(
            f"target=leave_one_out attacks the shadow models themselves, but shadow={shadow.source} makes records by "
            "asking one target; use shadow=real."
        )
    if target.count > 1:
        raise InputError(
            f"`target.count` is {target.count}, but shadow={shadow.source} makes records by asking one target; set it "
            "to 1, and sweep `seed` for more."
        )
    plan = membership.fill(
        population, num_targets=1, num_shadows=0, seed=seed, wants_population=ingredients.needs.population
    )
    if len(plan.validation_N) and not shadow.needs_records:
        raise InputError(
            f"`membership.validation` is {len(plan.validation_N)}, but shadow={shadow.source} is the attacker who has "
            "no real records, and its shadow models would stop early on those; set it to 0, or use another `shadow`."
        )
    if shadow.needs_records and not bool(plan.outside_N.any()):
        raise InputError(
            f"shadow={shadow.source} starts from records that are no evidence about the target, and "
            f"membership={plan.plan} leaves none of the {len(population)}; use membership=disjoint, or "
            "shadow=model_based."
        )
    return plan
