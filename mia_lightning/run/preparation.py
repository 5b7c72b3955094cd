"""Before anything is trained: what the models are trained from, checked, and the engine that trains them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from mia_lightning.attacks.applicable import refusal
from mia_lightning.attacks.interface import DoesNotApplyError
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.fixed_size import of_fixed_size
from mia_lightning.defenses.interface import TrainingDefense, check_task, defended_model, defended_recipe
from mia_lightning.errors import InputError, SettingError
from mia_lightning.membership import Membership
from mia_lightning.metrics.model_free import model_free_warning
from mia_lightning.run.definition import Audit, no_network
from mia_lightning.run.filling import filled
from mia_lightning.run.own_sets import check_given_split, check_taken_again, say_where_from
from mia_lightning.shadows.guess import Guess
from mia_lightning.tasks import Task
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.engine import Engine
from mia_lightning.training.own.making import made_for_stacks
from mia_lightning.training.own.taken import taken
from mia_lightning.training.plan.execution import Plans
from mia_lightning.training.setup import Setup
from mia_lightning.training.stack.architecture import NO_ARCHITECTURE
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.step.recipe import Recipe


def engine_of(audit: Audit, stages: Stages, make: Callable[..., Engine] = Engine) -> Engine:
    """The engine of a run.

    Args:
        make: the class, with the fields of its own.

    Raises:
        InputError: nothing could be kept in the store.
    """
    if audit.store is not None:
        audit.store.check(to_read=True)
    return make(
        seed=audit.seed,
        settings=audit.trainer,
        stages=stages,
        folder=audit.folder,
        plans=Plans(audit.folder),
        store=audit.store,
    )


def prepare(engine: Engine, audit: Audit) -> Setup:
    """What the targets are trained from, checked.

    Raises:
        DoesNotApplyError: an attack that the plan cannot serve.
        InputError: settings that do not fit the records or each other, as far as this can be told before anything is
            trained.
    """
    _check_guess(audit)
    trainings = audit.training_defenses
    if trainings and not audit.attacked.takes_recipe:
        if audit.attacked.is_trained_here and audit.attacked.own_kind is not None:
            raise InputError(
                f"defense={trainings[0].name} changes how a network is trained, and the target is an estimator, whose "
                "own parameters say how it is fitted: change these, or audit a network by target=trained."
            )
        names = ",".join(each.name for each in trainings)
        raise InputError(
            f"defense={trainings[0].name} changes how the target is trained, but `target` says that this is not done "
            "here. What the defence would change, two audits of models that are trained here by the same recipe say: "
            f"mia-lightning --multirun target=trained membership=halves 'defense=[],[{names}]' with your other "
            "settings, but for those of `target` and `membership`."
        )
    _check_weights(engine.stages, audit)
    _check_task(audit)
    check_taken_again(audit)
    for remark in audit.population.remarks:
        engine.stages.remark(remark)
    say_where_from(engine.stages, audit)
    population = _with_canaries(engine, audit).near(engine.device)
    for defense in audit.output_defenses:
        if defense.form.k is not None and defense.form.k >= population.num_classes:
            engine.stages.remark(
                f"`defense.{defense.name}.k` is {defense.form.k}, and there are {population.num_classes} classes: it "
                "hides none of them."
            )
    membership = filled(audit, population)
    check_given_split(engine.stages, audit, population, membership)
    if not audit.shadow.makes_records:
        check_attacks(audit, membership, population, partial(filled, audit, population))
    guess, target = audit.guess, audit.attacked
    is_trained = target.takes_recipe or guess is None or guess.model is None  # the architecture, by whichever role
    if audit.trainer.fit is not None:
        engine.stages.remark(audit.trainer.fit.sentence, kind="note")
        if audit.trainer.fit.warning is not None:
            engine.stages.remark(audit.trainer.fit.warning)
    uses_networks = audit.uses_networks
    how = (
        _how(audit, Guess(), trainings, population, membership, trainable=is_trained)
        if uses_networks
        else _no_network(audit)
    )
    own = target.own_kind if target.is_trained_here and not target.is_every_model else audit.shadow_estimators
    setup = Setup(engine=engine, population=population, membership=membership, estimators=own, **how)
    _check_roles(setup, audit)
    if is_trained and uses_networks:
        _say_how_it_is_used(setup, "model")
    return setup


def _no_network(audit: Audit) -> dict[str, Any]:
    """As `_how`, where no network is trained."""
    return {"make_network": no_network, "architecture": NO_ARCHITECTURE, "recipe": audit.training}


def _how(
    audit: Audit,
    guess: Guess,
    trainings: Sequence[TrainingDefense],
    population: Population,
    membership: Membership,
    *,
    trainable: bool = True,
) -> dict[str, Any]:
    """How a role's networks are made, what they are, and how they are trained: fields of a `Setup`.

    Args:
        guess: what is otherwise than `model` and `training` say.
        trainings: the defences in the training of the role.
    """
    given, overruled = guess.training, None
    if given is None:
        given, fit = audit.training, audit.trainer.fit
        if fit is not None:
            given, overruled = fit.applied(given), fit.overruled(given)
    model = defended_model(trainings, guess.model or audit.model)
    make, shared = made_for_stacks(model, population, max_epochs=given.epochs)
    form = audit.model_output if guess.model is None else guess.output
    make_network = bind_records(make, population, form)
    how = taken(
        make_network,
        population,
        given,
        num_records=int(membership.member_KN[0].sum()),
        trainable=trainable,
        place="model" if guess.model is None else "guess.model",
        changed=lambda recipe: defended_recipe(*as_trained(trainings, recipe, membership)),
    )
    return {
        "make_network": make_network,
        "architecture": how.architecture,
        "recipe": how.recipe,
        "said": tuple(each for each in (how.sentence, shared) if each is not None),
        "ignored": tuple(each for each in (how.warning, overruled) if each is not None),
    }


def _check_weights(stages: Stages, audit: Audit) -> None:
    """Say what weights do.

    Raises:
        InputError: the models are trained by a service, which is given none, or are estimators that take none.
    """
    has_own = audit.population.weight_N is not None
    if not has_own and audit.training.class_weights is None:
        return
    if has_own and audit.attacked.trains_shadows:
        raise InputError(
            f"The records of population {audit.population.name!r} have weights, but models are trained by the "
            "service of `target`, which is given records and labels alone; leave the weights out."
        )
    for making in audit.fitted_here if has_own else ():
        if not making.takes_weights:
            raise InputError(
                f"The records of population {audit.population.name!r} have weights, and the `fit` of {making.name} "
                "takes no `sample_weight`; leave the weights out, or use another estimator."
            )
    weighted = "The losses that models are trained with are weighted by the records' weights"
    if audit.uses_networks:
        weighted += " and `training.class_weights`, as far as these are given"
    elif not has_own:
        return  # `training` has no effect
    stages.remark(
        f"{weighted}; attacks and {_utilities(audit.population.task)} read each record without its weight.", kind="note"
    )


def _say_how_it_is_used(setup: Setup, place: str) -> None:
    """Remark what one output is taken for, and how a LightningModule is trained."""
    if setup.architecture.one_output is not None:
        setup.engine.stages.remark(
            f"`{place}` makes a network with one output, {setup.architecture.name}: it is trained as the "
            f"{setup.architecture.one_output} of the second class, {setup.population.class_names[1]}.",
            kind="note",
        )
    if setup.architecture.gives:
        setup.engine.stages.remark(
            f"`{place}` makes {setup.architecture.name}: {'; '.join(setup.architecture.gives)}.", kind="note"
        )
    if setup.architecture.gives_probabilities and setup.architecture.one_output is None:
        setup.engine.stages.remark(
            f"`{place}` makes {setup.architecture.name}, which gives probabilities: they are taken as such, and not as "
            "logits.",
            kind="note",
        )
    for sentence in setup.said:
        setup.engine.stages.remark(sentence, kind="note")
    for sentence in setup.ignored:
        setup.engine.stages.remark(sentence)


def warn_of_given_split(setup: Setup, audit: Audit) -> None:
    """Remark that the split of somebody else's target can be told from records and labels alone; it takes its time."""
    if audit.membership.draws_target:
        return
    members_N, others_N = setup.membership.member_KN[0], setup.membership.nonmember_KN[0]
    warning = model_free_warning(setup.population, members_N, others_N, seed=setup.engine.seed)
    if warning is not None:
        setup.engine.stages.remark(warning, kind="broken")


