"""The run, top to bottom: plan, target, shadow models, signals, attacks, report."""

import copy
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from mia_lightning.attacks.interface import Attack, Needs, needs_of
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.shokri import Shokri
from mia_lightning.datasets.canaries import Canaries
from mia_lightning.datasets.population import Array, Population, make_population
from mia_lightning.defenses.interface import Defense
from mia_lightning.errors import InputError
from mia_lightning.membership import Disjoint, Plan, plan_name
from mia_lightning.observation import Observation, observe_models
from mia_lightning.planning import estimates, planning
from mia_lightning.preparation import prepare, shadow_setup, split_defenses
from mia_lightning.reports.assemble import assemble
from mia_lightning.reports.files import save_members, save_report
from mia_lightning.reports.logger import LoggedRun, NoLogger, RunLogger
from mia_lightning.reports.schema import AuditReport, DefenseSection
from mia_lightning.scoring import run_attacks
from mia_lightning.shadows.guess import Guess
from mia_lightning.shadows.interface import Source
from mia_lightning.shadows.real import Real
from mia_lightning.sharding import Shard, ShardEngine, ShardTrained
from mia_lightning.store import Store
from mia_lightning.targets.existing import Existing
from mia_lightning.targets.interface import Target
from mia_lightning.targets.leave_one_out import LeaveOneOut
from mia_lightning.targets.trained import Trained
from mia_lightning.training.execution import Plans
from mia_lightning.training.fit import Engine
from mia_lightning.training.progress import Stages
from mia_lightning.training.recipe import Recipe, default_recipe
from mia_lightning.training.trainer import TrainerSettings


def audit(
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
    convergence: bool = False,
    canaries: Canaries | None = None,
    training: Recipe | None = None,
    trainer: TrainerSettings | None = None,
    store: Store | None = None,
    seed: int = 0,
    output: Path | str | None = None,
    save_models: bool = False,
    logger: RunLogger | None = None,
    console: Console | None = None,
    config: Mapping[str, Any] | None = None,
) -> AuditReport:
    """Measure how much a model gives away about its training records.

    Args:
        data: a `Population`, or the records `[N, *features]` as a tensor or array, with `label`.
        label: int `[N]`, from 0.
        model: class or function that makes an untrained network with logits `[B, C]`; it is passed
            `input_shape` and `num_classes` if it takes parameters of these names.
        membership: who trains on what; `Disjoint()` by default.
        target: `Trained()` by default; a trained `nn.Module` is attacked as it is, with `membership=Given(...)`.
        shadow: number and source of the shadow models; 64 on real records by default.
        attacks: `Shokri()` and `Loss()` by default.
        defenses: of the target, applied in this order.
        adaptive: whether the attacker knows them and imitates them on the shadow models.
        guess: what the attacker assumes of the target's architecture and training; by default he knows them.
        skip_inapplicable: whether attacks that the plan cannot serve are left out, and said to be, or refused.
        convergence: whether each attack is fitted anew on a quarter and on half of the shadow models, for the verdict
            whether more of them would help; attacks that train networks train them for each number.
        canaries: records to be replaced by such as a model can only know by heart, for a group of their own beside the
            natural records; none by default.
        training: of target and shadow models.
        trainer: accelerator, precision, callbacks.
        store: where trained models and their answers are found and kept; None for nowhere.
        seed: all random draws are functions of it and of their names.
        output: folder for the files of the run; None writes none.
        save_models: whether target.safetensors and shadow.safetensors are written there, and of one target members.csv.
        logger: where the run is logged beside its files, such as `WandbReport`.
        console: where progress is shown; None shows none.
        config: kept in the report.

    Returns:
        The report, with scores and training curves.

    Raises:
        InputError: data, settings or files that cannot be used; the sentence says which and what to do.

    Example:
        >>> import mia_lightning as mia
        >>> report = mia.audit(x, label, model=Net, membership=mia.Disjoint(train_size=500))  # doctest: +SKIP
        >>> report.attacks[0].overall.auc.value  # doctest: +SKIP
    """
    attacks = _checked_attacks(attacks)
    folder = None if output is None else Path(output)
    with _started(logger, folder, config) as log, Stages(console) as stages:
        observation = _observe(
            *(
                data,
                label,
                model,
                membership,
                target,
                shadow,
                defenses,
                adaptive,
                canaries,
                training,
                trainer,
                store,
                seed,
                folder,
            ),
            attacks=() if skip_inapplicable else attacks,
            guess=guess,
            wants_population=needs_of(attacks).population,
            stages=stages,
        )
        report = _attack(
            *(
                observation,
                attacks,
                defenses,
                adaptive,
                skip_inapplicable,
                convergence,
                folder,
                save_models,
                config or {},
            )
        )
        log.finish(report)
    return report


