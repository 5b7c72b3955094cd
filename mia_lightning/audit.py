"""The run, top to bottom: plan, target, shadow models, signals, attacks, report."""

import copy
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from mia_lightning.attacks.interface import Attack, DoesNotApplyError, Evidence, Needs
from mia_lightning.attacks.leave_one_out import Scored, score_each
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.shokri import Shokri
from mia_lightning.datasets.population import Array, Population, make_population
from mia_lightning.defenses.interface import Defense, OutputDefense, apply_all, channel_of
from mia_lightning.errors import InputError
from mia_lightning.membership import Disjoint, Plan
from mia_lightning.observation import Observation, observe_models, split_defenses
from mia_lightning.reports.assemble import AttackOutcome, assemble
from mia_lightning.reports.files import save_report
from mia_lightning.reports.logger import LoggedRun, NoLogger, RunLogger
from mia_lightning.reports.schema import AuditReport, DefenseSection
from mia_lightning.shadows.interface import Source
from mia_lightning.shadows.real import Real
from mia_lightning.targets.existing import Existing
from mia_lightning.targets.interface import Target
from mia_lightning.targets.trained import Trained
from mia_lightning.training.fit import Engine
from mia_lightning.training.progress import Stages
from mia_lightning.training.recipe import Recipe, default_recipe
from mia_lightning.training.signals import Signals
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
    skip_inapplicable: bool = False,
    training: Recipe | None = None,
    trainer: TrainerSettings | None = None,
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
        skip_inapplicable: whether attacks that the plan cannot serve are left out, and said to be, or refused.
        training: of target and shadow models.
        trainer: accelerator, precision, callbacks.
        seed: all random draws are functions of it and of their names.
        output: folder for the files of the run; None writes none.
        save_models: whether target.safetensors and shadow.safetensors are written there.
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
            *(data, label, model, membership, target, shadow, defenses, adaptive, training, trainer, seed, folder),
            needs=needs_of(attacks),
            stages=stages,
        )
        report = _attack(
            *(observation, attacks, defenses, adaptive, skip_inapplicable, folder, save_models, config or {})
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
    training: Recipe | None = None,
    trainer: TrainerSettings | None = None,
    seed: int = 0,
    needs: Needs | None = None,
    output: Path | str | None = None,
    console: Console | None = None,
) -> Observation:
    """The expensive half of `audit`: train the models and ask them, once for any number of `attack` calls.

    The arguments are those of `audit`; of `defenses` only those that change training matter here, and the others only
    where the shadow records are made from the target's answers.

    Args:
        needs: what attacks will need (`needs_of`); by default what the default attacks need.

    Raises:
        InputError: as `audit`.
    """
    folder = None if output is None else Path(output)
    with Stages(console) as stages:
        return _observe(
            *(data, label, model, membership, target, shadow, defenses, adaptive, training, trainer, seed, folder),
            needs=needs,
            stages=stages,
        )


def attack(
    observation: Observation,
    *,
    attacks: Sequence[Attack] | None = None,
    defenses: Sequence[Defense] = (),
    adaptive: bool = True,
    skip_inapplicable: bool = False,
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
        engine = replace(earlier, stages=stages, folder=folder, losses=dict(earlier.losses))
        observation = replace(observation, engine=engine)
        report = _attack(
            *(observation, attacks, defenses, adaptive, skip_inapplicable, folder, save_models, config or {})
        )
        log.finish(report)
    return report


def _observe(
    data: Population | Array,
    label: Array | None,
    model: Callable[..., nn.Module],
    membership: Plan | None,
    target: Target | nn.Module | None,
    shadow: Real | Source | None,
    defenses: Sequence[Defense],
    adaptive: bool,
    training: Recipe | None,
    trainer: TrainerSettings | None,
    seed: int,
    folder: Path | None,
    *,
    needs: Needs | None,
    stages: Stages,
) -> Observation:
    population = _as_population(data, label)
    target = _as_target(target)
    membership = Disjoint() if membership is None else membership
    shadow = Real() if shadow is None else shadow
    _check(target, membership, shadow, model, seed)
    engine = Engine(seed=operator.index(seed), settings=trainer or TrainerSettings(), stages=stages, folder=folder)
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
        wants_population=needs is not None and needs.population,
    )


def needs_of(attacks: Sequence[Attack]) -> Needs:
    """What these attacks need together."""
    needs = [each.needs for each in attacks]
    return Needs(
        shadows=any(each.shadows for each in needs),
        population=any(each.population for each in needs),
        out_models=max((each.out_models for each in needs), default=0),
        in_models=max((each.in_models for each in needs), default=0),
    )


