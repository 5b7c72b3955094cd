"""The expensive half of a run: plan, target, shadow records, shadow models, and what all of them answer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.defenses.accountant import Guarantee
from mia_lightning.defenses.answer_form import defenses_of
from mia_lightning.defenses.dp_sgd import private_training_refusal
from mia_lightning.defenses.interface import (
    OutputDefense,
    PrivateTraining,
    TrainingDefense,
    apply_all,
    defended_recipe,
)
from mia_lightning.membership import Membership
from mia_lightning.metrics.privacy_bounds import check_canaries, check_trials
from mia_lightning.metrics.sanity.answers import Sanity
from mia_lightning.run.completion import completed
from mia_lightning.run.definition import Audit
from mia_lightning.run.left_out import kept_shadows, kept_targets
from mia_lightning.run.preparation import (
    as_trained,
    check_attacks,
    prepare,
    shadow_setup,
    warn_of_given_split,
)
from mia_lightning.run.sanity import check_given
from mia_lightning.shadows.interface import Source, Synthesis
from mia_lightning.shadows.kept import KeptSynthesis
from mia_lightning.store.run_folder import check_run_folder
from mia_lightning.targets.interface import Target
from mia_lightning.targets.model_black_box import ModelBlackBox
from mia_lightning.training.engine import Engine
from mia_lightning.training.models import Models, Observable
from mia_lightning.training.plan.room import Room
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import Signals
from mia_lightning.training.step.recipe import Recipe

_PAGE = 4_500_000  # bytes of a report.html, most of which are the script of its figures


@dataclass(frozen=True, eq=False, kw_only=True)
class Observation:
    """Trained targets and shadow models with all that they answered; any number of attacks can read it.

    The record axis is the real records, followed by the synthetic ones where shadow models train on such.

    Attributes:
        audit: what was observed, and for which attacks.
        engine: what trained them, with the remarks, seconds and losses so far.
        population: real and synthetic records, canaries among them.
        num_real: how many of them are real.
        membership: who trained on what, over the whole axis.
        targets, target_signals: T targets, observed on the real records, without output defences.
        shadows, shadow_signals: K shadow models, observed on the whole record axis, likewise. Where every model is a
            target once (`membership.leaves_one_out`) they are the targets.
        synthesis: how the shadow records were made; None for real ones.
        asked_KN: bool, the records that the shadow models were asked about.
        left_out: numbers of the shadow models that were no longer finite, and their complements.
        guarantee: differential privacy of each target; None for none.
        sanity: whether a given or served target is what it is taken for.
        trains_itself: whether the models are LightningModules that their own training_step trains.
        private_training: why such models are not trained with DP-SGD; None where nothing is known.
    """

    audit: Audit
    engine: Engine
    population: Population
    num_real: int
    membership: Membership
    targets: Models
    target_signals: Signals
    shadows: Models
    shadow_signals: Signals
    asked_KN: Tensor
    synthesis: Synthesis | None
    left_out: tuple[int, ...]
    guarantee: Guarantee | None = None
    sanity: Sanity = field(default_factory=lambda: Sanity(verdict="not checked"))
    trains_itself: bool = False
    private_training: str | None = None

    @property
    def target_columns(self) -> slice:
        """Where on the record axis the targets' records lie."""
        return slice(0, self.num_real)

    @property
    def answer_defenses(self) -> tuple[OutputDefense, ...]:
        """What the target's own answers leave out, imitated on the shadow models whatever the attack."""
        return defenses_of(self.target_signals.form)

    @property
    def asked_targets(self) -> Observable:
        """The targets, as far as they are to be asked: about what attacks read alone."""
        return self.targets.about(self.membership.columns(self.target_columns).asked_N)

    @property
    def asked_shadows(self) -> Observable:
        """The shadow models, likewise."""
        return self.shadows.about(self.asked_KN)

    def asked_for(self, audit: Audit, room: Room | None = None) -> "Observation":
        """The observation for another audit of the same models, whose attacks may read more of their answers."""
        asked_KN = self.asked_KN | asked_of_shadows(self.membership, audit)
        observation = replace(self, audit=audit)
        if bool((asked_KN == self.asked_KN).all()):
            return observation
        signals = _answers(self.engine, self.shadows, self.population, asked_KN, room or self.shadow_signals.room)
        return replace(observation, shadow_signals=signals, asked_KN=asked_KN)

    def close(self) -> None:
        """Give back the connections of a target that somebody else serves; others have none."""
        self.targets.close()


