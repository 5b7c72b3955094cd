"""What a run is made of, checked before anything is trained: the plan, the networks, the recipe."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from mia_lightning.attacks.applicable import refusal
from mia_lightning.attacks.interface import Attack, DoesNotApplyError
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.fixed_size import of_fixed_size
from mia_lightning.defenses.interface import (
    Defense,
    OutputDefense,
    TrainingDefense,
    defended_model,
    defended_recipe,
)
from mia_lightning.errors import InputError
from mia_lightning.membership import Halves, Membership, OneCanary, Plan, plan_name
from mia_lightning.metrics.model_free import model_free_warning
from mia_lightning.shadows.guess import Guess
from mia_lightning.shadows.interface import Source
from mia_lightning.shadows.real import Real
from mia_lightning.targets.interface import Target
from mia_lightning.targets.leave_one_out import LeaveOneOut
from mia_lightning.training.architecture import bind_shapes, inspect_architecture
from mia_lightning.training.fit import Engine
from mia_lightning.training.recipe import Recipe
from mia_lightning.training.setup import Setup


def prepare(
    engine: Engine,
    population: Population,
    *,
    model: Callable[..., nn.Module],
    membership: Plan,
    target: Target,
    shadow: Real | Source,
    recipe: Recipe,
    defenses: Sequence[Defense],
    guess: Guess | None,
    attacks: Sequence[Attack],
    wants_population: bool,
) -> Setup:
    """What the targets are trained from, checked; the arguments are those of `observe_models`.

    Raises:
        DoesNotApplyError, InputError: as `observe_models`, as far as this can be told before anything is trained.
    """
    _, trainings = split_defenses(defenses)
    if guess is not None and isinstance(target, LeaveOneOut):
        raise InputError(
            "`guess` describes shadow models that are other than the target, and under target=leave_one_out they are "
            "the targets; leave it out, or use target=trained."
        )
    if guess is not None and not target.takes_guess:
        raise InputError(
            "`guess` describes shadow models that are trained here, and those of this `target` are trained by its "
            "service; set target.shadows=guessed, with `model` and `training` as the guess."
        )
    if guess is not None and guess.training is not None:
        guess.training.check_records(population.input_shape)
    if trainings and not target.takes_recipe:
        raise InputError(
            f"defense={trainings[0].name} changes how the target is trained, but `target` says that this is not done "
            "here; use target=trained, or leave the defence out."
        )
    population = population.near(engine.device)
    make_network = bind_shapes(defended_model(trainings, model), population.input_shape, population.num_classes)
    plan = _plan_of_real_records(membership, population, target, shadow, engine.seed, wants_population)
    if isinstance(shadow, Real):
        check_attacks(attacks, plan, population)
    if not membership.draws_target:
        warning = model_free_warning(population, plan.member_KN[0], plan.nonmember_KN[0], seed=engine.seed)
        if warning is not None:
            engine.stages.remark(warning)
    return Setup(
        engine=engine,
        make_network=make_network,
        architecture=inspect_architecture(make_network, population),
        recipe=defended_recipe(*as_trained(trainings, recipe, plan)),
        population=population,
        membership=plan,
    )


def shadow_setup(
    setup: Setup,
    *,
    model: Callable[..., nn.Module],
    recipe: Recipe,
    trainings: Sequence[TrainingDefense],
    adaptive: bool,
    guess: Guess | None,
) -> Setup:
    """What the shadow models are trained from: what the targets are, but for what the attacker does not know.

    Args:
        setup: of the targets, with the records of the shadow models.
        model, recipe: of the targets, without their defences.
    """
    guess = guess or Guess()
    if guess.model is None and guess.training is None and (adaptive or not trainings):
        return setup
    population = setup.population
    known, recipe = as_trained(trainings if adaptive else (), guess.training or recipe, setup.membership)
    make_network = bind_shapes(
        defended_model(known, guess.model or model), population.input_shape, population.num_classes
    )
    return replace(
        setup,
        recipe=defended_recipe(known, recipe),
        make_network=make_network,
        architecture=inspect_architecture(make_network, population),
    )


def split_defenses(
    defenses: Sequence[Defense],
) -> tuple[tuple[OutputDefense, ...], tuple[TrainingDefense, ...]]:
    """Those that change answers and those that change training, each in the given order."""
    outputs = tuple(each for each in defenses if isinstance(each, OutputDefense))
    return outputs, tuple(each for each in defenses if isinstance(each, TrainingDefense))


def as_trained(
    trainings: Sequence[TrainingDefense], recipe: Recipe, plan: Membership
) -> tuple[Sequence[TrainingDefense], Recipe]:
    """Defences and recipe as given, but that trials of one record more or less take equal steps."""
    if plan.plan != "one_canary":
        return trainings, recipe
    assert plan.known_N is not None
    return of_fixed_size(trainings, recipe, int(plan.known_N.sum()))


def check_attacks(attacks: Sequence[Attack], plan: Membership, population: Population) -> None:
    """Refuse attacks that the plan cannot serve.

    Raises:
        DoesNotApplyError: one of them, with the reason.
    """
    for attack in attacks:
        reason = refusal(attack, plan, population.input_shape)
        if reason is not None:
            raise DoesNotApplyError(reason)


def _plan_of_real_records(
    membership: Plan, population: Population, target: Target, shadow: Real | Source, seed: int, wants_population: bool
) -> Membership:
    """The whole plan for real shadow records; the rows of the target alone for records that are made later."""
    if isinstance(membership, OneCanary) and not isinstance(shadow, Real):
        raise InputError(
            f"shadow={shadow.source} makes records, and under membership=one_canary attacks learn from models of the "
            "same real records, with the canary and without it; use shadow=real."
        )
    if isinstance(shadow, Real):
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
            wants_population=wants_population,
        )
        return plan.each_a_target() if isinstance(target, LeaveOneOut) else plan
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
    plan = membership.fill(population, num_targets=1, num_shadows=0, seed=seed, wants_population=wants_population)
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
