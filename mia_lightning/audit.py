"""The run, top to bottom: plan, target, shadow models, signals, attacks, report."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from mia_lightning.attacks.interface import Attack, Needs
from mia_lightning.datasets.canaries import Canaries
from mia_lightning.datasets.population import Array, Population
from mia_lightning.defenses.interface import Defense, split_defenses
from mia_lightning.errors import InputError
from mia_lightning.ingredients import attacks_of, check_kind, ingredients_of
from mia_lightning.membership import Plan
from mia_lightning.observation import Observation, observe_models
from mia_lightning.preparation import engine_of
from mia_lightning.reports.assemble import assemble
from mia_lightning.reports.endpoint import endpoint_section
from mia_lightning.reports.files import save_members, save_report
from mia_lightning.reports.logger import LoggedRun, NoLogger, RunLogger
from mia_lightning.reports.schema import AuditReport, DefenseSection
from mia_lightning.scoring import run_attacks
from mia_lightning.shadows.guess import Guess
from mia_lightning.shadows.interface import Source
from mia_lightning.shadows.real import Real
from mia_lightning.store import Store
from mia_lightning.targets.endpoints.models import EndpointTarget
from mia_lightning.targets.interface import Target
from mia_lightning.targets.service import ServiceTarget
from mia_lightning.training.progress import Stages
from mia_lightning.training.recipe import Recipe
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
    attacks = attacks_of(attacks)
    folder = _folder(output)
    with _started(logger, folder, config) as log, Stages(console) as stages:
        ingredients = ingredients_of(
            data,
            label,
            model=model,
            membership=membership,
            target=target,
            shadow=shadow,
            attacks=attacks,
            defenses=defenses,
            adaptive=adaptive,
            guess=guess,
            skip_inapplicable=skip_inapplicable,
            canaries=canaries,
            training=training,
        )
        if save_models and isinstance(ingredients.target, ServiceTarget | EndpointTarget):
            raise InputError("`save_models` is true, but the target's weights never leave its server; set it to false.")
        engine = engine_of(seed=seed, trainer=trainer, store=store, stages=stages, folder=folder)
        with closing(observe_models(engine, ingredients)) as observation:
            report = _attack(
                observation,
                attacks,
                defenses=defenses,
                adaptive=adaptive,
                skip_inapplicable=skip_inapplicable,
                convergence=convergence,
                folder=folder,
                save_models=save_models,
                config=config or {},
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
    ingredients = ingredients_of(
        data,
        label,
        model=model,
        membership=membership,
        target=target,
        shadow=shadow,
        defenses=defenses,
        adaptive=adaptive,
        guess=guess,
        canaries=canaries,
        training=training,
        needs=needs,
    )
    with Stages(console) as stages:
        engine = engine_of(seed=seed, trainer=trainer, store=store, stages=stages, folder=_folder(output))
        return observe_models(engine, ingredients)


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
    attacks = attacks_of(attacks)
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
    folder, earlier = _folder(output), observation.engine
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
            observation,
            attacks,
            defenses=defenses,
            adaptive=adaptive,
            skip_inapplicable=skip_inapplicable,
            convergence=convergence,
            folder=folder,
            save_models=save_models,
            config=config or {},
        )
        log.finish(report)
    return report


def _attack(
    observation: Observation,
    attacks: Sequence[Attack],
    *,
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
        report = assemble(
            observation,
            target_signals=target_signals,
            outcomes=outcomes,
            defense=defense,
            config=config,
            endpoint=endpoint_section(observation.targets),
        )
        if folder is not None:
            if save_models:
                folder.mkdir(parents=True, exist_ok=True)
                observation.targets.save(folder / "target.safetensors")
                observation.shadows.save(folder / "shadow.safetensors")
                save_members(observation.plan.columns(observation.target_columns), folder)
            save_report(report, folder)
    return report


def _folder(output: Path | str | None) -> Path | None:
    return None if output is None else Path(output)


def _started(logger: RunLogger | None, folder: Path | None, config: Mapping[str, Any] | None) -> LoggedRun:
    logger = NoLogger() if logger is None else logger
    check_kind("logger", logger, "start")
    return logger.start(folder, config or {})