def observe(
    data: Population | Array,
    label: Array | None = None,
    *,
    model: Callable[..., nn.Module],
    membership: Plan | None = None,
    target: Target | nn.Module | None = None,
    shadow: Real | Source | None = None,
    defenses: Sequence[Defense] = (),
    adaptive: bool = True,
    guess: Guess | None = None,
    canaries: Canaries | None = None,
    training: Recipe | None = None,
    trainer: TrainerSettings | None = None,
    store: Store | None = None,
    seed: int = 0,
    needs: Needs | None = None,
    output: Path | str | None = None,
    console: Console | None = None,
) -> Observation:
    """The expensive half of `audit`: train the models and ask them, once for any number of `attack` calls.

    The arguments are those of `audit`; of `defenses` only those that change training matter here, and the others only
    where the shadow records are made from the target's answers.

    Args:
        needs: what attacks will need, such as records reserved as population; by default nothing of the kind.

    Raises:
        InputError: as `audit`.
    """
    folder = None if output is None else Path(output)
    with Stages(console) as stages:
        return _observe(
            *(
                data,
                label,
                model,
                membership,
                target,
                shadow,
                defenses,
                adaptive,
                canaries,
                training,
                trainer,
                store,
                seed,
                folder,
            ),
            attacks=(),
            guess=guess,
            wants_population=False if needs is None else needs.population,
            stages=stages,
        )


def attack(
    observation: Observation,
    *,
    attacks: Sequence[Attack] | None = None,
    defenses: Sequence[Defense] = (),
    adaptive: bool = True,
    skip_inapplicable: bool = False,
    convergence: bool = False,
    output: Path | str | None = None,
    save_models: bool = False,
    logger: RunLogger | None = None,
    console: Console | None = None,
    config: Mapping[str, Any] | None = None,
) -> AuditReport:
    """The cheap half of `audit`: run attacks on what was observed, behind output defences; no model is trained anew.

    Raises:
        InputError: as `audit`, and for defences that the observed models were not trained with.
    """
    attacks = _checked_attacks(attacks)
    outputs, trainings = split_defenses(defenses)
    if trainings != observation.training_defenses or (trainings and adaptive != observation.adaptive):
        raise InputError(
            "`defenses` asks for another training than that of the observed models; call mia_lightning.observe with "
            "the same `defenses` and `adaptive`."
        )
    if observation.synthesis is not None and outputs != observation.output_defenses:
        raise InputError(
            f"The records of shadow={observation.shadow_source} were made from the target's answers, which `defenses` "
            "changes; call mia_lightning.observe with the same `defenses`."
        )
    folder = None if output is None else Path(output)
    earlier = observation.engine
    with _started(logger, folder, config) as log, Stages(console) as stages:
        stages.remarks.extend(earlier.stages.remarks)
        stages.seconds.update(earlier.stages.seconds)
        engine = replace(
            earlier,
            stages=stages,
            folder=folder,
            losses=dict(earlier.losses),
            plans=earlier.plans.moved(folder),
            reused=dict(earlier.reused),
        )
        observation = replace(observation, engine=engine)
        report = _attack(
            *(
                observation,
                attacks,
                defenses,
                adaptive,
                skip_inapplicable,
                convergence,
                folder,
                save_models,
                config or {},
            )
        )
        log.finish(report)
    return report