def observe_models(engine: Engine, audit: Audit, *, room: Room | None = None) -> Observation:
    """Train, or fetch, the targets and their shadow models, and ask all of them about their records.

    Args:
        room: where the answers of all models lie; by default in memory, if they take no more than a quarter of what is
            free, else on disk in the run's folder.

    Raises:
        DoesNotApplyError: an attack that the plan cannot serve.
        InputError: settings that do not fit the records or each other, or a target that cannot be trained.
    """
    stages, audit = engine.stages, completed(audit, engine.stages)
    target = audit.attacked
    room = room or Room(folder=engine.folder)
    setup = prepare(engine, audit)
    num_real = len(setup.population)
    private_training = (
        None
        if setup.estimators is not None
        else private_training_refusal(setup.recipe, setup.architecture, setup.population.task)
    )
    guarantee = _checked_guarantee(setup.membership, audit)
    if audit.folder is not None:
        check_run_folder(audit.folder, _bytes_in_folder(setup, audit, room))
    with stages.clock("target"):
        targets = target.obtain(setup)
        warn_of_given_split(setup, audit)  # after what the target may be refused for, since it takes its time
        target_signals = targets.about(setup.membership.asked_N).observe(setup.population, room=room)
    if not setup.membership.leaves_one_out:
        kept_T = kept_targets(targets, target_signals, setup.membership, engine)
        if not bool(kept_T.all()):
            targets, target_signals = targets.select(kept_T), target_signals.select(kept_T)
            setup = replace(setup, membership=setup.membership.keep_targets(kept_T))

    setup, synthesis = _with_shadow_records(setup, targets, defenses_of(target_signals.form), audit)
    for remark in setup.membership.remarks:
        stages.remark(remark)
    setup = shadow_setup(setup, audit)
    membership = setup.membership
    asked_KN = asked_of_shadows(membership, audit)
    if membership.leaves_one_out:
        shadows, shadow_signals = targets, target_signals
    else:
        with stages.clock("shadow"):
            shadows = _train_shadows(target, setup)
        shadow_signals = _answers(engine, shadows, setup.population, asked_KN, room)
    kept_K = kept_shadows(shadows, shadow_signals, membership, engine)
    _say_of_votes(engine, target_signals, shadow_signals)
    answers = target_signals if target.is_trained_here else _as_votes(target_signals, target, shadow_signals.atoms)
    if not bool(kept_K.all()):
        membership, shadows = membership.keep_shadows(kept_K), shadows.select(kept_K)
        shadow_signals, asked_KN = shadow_signals.select(kept_K), asked_KN[kept_K]
        if membership.leaves_one_out:
            targets, target_signals = shadows, shadow_signals
    kept = replace(setup, membership=membership)
    return Observation(
        audit=audit,
        engine=engine,
        population=setup.population,
        num_real=num_real,
        membership=membership,
        targets=targets,
        target_signals=target_signals if membership.leaves_one_out else answers,
        shadows=shadows,
        shadow_signals=shadow_signals,
        asked_KN=asked_KN,
        synthesis=synthesis,
        left_out=tuple((~kept_K).nonzero().flatten().tolist()),
        guarantee=guarantee,
        sanity=check_given(audit, kept, targets, target_signals, shadow_signals, num_real),
        trains_itself=setup.recipe.own is not None,
        private_training=private_training,
    )


def _train_shadows(target: Target, setup: Setup) -> Models:
    """The shadow models: what the target trains or, where they are estimators, these whatever the target is."""
    if setup.estimators is None:
        return target.train_shadows(setup)
    if not target.is_trained_here:
        setup.engine.stages.remark(
            f"The shadow models are estimators that are fitted here: {setup.estimators.name}, each on "
            f"{int(setup.membership.member_KN[setup.membership.shadows][0].sum())} records.",
            kind="note",
        )
    return setup.train(setup.membership.shadows, "shadow")


def _bytes_in_folder(setup: Setup, audit: Audit, room: Room) -> int:
    """What the run will write to its folder, at least: its page, saved models, and answers that memory cannot hold."""
    num_targets, num_shadows = setup.membership.num_targets, audit.shadow.count
    needed = _PAGE if audit.shard is None else 0
    is_known = audit.guess is None or audit.guess.model is None
    if audit.save_models and is_known and audit.attacked.is_trained_here:
        each = setup.architecture.num_parameters * (8 if setup.engine.settings.precision == "64" else 4)
        needed += (num_targets + num_shadows) * each
    is_one_array = setup.membership.leaves_one_out or audit.shard is not None  # or there is none of the shadow models
    arrays = (num_targets,) if is_one_array else (num_targets, num_shadows)
    for num_models in arrays if room.folder == audit.folder else ():
        shape = (num_models, 1, len(setup.population), setup.population.num_classes)
        if room.is_on_disk(shape, device=setup.engine.device):
            needed += 4 * math.prod(shape)
    return needed


def asked_of_shadows(membership: Membership, audit: Audit) -> Tensor:
    """Bool `[K, N]`: what is read of the shadow models' answers: by attacks that compare them record by record, and by
    the check of a target that was not trained here."""
    needs = audit.needs
    compared = needs.out_models > 0 or needs.in_models > 0 or not audit.attacked.is_trained_here
    return membership.asked_of_shadows(compared=compared)


def _answers(engine: Engine, shadows: Models, population: Population, asked_KN: Tensor, room: Room) -> Signals:
    with engine.stages.clock("answers"):
        answered = engine.stages.asking(int(asked_KN.sum()))
        return shadows.about(asked_KN, answered).observe(population, room=room)