def _attack(
    observation: Observation,
    attacks: Sequence[Attack],
    defenses: Sequence[Defense],
    adaptive: bool,
    skip_inapplicable: bool,
    folder: Path | None,
    save_models: bool,
    config: Mapping[str, Any],
) -> AuditReport:
    outputs, trainings = split_defenses(defenses)
    outcomes, first = [], observation
    target_signals = _answered(observation.target_signals, outputs)
    for suffix, imitated, adapts in _attackers(outputs, trainings, adaptive):
        evidence = _evidence(observation, _answered(observation.shadow_signals, imitated))
        if suffix:  # the training curves of a run are the first attacker's
            observation = replace(observation, engine=replace(observation.engine, losses={}))
        for each in attacks:
            try:
                outcome = _run(each, f"{each.name}{suffix}", observation, target_signals, evidence)
            except DoesNotApplyError as error:
                if not skip_inapplicable:
                    raise
                observation.engine.stages.remark(f"attack={each.name}{suffix} was not run: {error}")
                continue
            outcomes.append(replace(outcome, adaptive=adapts and bool(defenses)))
    if not outcomes:
        raise InputError("None of the attacks can be run on these models: the remarks above say why.")
    defense = None
    if defenses:
        names = tuple(each.name for each in defenses)
        described = ", ".join(each.describe() for each in defenses)
        defense = DefenseSection(names=names, description=described, adaptive=adaptive)
    report = assemble(first, target_signals=target_signals, outcomes=outcomes, defense=defense, config=config)
    if folder is not None:
        if save_models:
            folder.mkdir(parents=True, exist_ok=True)
            observation.targets.save(folder / "target.safetensors")
            observation.shadows.save(folder / "shadow.safetensors")
        save_report(report, folder)
    return report


def _attackers(
    outputs: tuple[OutputDefense, ...], trainings: Sequence[Defense], adaptive: bool
) -> list[tuple[str, tuple[OutputDefense, ...], bool]]:
    """The attackers of a run: suffix of the attack's name, what they apply to the shadow models, whether they adapt.

    What anybody sees of the answers (hidden classes, rounded digits) is always applied. Where more was done to them,
    the attacker who does not know it and the one who does both cost nothing, and both are reported.
    """
    visible = tuple(each for each in outputs if each.is_visible)
    if visible == outputs:
        return [("", outputs, adaptive or not trainings)]
    aware, unaware = (outputs, True), (visible, False)
    if adaptive:
        return [("", *aware), ("-unaware", *unaware)]
    return [("", *unaware), ("-adaptive", outputs, not trainings)]


def _answered(signals: Signals, outputs: Sequence[OutputDefense]) -> Signals:
    """The signals as they look through the output defences."""
    if not outputs:
        return signals
    log_probability_KANC = apply_all(outputs, signals.log_probability_KANC)
    return replace(signals, log_probability_KANC=log_probability_KANC, channel=channel_of(outputs))


def _evidence(observation: Observation, shadow_signals: Signals) -> Evidence:
    plan, population = observation.plan, observation.population
    device = shadow_signals.log_probability_KANC.device
    population_N = torch.zeros(len(population), dtype=torch.bool).index_fill(0, plan.population_N, True)
    return Evidence(
        signals=shadow_signals,
        member_KN=plan.member_KN[plan.shadows].to(device),
        scored_KN=plan.scored_KN[plan.shadows].to(device),
        block_K=plan.block_K[plan.shadows].to(device),
        label_N=population.label_N.to(device),
        num_classes=population.num_classes,
        target_scored_N=plan.scored_KN[plan.targets].any(0).to(device),
        population_N=population_N.to(device),
        plan=plan.plan,
    )


def _run(
    attack: Attack, name: str, observation: Observation, target_signals: Signals, evidence: Evidence
) -> AttackOutcome:
    engine, plan = observation.engine, observation.plan
    with engine.stages.clock(f"attack/{name}"):
        if plan.leaves_one_out:
            scored = score_each(attack, evidence, target_signals, engine, folds=observation.folds)
        else:
            fitted = attack.fit(evidence, engine)
            score_TN = fitted.score(target_signals, evidence.label_N[observation.target_columns])
            scored = Scored(score_TN=score_TN, is_flagged_TN=score_TN >= fitted.threshold, remarks=fitted.remarks)
    for remark in scored.remarks:
        engine.stages.remark(f"{name}: {remark}")
    return AttackOutcome(
        name=name,
        description=attack.description,
        score_TN=scored.score_TN.cpu(),
        is_flagged_TN=scored.is_flagged_TN.cpu(),
    )


def _as_population(data: Population | Array, label: Array | None) -> Population:
    if isinstance(data, Population):
        if label is not None:
            raise InputError("`label` is given beside a Population, which has labels of its own; leave it out.")
        return data
    if label is None:
        raise InputError("`label` is missing; give the class of each record, or a Population as the first argument.")
    return make_population(data, label)


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
            f"The target is trained already, but membership={type(membership).__name__.lower()} would draw its members "
            "at random; say what it was trained on by membership=given."
        )


def _checked_attacks(attacks: Sequence[Attack] | None) -> Sequence[Attack]:
    """The attacks, by default the two of the study that this began with."""
    attacks = (Shokri(), Loss()) if attacks is None else attacks
    names = [attack.name for attack in attacks]
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"An attack has the name {name!r}; give a word of letters, digits, dots and hyphens.")
    if not names:
        raise InputError("`attack` is empty; choose at least one, such as attack=[shokri,loss].")
    if len(set(names)) < len(names):
        raise InputError(f"`attack` has the names {names}; give each attack a `name` of its own.")
    return attacks