def train_shard(
    data: Population | Array,
    label: Array | None = None,
    *,
    shard: Shard,
    model: Callable[..., nn.Module],
    store: Store,
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
    seed: int = 0,
    output: Path | str | None = None,
    console: Console | None = None,
) -> str:
    """One of several jobs that train the shadow models of one `audit`: its range of them, into the store.

    The other arguments are those of `audit`, which then finds them there. The targets are trained where they are not
    there, by whichever job comes first.

    Returns:
        A sentence that says how many models it was.

    Raises:
        InputError: as `audit`; or the shadow models are not trained here.
    """
    attacks = _checked_attacks(attacks)
    folder = None if output is None else Path(output)
    with Stages(console) as stages:
        try:
            _observe(
                *(
                    data,
                    label,
                    model,
                    membership,
                    target,
                    shadow,
                    defenses,
                    adaptive,
                    canaries,
                    training,
                    trainer,
                    store,
                    seed,
                    folder,
                ),
                attacks=() if skip_inapplicable else attacks,
                guess=guess,
                wants_population=needs_of(attacks).population,
                stages=stages,
                shard=shard,
            )
        except ShardTrained as done:
            return str(done)
    raise InputError(
        f"`shadow.shards` is {shard.count}, but the shadow models of this `target` are trained by its service, and are "
        "no models that jobs could share out; set shadow.shards=1."
    )


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
    attacks = _checked_attacks(attacks)
    population = _as_population(data, label)
    target = _as_target(target)
    membership = Disjoint() if membership is None else membership
    shadow = Real() if shadow is None else shadow
    _check(target, membership, shadow, model, seed)
    engine = planning(Engine(seed=operator.index(seed), settings=trainer or TrainerSettings(), store=store))
    if canaries is not None:
        population = _with_canaries(canaries, population, target, engine.seed, engine.stages)
    recipe = training or default_recipe()
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
        attacks=() if skip_inapplicable else attacks,
        wants_population=needs_of(attacks).population,
    )
    return estimates(
        setup,
        shadow_setup(
            setup,
            model=model,
            recipe=recipe,
            trainings=split_defenses(defenses)[1],
            adaptive=adaptive,
            guess=guess,
        ),
        target=target,
        shadow=shadow,
        attacks=attacks,
        folds=target.folds if isinstance(target, LeaveOneOut) else 0,
        skip_inapplicable=skip_inapplicable,
    )


def _observe(
    data: Population | Array,
    label: Array | None,
    model: Callable[..., nn.Module],
    membership: Plan | None,
    target: Target | nn.Module | None,
    shadow: Real | Source | None,
    defenses: Sequence[Defense],
    adaptive: bool,
    canaries: Canaries | None,
    training: Recipe | None,
    trainer: TrainerSettings | None,
    store: Store | None,
    seed: int,
    folder: Path | None,
    *,
    attacks: Sequence[Attack],
    guess: Guess | None,
    wants_population: bool,
    stages: Stages,
    shard: Shard | None = None,
) -> Observation:
    population = _as_population(data, label)
    target = _as_target(target)
    membership = Disjoint() if membership is None else membership
    shadow = Real() if shadow is None else shadow
    _check(target, membership, shadow, model, seed)
    if canaries is not None:
        population = _with_canaries(canaries, population, target, operator.index(seed), stages)
    if store is not None:
        store.check()
    make_engine = Engine if shard is None else partial(ShardEngine, shard=shard)
    engine = make_engine(
        seed=operator.index(seed),
        settings=trainer or TrainerSettings(),
        stages=stages,
        folder=folder,
        plans=Plans(folder),
        store=store,
    )
    return observe_models(
        engine,
        population,
        model=model,
        membership=membership,
        target=target,
        shadow=shadow,
        recipe=training or default_recipe(),
        defenses=defenses,
        adaptive=adaptive,
        attacks=attacks,
        guess=guess,
        wants_population=wants_population,
    )