def _checked_guarantee(membership: Membership, audit: Audit) -> Guarantee | None:
    """Before training, since it may be one that cannot be met, or of trials that are too few to say anything."""
    guarantee = _guarantee(*as_trained(audit.training_defenses, audit.training, membership), membership)
    if membership.has_coins:
        check_canaries(membership)
    if membership.is_trials:
        num_attacks = max(1, len(audit.refused_attacks))
        check_trials(membership, delta_of(guarantee, membership), num_attacks=num_attacks)
    return guarantee


def _with_shadow_records(
    setup: Setup, targets: Models, seen: Sequence[OutputDefense], audit: Audit
) -> tuple[Setup, Synthesis | None]:
    """The setup with the records of the shadow models behind the real ones, and how they were made.

    Args:
        seen: what the target's own answers leave out.
    """
    shadow, engine = audit.shadow, setup.engine
    if not shadow.makes_records:
        return setup, None
    with engine.stages.clock("synthesis"):
        synthesis = _synthesise(shadow, setup, targets, seen, audit.output_defenses)
    population = setup.population.followed_by(synthesis.x_M, synthesis.label_M)

    def filled(num_shadows: int) -> Membership:
        return setup.membership.with_synthetic(len(synthesis.x_M), num_shadows=num_shadows, seed=engine.seed)

    membership = filled(shadow.count)
    check_attacks(audit, membership, population, filled)
    return replace(setup, population=population, membership=membership), synthesis


def _guarantee(trainings: Sequence[TrainingDefense], recipe: Recipe, membership: Membership) -> Guarantee | None:
    """The weakest over targets, which may differ in their numbers of records."""
    private = [each for each in trainings if isinstance(each, PrivateTraining)]
    if not private:
        return None
    others = [each for each in trainings if not isinstance(each, PrivateTraining)]
    recipe = replace(recipe, epochs=defended_recipe(others, recipe).epochs)
    sizes_T = membership.member_KN[membership.targets].sum(1)
    guarantees = [private[0].guarantee(recipe, size) for size in sizes_T.unique().tolist()]
    return max(guarantees, key=lambda each: each.epsilon)


def delta_of(guarantee: Guarantee | None, membership: Membership) -> float:
    """δ of the guarantee; where there is none, a tenth of 1 / n."""
    return 1.0 / (10 * int(membership.member_KN[0].sum())) if guarantee is None else guarantee.delta


def _synthesise(
    source: Source, setup: Setup, targets: Models, seen: Sequence[OutputDefense], outputs: Sequence[OutputDefense]
) -> Synthesis:
    population, stages = setup.population, setup.engine.stages
    outside_N = setup.membership.outside_N.to(population.device)
    if bool(outside_N.any()):
        known = population.chosen(outside_N)
    else:
        known = population
        stages.remark(f"shadow={source.source}: the form of a record was read off the target's own records.")
    engine, channel = setup.engine, (*seen, *outputs)
    kept = KeptSynthesis.of(engine.store, source, targets, channel, known, seed=engine.seed)
    synthesis = None if kept is None else kept.find(stages.remark)
    if synthesis is not None:
        stages.note(
            f"shadow={source.source}: {len(synthesis.x_M)} shadow records from the store, nobody is asked anew."
        )
    else:
        target = ModelBlackBox(targets, population, channel=lambda log_probability: apply_all(channel, log_probability))
        synthesis = source.synthesise(known, target, seed=engine.seed)
        if kept is not None:
            kept.keep(synthesis)
    for remark in synthesis.remarks:
        stages.remark(f"shadow={source.source}: {remark}")
    if outputs:
        stages.remark(
            f"shadow={source.source}: the shadow records were made from the answers of the defended target "
            f"({', '.join(defense.describe() for defense in outputs)}), so another defence makes others."
        )
    return synthesis


def _as_votes(signals: Signals, target: Target, atoms: int | None) -> Signals:
    """The answers of a target that is not at hand itself, smoothed as those of shadow models that vote.

    Digits that are those of shares of votes are no rounding.

    Args:
        atoms: the votes of a shadow model; None where these do not vote.
    """
    if atoms is None or target.own_kind is not None or signals.form.kind != "full" or not signals.task.has_classes:
        return signals
    share = signals.log_probability_KANC.double().exp()
    votes = share * atoms
    are_shares = bool(((votes - votes.round()).abs() < 1e-4 * atoms)[share.isfinite()].all())
    smooth = (votes + 1 / share.shape[-1]) / (atoms + 1)
    form = replace(signals.form, digits=None) if are_shares else signals.form
    return replace(signals, log_probability_KANC=smooth.log().to(signals.log_probability_KANC), form=form, atoms=atoms)


def _say_of_votes(engine: Engine, target_signals: Signals, shadow_signals: Signals) -> None:
    """Remark that target and shadow models do not vote in the same number."""
    of_target, of_shadows = target_signals.atoms, shadow_signals.atoms
    if of_target != of_shadows and of_target is not None:
        engine.stages.remark(
            f"The target's probabilities are shares of {of_target} votes, and those of the shadow models "
            f"{'are no votes' if of_shadows is None else f'of {of_shadows}'}: attacks may learn less from them."
        )