def _check_roles(setup: Setup, audit: Audit) -> None:
    """Refuse what no role could be trained with, before the first one is trained."""
    target, membership = audit.attacked, setup.membership
    if target.is_trained_here and target.takes_recipe and not target.is_every_model:
        setup.job(membership.targets, "target").check()
    if audit.trains_network_shadows:
        has_own_training = audit.guess is not None and audit.guess.training is not None
        with _named("guess.training" if has_own_training else "training"):
            shadows = shadow_setup(setup, audit)
            if audit.guess is not None and audit.guess.model is not None:
                _say_how_it_is_used(shadows, "guess.model")
            if audit.shadow.makes_records:  # how many is not known yet
                shadows.recipe.check_records(setup.population.input_shape, setup.population.form)
                shadows.recipe.check_schedule("shadow", ())
                shadows.recipe.check_outputs(shadows.architecture, setup.population.num_classes)
                shadows.recipe.check_weights(setup.population, "shadow")
            else:
                shadows.job(membership.shadows, "shadow").check()
    for attack in audit.attacks:
        training: Recipe | None = getattr(attack, "training", None)
        if training is not None:
            known = getattr(attack, "num_training_records", lambda num_population: 1)
            with _named(f"attack.{attack.name}.training"):
                training.check_schedule(f"attack/{attack.name}", [known(len(membership.population_N))])


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Within the context, a setting of `training` is named as one of this place."""
    try:
        yield
    except SettingError as error:
        raise error.at(place) from error


def shadow_setup(setup: Setup, audit: Audit) -> Setup:
    """What the shadow models are trained from: what the targets are, but for what the attacker does not know.

    Args:
        setup: of the targets, with the records of the shadow models.
    """
    guess = audit.guess or Guess()
    trainings = audit.training_defenses
    setup = replace(setup, estimators=audit.shadow_estimators)
    if setup.estimators is not None:
        return setup
    if guess.model is None and guess.training is None and (audit.adaptive or not trainings):
        return setup
    known = trainings if audit.adaptive else ()
    return replace(setup, **_how(audit, guess, known, setup.population, setup.membership))


def as_trained(
    trainings: Sequence[TrainingDefense], recipe: Recipe, membership: Membership
) -> tuple[Sequence[TrainingDefense], Recipe]:
    """Defences and recipe as given, but that trials of one record more or less take equal steps."""
    if not membership.is_trials:
        return trainings, recipe
    assert membership.known_N is not None
    return of_fixed_size(trainings, recipe, int(membership.known_N.sum()))


def check_attacks(
    audit: Audit, membership: Membership, population: Population, with_count: Callable[[int], Membership]
) -> None:
    """Refuse attacks that the plan or the target cannot serve.

    Args:
        with_count: the plan with another number of shadow models.

    Raises:
        DoesNotApplyError: one of them, with the reason.
    """
    target = audit.attacked
    for attack in audit.refused_attacks:
        reason = refusal(
            attack,
            membership,
            population.input_shape,
            form=population.form,
            answers_others=target.answers_others,
            folds=target.folds,
            task=population.task,
            with_count=with_count,
        )
        if reason is not None:
            raise DoesNotApplyError(reason)


def _check_guess(audit: Audit) -> None:
    guess, target = audit.guess, audit.attacked
    if guess is None:
        return
    if target.is_every_model:
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
        guess.training.check_records(audit.population.input_shape, audit.population.form)


def _check_task(audit: Audit) -> None:
    """Refuse what knows classes alone, where there are none."""
    task = audit.population.task
    check_task(audit.defenses, task)
    if task.has_classes:
        return
    if audit.shadow.makes_records:
        raise InputError(
            f"shadow={audit.shadow.source} makes records of classes that the target tells, and under task={task.name} "
            "there are none; use shadow=real."
        )
    if not audit.attacked.takes_other_tasks:
        raise InputError(
            f"The `target` answers with the probabilities of classes, and under task={task.name} there are none; use "
            "target=trained, leave_one_out, checkpoint, estimator or sklearn, or a trained network from Python."
        )
    if audit.attacked.expected_accuracy is not None:
        raise InputError(
            f"`target.expected_accuracy` is {audit.attacked.expected_accuracy:g}, and under task={task.name} a model "
            f"has no accuracy; leave it null."
        )


def _utilities(task: Task) -> str:
    return "accuracies" if task.has_classes else task.utility


def _with_canaries(engine: Engine, audit: Audit) -> Population:
    population, canaries = audit.population, audit.canaries
    if canaries is None:
        return population
    changed = canaries.apply(population, engine.seed)
    engine.stages.remark(
        f"{canaries.count} of the {len(population)} records are canaries ({canaries.kind}): figures over all records, "
        f"the target's {_utilities(population.task)} too, include them; those of natural records stand under the "
        "groups."
    )
    return changed
