"""The run, top to bottom: plan, target, shadow models, signals, attacks, report."""

import copy
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from mia_lightning.attacks.interface import Attack, Evidence
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.shokri import Shokri
from mia_lightning.datasets.population import Array, Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.membership import Disjoint, Membership, Plan
from mia_lightning.metrics.model_free import model_free_warning
from mia_lightning.reports.assemble import AttackOutcome, assemble
from mia_lightning.reports.files import save_report
from mia_lightning.reports.logger import NoLogger, RunLogger
from mia_lightning.reports.schema import AuditReport
from mia_lightning.shadows.real import Real
from mia_lightning.targets.existing import Existing
from mia_lightning.targets.interface import Target
from mia_lightning.targets.trained import Trained
from mia_lightning.training.architecture import bind_shapes, inspect_architecture
from mia_lightning.training.fit import Engine
from mia_lightning.training.progress import Stages
from mia_lightning.training.recipe import Recipe, default_recipe
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import Signals, observe
from mia_lightning.training.trainer import TrainerSettings


def audit(
    data: Population | Array,
    label: Array | None = None,
    *,
    model: Callable[..., nn.Module],
    membership: Plan | None = None,
    target: Target | nn.Module | None = None,
    shadow: Real | None = None,
    attacks: Sequence[Attack] | None = None,
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
    population = _as_population(data, label)
    target = _as_target(target)
    shadow = shadow or Real()
    attacks = (Shokri(), Loss()) if attacks is None else attacks
    membership = membership or Disjoint()
    _check(target, membership, model, attacks, seed)
    seed = operator.index(seed)
    folder = None if output is None else Path(output)
    stages = Stages(console)
    with (logger or NoLogger()).start(folder, config or {}) as log, stages:
        engine = Engine(seed=seed, settings=trainer or TrainerSettings(), stages=stages, folder=folder)
        population = population.to(engine.device)
        make_network = bind_shapes(model, population.input_shape, population.num_classes)
        plan = membership.fill(population, num_targets=target.count, num_shadows=shadow.count, seed=seed)
        if not membership.draws_target:
            warning = model_free_warning(population, plan.member_KN[0], plan.nonmember_KN[0], seed=seed)
            if warning is not None:
                stages.remark(warning)
        for remark in plan.remarks:
            stages.remark(remark)
        setup = Setup(
            engine=engine,
            make_network=make_network,
            architecture=inspect_architecture(make_network, population),
            recipe=training or default_recipe(),
            population=population,
            membership=plan,
        )
        with stages.clock("target"):
            targets = target.obtain(setup)
            target_signals = observe(targets, population)
            _check_target(target_signals, plan)
        with stages.clock("shadow"):
            shadows = setup.train(plan.shadows, "shadow")
            shadow_signals = observe(shadows, population)
        failed_K = (shadows.failed_epoch_K >= 0) | ~_is_finite(shadow_signals, plan, plan.shadows)
        kept_K = _kept(plan, failed_K, stages)
        if not bool(kept_K.all()):
            plan, shadows = plan.keep_shadows(kept_K), shadows.select(kept_K)
            shadow_signals = shadow_signals.select(kept_K)

        outcomes = [_run(attack, plan, population, target_signals, shadow_signals, engine) for attack in attacks]

        report = assemble(
            population=population,
            plan=plan,
            targets=targets,
            target_signals=target_signals,
            shadows=shadows,
            shadow_signals=shadow_signals,
            shadow_source=shadow.source,
            left_out=(~kept_K).nonzero().flatten().tolist(),
            outcomes=outcomes,
            engine=engine,
            config=config or {},
        )
        if folder is not None:
            if save_models:
                folder.mkdir(parents=True, exist_ok=True)
                targets.stack.save(folder / "target.safetensors")
                shadows.stack.save(folder / "shadow.safetensors")
            save_report(report, folder)
        log.finish(report)
    return report


def _is_finite(signals: Signals, plan: Membership, rows: slice) -> Tensor:
    """bool `[K]`: whether a model's outputs are finite on all the records that are evidence about it."""
    finite_KN = signals.log_probability_KANC.isfinite().all(-1).all(1).cpu()
    return (finite_KN | ~plan.scored_KN[rows]).all(1)


def _check_target(signals: Signals, plan: Membership) -> None:
    broken = (~_is_finite(signals, plan, plan.targets)).nonzero().flatten().tolist()
    if broken:
        raise InputError(
            f"Target {broken[0]} gives outputs that are not finite, so there is nothing to attack; look for NaN in its "
            "weights (`target.path`), or lower `training.optimizer.lr`."
        )


def _kept(plan: Membership, failed_K: Tensor, stages: Stages) -> Tensor:
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
        stages.remark(
            f"The loss of the shadow models {names} was no longer finite: {int((~kept_K).sum())} of {len(kept_K)} "
            "models are left out (a model's complement goes with it)."
        )
    return kept_K


def _run(
    attack: Attack,
    plan: Membership,
    population: Population,
    target_signals: Signals,
    shadow_signals: Signals,
    engine: Engine,
) -> AttackOutcome:
    device = shadow_signals.log_probability_KANC.device
    evidence = Evidence(
        signals=shadow_signals,
        member_KN=plan.member_KN[plan.shadows].to(device),
        scored_KN=plan.scored_KN[plan.shadows].to(device),
        label_N=population.label_N.to(device),
        num_classes=population.num_classes,
    )
    with engine.stages.clock(f"attack/{attack.name}"):
        fitted = attack.fit(evidence, engine)
        score_TN = fitted.score(target_signals, evidence.label_N)
    for remark in fitted.remarks:
        engine.stages.remark(f"{attack.name}: {remark}")
    return AttackOutcome(
        name=attack.name,
        description=attack.description,
        score_TN=score_TN.cpu(),
        is_flagged_TN=(score_TN >= fitted.threshold).cpu(),
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


def _check(target: Target, membership: Plan, model: object, attacks: Sequence[Attack], seed: object) -> None:
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
    names = [attack.name for attack in attacks]
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"An attack has the name {name!r}; give a word of letters, digits, dots and hyphens.")
    if not names:
        raise InputError("`attack` is empty; choose at least one, such as attack=[shokri,loss].")
    if len(set(names)) < len(names):
        raise InputError(f"`attack` has the names {names}; give each attack a `name` of its own.")
