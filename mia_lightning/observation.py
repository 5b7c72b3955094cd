"""The expensive half of a run: plan, target, shadow records, shadow models, and what all of them answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mia_lightning.attacks.applicable import refusal
from mia_lightning.attacks.interface import Attack, DoesNotApplyError
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.accountant import Guarantee
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.fixed_size import of_fixed_size
from mia_lightning.defenses.interface import (
    Defense,
    OutputDefense,
    TrainingDefense,
    apply_all,
    defended_model,
    defended_recipe,
)
from mia_lightning.errors import InputError
from mia_lightning.membership import Halves, Membership, OneCanary, Plan, plan_name
from mia_lightning.metrics.model_free import model_free_warning
from mia_lightning.metrics.privacy_bounds import check_trials
from mia_lightning.shadows.guess import Guess
from mia_lightning.shadows.interface import Source, Synthesis
from mia_lightning.shadows.real import Real
from mia_lightning.targets.interface import Models, Target
from mia_lightning.targets.leave_one_out import LeaveOneOut
from mia_lightning.targets.model_black_box import ModelBlackBox
from mia_lightning.training.architecture import bind_shapes, inspect_architecture
from mia_lightning.training.fit import Engine
from mia_lightning.training.recipe import Recipe
from mia_lightning.training.room import Room
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import Signals


@dataclass(frozen=True, eq=False, kw_only=True)
class Observation:
    """Trained targets and shadow models with all that they answered; any number of attacks can read it.

    The record axis is the real records, followed by the synthetic ones where shadow models train on such.

    Attributes:
        engine: what trained them, with the remarks, seconds and losses so far.
        population: real and synthetic records.
        num_real: how many of them are real.
        plan: who trained on what, over the whole axis.
        targets, target_signals: T targets, observed on the real records, without output defences.
        shadows, shadow_signals: K shadow models, observed on the whole record axis, likewise. Where every model is a
            target once (`plan.leaves_one_out`) they are the targets.
        shadow_source: where the shadow records come from.
        synthesis: how they were made; None for real ones.
        left_out: numbers of the shadow models that were no longer finite, and their complements.
        output_defenses: of the target, for shadow records that were made from its defended answers; else ().
        training_defenses: with which the targets were trained.
        adaptive: whether the shadow models were trained with them, too.
        guarantee: differential privacy of each target; None for none.
        guess: what the attacker assumed of the target; None where the shadow models are of its kind.
        folds: into which attacks that learn divide the models where every model is a target once.
    """

    engine: Engine
    population: Population
    num_real: int
    plan: Membership
    targets: Models
    target_signals: Signals
    shadows: Models
    shadow_signals: Signals
    shadow_source: str
    synthesis: Synthesis | None
    left_out: tuple[int, ...]
    output_defenses: tuple[OutputDefense, ...]
    training_defenses: tuple[TrainingDefense, ...]
    adaptive: bool
    folds: int = 0
    guarantee: Guarantee | None = None
    guess: Guess | None = None

    @property
    def target_columns(self) -> slice:
        """Where on the record axis the targets' records lie."""
        return slice(0, self.num_real)