def _attack(
    observation: Observation,
    attacks: Sequence[Attack],
    defenses: Sequence[Defense],
    adaptive: bool,
    skip_inapplicable: bool,
    convergence: bool,
    folder: Path | None,
    save_models: bool,
    config: Mapping[str, Any],
) -> AuditReport:
    target_signals, outcomes = run_attacks(
        observation,
        attacks,
        defenses=defenses,
        adaptive=adaptive,
        skip_inapplicable=skip_inapplicable,
        convergence=convergence,
    )
    defense = None
    if defenses:
        names = tuple(each.name for each in defenses)
        described = ", ".join(each.describe() for each in defenses)
        defense = DefenseSection(names=names, description=described, adaptive=adaptive)
    with observation.engine.stages.stage("report", 0):
        report = assemble(observation, target_signals=target_signals, outcomes=outcomes, defense=defense, config=config)
        if folder is not None:
            if save_models:
                folder.mkdir(parents=True, exist_ok=True)
                observation.targets.save(folder / "target.safetensors")
                observation.shadows.save(folder / "shadow.safetensors")
                save_members(observation.plan.columns(observation.target_columns), folder)
            save_report(report, folder)
    return report


def _as_population(data: Population | Array, label: Array | None) -> Population:
    if isinstance(data, Population):
        if label is not None:
            raise InputError("`label` is given beside a Population, which has labels of its own; leave it out.")
        return data
    if label is None:
        raise InputError("`label` is missing; give the class of each record, or a Population as the first argument.")
    return make_population(data, label)


def _with_canaries(canaries: Canaries, population: Population, target: Target, seed: int, stages: Stages) -> Population:
    if not target.is_trained_here:
        raise InputError(
            f"`canary.count` is {canaries.count}, but the target is trained already, and not on canaries; set it to 0, "
            "or train the target here."
        )
    changed = canaries.apply(population, seed)
    stages.remark(
        f"{canaries.count} of the {len(population)} records are canaries ({canaries.kind}): figures over all records, "
        "the target's accuracies too, include them; those of natural records stand under the groups."
    )
    return changed


def _as_target(target: Target | nn.Module | None) -> Target:
    if target is None:
        return Trained()
    return Existing(network=copy.deepcopy(target)) if isinstance(target, nn.Module) else target


def _started(logger: RunLogger | None, folder: Path | None, config: Mapping[str, Any] | None) -> LoggedRun:
    logger = NoLogger() if logger is None else logger
    _check_kind("logger", logger, "start")
    return logger.start(folder, config or {})


def _check_kind(place: str, made: object, needed: str) -> None:
    """Refuse an object of another kind, as a mistyped `_target_` makes it."""
    if not hasattr(made, needed):
        raise InputError(
            f"`{place}` is a {type(made).__name__}, which has no `{needed}`; choose one of those in conf/{place}, or "
            "write one like them."
        )


def _check(target: Target, membership: Plan, shadow: Real | Source, model: object, seed: object) -> None:
    _check_kind("target", target, "obtain")
    _check_kind("membership", membership, "fill")
    _check_kind("shadow", shadow, "source")
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise InputError(f"`seed` is {seed!r}; it must be a whole number.")
    if isinstance(model, nn.Module) or not callable(model):
        raise InputError(
            f"`model` is a {type(model).__name__}; give the class or function that makes an untrained network (a "
            "trained one to be attacked goes to `target`)."
        )
    if not target.is_trained_here and membership.draws_target:
        raise InputError(
            f"The target is trained already, but membership={plan_name(membership)} would draw its members "
            "at random; say what it was trained on by membership=given."
        )


def _checked_attacks(attacks: Sequence[Attack] | None) -> Sequence[Attack]:
    """The attacks, by default the two of the study that this began with."""
    attacks = (Shokri(), Loss()) if attacks is None else attacks
    for attack in attacks:
        for needed in ("name", "description", "needs", "fit"):
            _check_kind("attack", attack, needed)
    names = [attack.name for attack in attacks]
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"An attack has the name {name!r}; give a word of letters, digits, dots and hyphens.")
    if not names:
        raise InputError("`attack` is empty; choose at least one, such as attack=[shokri,loss].")
    if len(set(names)) < len(names):
        raise InputError(f"`attack` has the names {names}; give each attack a `name` of its own.")
    return attacks