def observe_models(
    engine: Engine,
    population: Population,
    *,
    model: Callable[..., nn.Module],
    membership: Plan,
    target: Target,
    shadow: Real | Source,
    recipe: Recipe,
    defenses: Sequence[Defense],
    adaptive: bool,
    guess: Guess | None = None,
    attacks: Sequence[Attack] = (),
    wants_population: bool = False,
    room: Room | None = None,
) -> Observation:
    """Train, or fetch, the targets and their shadow models, and ask all of them about their records.

    Args:
        guess: what the attacker assumes of the target's architecture and training; None for the truth.
        attacks: those that will be run; one that the plan cannot serve is refused before anything is trained.
        wants_population: whether an attack needs records that are evidence about no model.
        room: where the answers of all models lie; by default in memory, if they take no more than a quarter of what is
            free, else on disk in the run's folder.

    Raises:
        DoesNotApplyError: an attack that the plan cannot serve.
        InputError: settings that do not fit the records or each other, or a target that cannot be trained.
    """
    stages, seed = engine.stages, engine.seed
    room = room or Room(folder=engine.folder)
    outputs, trainings = split_defenses(defenses)
    setup = prepare(
        engine,
        population,
        model=model,
        membership=membership,
        target=target,
        shadow=shadow,
        recipe=recipe,
        defenses=defenses,
        guess=guess,
        attacks=attacks,
        wants_population=wants_population,
    )
    population, plan = setup.population, setup.membership
    num_real = len(population)
    guarantee = _guarantee(*_as_trained(trainings, recipe, plan), plan)  # before training: it may be one not to be met
    if plan.plan == "one_canary":
        check_trials(plan, delta_of(guarantee, plan), num_attacks=max(1, len(attacks)))
    with stages.clock("target"):
        targets = target.obtain(setup)
        target_signals = targets.observe(population, room=room)
    if not plan.leaves_one_out:
        kept_T = _kept_targets(targets, target_signals, plan, engine)
        if not bool(kept_T.all()):
            plan, targets = plan.keep_targets(kept_T), targets.select(kept_T)
            target_signals = target_signals.select(kept_T)
            setup = replace(setup, membership=plan)

    synthesis: Synthesis | None = None
    channel: tuple[OutputDefense, ...] = ()
    if not isinstance(shadow, Real):
        channel = outputs
        with stages.clock("synthesis"):
            synthesis = _synthesise(shadow, setup, targets, channel)
        population = population.followed_by(synthesis.x_M, synthesis.label_M)
        plan = plan.with_synthetic(len(synthesis.x_M), num_shadows=shadow.count, seed=seed)
        _check_attacks(attacks, plan, population)
    for remark in plan.remarks:
        stages.remark(remark)

    setup = shadow_setup(
        replace(setup, population=population, membership=plan),
        model=model,
        recipe=recipe,
        trainings=trainings,
        adaptive=adaptive,
        guess=guess,
    )
    if plan.leaves_one_out:
        shadows, shadow_signals = targets, target_signals
    else:
        with stages.clock("shadow"):
            shadows = target.train_shadows(setup)
            shadow_signals = shadows.observe(population, room=room)
    failed_K = (shadows.failed_epoch_K.cpu() >= 0) | ~_is_finite(shadow_signals, plan, plan.shadows)
    kept_K = _kept(plan, failed_K, engine)
    if not bool(kept_K.all()):
        plan, shadows = plan.keep_shadows(kept_K), shadows.select(kept_K)
        shadow_signals = shadow_signals.select(kept_K)
        if plan.leaves_one_out:
            targets, target_signals = shadows, shadow_signals
    return Observation(
        engine=engine,
        population=population,
        num_real=num_real,
        plan=plan,
        targets=targets,
        target_signals=target_signals,
        shadows=shadows,
        shadow_signals=shadow_signals,
        shadow_source=shadow.source,
        synthesis=synthesis,
        left_out=tuple((~kept_K).nonzero().flatten().tolist()),
        output_defenses=channel,
        training_defenses=trainings,
        adaptive=adaptive,
        folds=target.folds if isinstance(target, LeaveOneOut) else 0,
        guarantee=guarantee,
        guess=None if guess in (None, Guess()) else guess,
    )


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
        _check_attacks(attacks, plan, population)
    if not membership.draws_target:
        warning = model_free_warning(population, plan.member_KN[0], plan.nonmember_KN[0], seed=engine.seed)
        if warning is not None:
            engine.stages.remark(warning)
    return Setup(
        engine=engine,
        make_network=make_network,
        architecture=inspect_architecture(make_network, population),
        recipe=defended_recipe(*_as_trained(trainings, recipe, plan)),
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
    known, recipe = _as_trained(trainings if adaptive else (), guess.training or recipe, setup.membership)
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


def _as_trained(
    trainings: Sequence[TrainingDefense], recipe: Recipe, plan: Membership
) -> tuple[Sequence[TrainingDefense], Recipe]:
    """Defences and recipe as given, but that trials of one record more or less take equal steps."""
    if plan.plan != "one_canary":
        return trainings, recipe
    assert plan.known_N is not None
    return of_fixed_size(trainings, recipe, int(plan.known_N.sum()))


def _guarantee(trainings: Sequence[TrainingDefense], recipe: Recipe, plan: Membership) -> Guarantee | None:
    """The weakest over targets, which may differ in their numbers of records."""
    private = [each for each in trainings if isinstance(each, DPSGD)]
    if not private:
        return None
    sizes_T = plan.member_KN[plan.targets].sum(1)
    guarantees = [private[0].guarantee(recipe, size) for size in sizes_T.unique().tolist()]
    return max(guarantees, key=lambda each: each.epsilon)


def delta_of(guarantee: Guarantee | None, plan: Membership) -> float:
    """δ of the guarantee; where there is none, a tenth of 1 / n."""
    return 1.0 / (10 * int(plan.member_KN[0].sum())) if guarantee is None else guarantee.delta


def _check_attacks(attacks: Sequence[Attack], plan: Membership, population: Population) -> None:
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


def _synthesise(source: Source, setup: Setup, targets: Models, channel: Sequence[OutputDefense]) -> Synthesis:
    population, stages = setup.population, setup.engine.stages
    outside_N = setup.membership.outside_N.to(population.device)
    if bool(outside_N.any()):
        known = population.chosen(outside_N)
    else:
        known = population
        stages.remark(f"shadow={source.source}: the form of a record was read off the target's own records.")
    target = ModelBlackBox(targets, population, channel=lambda log_probability: apply_all(channel, log_probability))
    synthesis = source.synthesise(known, target, seed=setup.engine.seed)
    for remark in synthesis.remarks:
        stages.remark(f"shadow={source.source}: {remark}")
    if channel:
        stages.remark(
            f"shadow={source.source}: the shadow records were made from the answers of the defended target "
            f"({', '.join(defense.describe() for defense in channel)}), so another defence makes others."
        )
    return synthesis


def _is_finite(signals: Signals, plan: Membership, rows: slice) -> Tensor:
    """bool `[K]`: whether a model's outputs are finite on all the records that are evidence about it."""
    each_KAN = (  # one model at a time: a mask of all answers would be a quarter of their size
        value_ANC.amin(-1).isfinite() & value_ANC.amax(-1).isfinite() for value_ANC in signals.log_probability_KANC
    )
    finite_KN = torch.stack([each_AN.all(0).cpu() for each_AN in each_KAN])
    return (finite_KN | ~plan.scored_KN[rows]).all(1)


def _kept_targets(targets: Models, signals: Signals, plan: Membership, engine: Engine) -> Tensor:
    """bool `[T]`: the targets that can be attacked."""
    kept_T = (targets.failed_epoch_K.cpu() < 0) & _is_finite(signals, plan, plan.targets)
    broken = (~kept_T).nonzero().flatten().tolist()
    if not bool(kept_T.any()):
        raise InputError(
            f"Target {broken[0]} gives outputs that are not finite, so there is nothing to attack; look for NaN in its "
            "weights (`target.path`), or lower `training.optimizer.lr`."
        )
    if broken and plan.plan == "one_canary":  # which trials are lost may depend on the canary
        raise InputError(
            f"The loss or the outputs of {len(broken)} of {len(kept_T)} targets were not finite, and under "
            "membership=one_canary no trial may be left out; lower `training.optimizer.lr`."
        )
    if broken:
        engine.stages.remark(f"The loss or the outputs of the targets {broken} were not finite: they are left out.")
    return kept_T


def _kept(plan: Membership, failed_K: Tensor, engine: Engine) -> Tensor:
    """bool `[K]`: the shadow models that did not fail, without the other models of failed ones' blocks."""
    block_K = plan.block_K[plan.shadows]
    kept_K = ~torch.isin(block_K, block_K[failed_K])
    names = failed_K.nonzero().flatten().tolist()
    if not bool(kept_K.any()):
        raise InputError(
            f"The loss of {len(names)} of {len(failed_K)} shadow models was no longer finite, which leaves none to "
            "learn from; lower `training.optimizer.lr` or set `training.gradient_clip_norm`."
        )
    if names:
        engine.stages.remark(
            f"The loss of the shadow models {names} was no longer finite: {int((~kept_K).sum())} of {len(kept_K)} "
            "models are left out (a model's complement goes with it)."
        )
    return kept_K
