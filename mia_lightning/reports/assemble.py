"""From scores to the report."""

import importlib.metadata
import math
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mia_lightning.attacks.decisions import LEARNT
from mia_lightning.datasets.population import Population
from mia_lightning.membership import Membership
from mia_lightning.metrics.figures import NEW_TRAININGS, OTHER_TRIALS, THESE_MODELS, Figure, limited
from mia_lightning.metrics.intervals.bootstrap import Bootstrap
from mia_lightning.metrics.intervals.learnt_thresholds import Relearnt, relearnt
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.metrics.over_targets import mean_auc_interval, target_figures
from mia_lightning.metrics.target_accuracy import TargetAccuracy, accuracy_by_membership
from mia_lightning.reports.schema import (
    AboutSection,
    AttackSection,
    AuditReport,
    ClassFigures,
    ConvergenceSection,
    DatasetSection,
    DefenseSection,
    ExecutionSection,
    FieldSection,
    GroupFigures,
    MembershipSection,
    ReuseSection,
    RunSection,
    Scores,
    SetSection,
    ShadowSection,
    SynthesisClass,
    SynthesisSection,
    TargetClass,
    TargetGroup,
    TargetSection,
    TrainingCurves,
)
from mia_lightning.reports.sections.duplicates import find_duplicates
from mia_lightning.reports.sections.endpoint import endpoint_section, unsteady
from mia_lightning.reports.sections.privacy import privacy_section
from mia_lightning.reports.sections.records import MOST_FLAGGED, flagged_members, pictures, vulnerability_section
from mia_lightning.reports.sections.threat_model import threat_model
from mia_lightning.reports.sections.trust import trust_section, trust_warnings
from mia_lightning.reports.sentences import headline
from mia_lightning.run.definition import Audit
from mia_lightning.run.observation import Observation
from mia_lightning.run.scoring import AttackOutcome
from mia_lightning.shadows.interface import Synthesis
from mia_lightning.training.engine import Engine
from mia_lightning.training.models import Models
from mia_lightning.training.plan.memory import peak_memory
from mia_lightning.training.signals import Signals


def assemble(
    observation: Observation,
    *,
    target_signals: Signals,
    outcomes: Sequence[AttackOutcome],
) -> AuditReport:
    """The report of a run; figures of several targets are means over them.

    If somebody else serves the target, its sentinels are queried once more.

    Args:
        observation: the models, and the answers of the shadow models.
        target_signals: the answers of the targets, through their defences.
    """
    endpoint, defense = endpoint_section(observation.targets), _defense_section(observation.audit)
    engine, whole = observation.engine, observation.population.to("cpu")
    population = whole.part(observation.target_columns)
    membership = observation.membership.columns(observation.target_columns)
    nonmember_TN = membership.nonmember_KN[membership.targets]
    member_TN = membership.member_KN[membership.targets] & membership.scored_KN[membership.targets]
    duplicates = find_duplicates(
        observation.membership, observation.population, outcomes, num_real=observation.num_real, seed=engine.seed
    )
    changed = unsteady(endpoint)
    trust = trust_section(observation)
    warnings = [
        *trust_warnings(trust),
        *([] if changed is None else [changed]),
        *engine.stages.remarks,
        *duplicates.warnings,
    ]
    target = _target_section(population, membership, observation.targets, target_signals)
    idle = _learnt_nothing(target) if observation.targets.trained_by == "run" else None
    report = AuditReport(
        about=AboutSection.of(observation.audit.report),
        trust=trust,
        run=_run_section(engine, observation.audit.config),
        dataset=DatasetSection(
            name=population.name,
            num_records=len(population),
            num_classes=population.num_classes,
            class_names=population.class_names,
            input_shape=population.input_shape,
            form=None if population.form is None else FieldSection.of_all(population.form.fields),
            fingerprint=population.fingerprint(),
            sets=()
            if population.origin is None
            else tuple(SetSection(**vars(each)) for each in population.origin.parts),
        ),
        membership=MembershipSection(
            plan=membership.plan_name,
            num_members=int(member_TN[0].sum()),
            num_nonmembers=int(nonmember_TN[0].sum()),
            shadow_train_size=int(observation.membership.member_KN[membership.shadows][0].sum()),
            num_validation=len(membership.validation_N),
            duplicates_across_boundary=duplicates.count,
            near_duplicates_across_boundary=duplicates.near_count,
            num_compared_for_near_duplicates=duplicates.num_compared,
        ),
        target=target,
        shadow=_shadow_section(observation, whole),
        defense=defense,
        privacy=privacy_section(observation, outcomes),
        threat_model=threat_model(observation, outcomes, channel=target_signals.channel, defense=defense),
        endpoint=endpoint,
        attacks=tuple(
            _attack_section(
                outcome, population, membership, None if defense is None else defense.description, engine.seed
            )
            for outcome in outcomes
        ),
        warnings=(*warnings, *([] if idle is None else [idle])),
        broken=(*engine.stages.broken, *([] if idle is None else [idle])),
        notes=tuple(engine.stages.notes),
        scores=_scores(outcomes, population, membership),
        record_names=population.record_names,
        training_curves=_training_curves(engine),
    )
    flagged = flagged_members(report, MOST_FLAGGED)
    drawn = pictures(population, (each.record for each in flagged))
    return report.model_copy(update={"pictures": drawn, "headline": headline(report).replace("\u00a0", " ")})


def _defense_section(audit: Audit) -> DefenseSection | None:
    if not audit.defenses:
        return None
    names = tuple(each.name for each in audit.defenses)
    described = ", ".join(each.describe() for each in audit.defenses)
    return DefenseSection(names=names, description=described, adaptive=audit.adaptive)


def _training_curves(engine: Engine) -> dict[str, TrainingCurves]:
    return {
        role: TrainingCurves(
            train_loss_EK=train_loss_EK.double().numpy(),
            validation_loss_EK=None if validation_loss_EK is None else validation_loss_EK.double().numpy(),
        )
        for role, (train_loss_EK, validation_loss_EK) in engine.losses.items()
    }


def _run_section(engine: Engine, config: Mapping[str, Any]) -> RunSection:
    packages = ("mia_lightning", "torch", "pytorch_lightning", "numpy")
    versions = {name: importlib.metadata.version(name.replace("_", "-")) for name in packages}
    return RunSection(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=engine.seed,
        device=str(engine.device),
        precision=str(engine.settings.precision),
        versions={"python": platform.python_version(), **versions},
        seconds={name: round(value, 3) for name, value in engine.stages.seconds.items()},
        config=dict(config),
        execution=tuple(ExecutionSection.of(plan) for plan in engine.plans),
        store={role: ReuseSection.of(reuse) for role, reuse in engine.reused.items()},
        peak_memory=peak_memory(engine.device),
    )


def _accuracies(
    population: Population, membership: Membership, rows: slice, signals: Signals, among_N: Tensor | None = None
) -> list[TargetAccuracy]:
    """Of each model in `rows`, on all records or on those where the bool mask is True."""
    among_N = torch.ones_like(population.label_N, dtype=torch.bool) if among_N is None else among_N
    return [
        accuracy_by_membership(
            log_probability_NC,
            population.label_N,
            member_N & among_N,
            nonmember_N & among_N,
            population.num_classes,
        )
        for log_probability_NC, member_N, nonmember_N in zip(
            (each_NC.cpu() for each_NC in signals.log_probability_KANC[:, 0]),
            membership.member_KN[rows],
            membership.unseen_KN[rows],
            strict=True,
        )
    ]


def _target_section(population: Population, membership: Membership, targets: Models, signals: Signals) -> TargetSection:
    accuracies = _accuracies(population, membership, membership.targets, signals)
    train, test = (float(np.mean([getattr(a, f"{part}_accuracy") for a in accuracies])) for part in ("train", "test"))
    train_C, test_C = (
        _defined_mean([getattr(a, f"{part}_accuracy_C") for a in accuracies]) for part in ("train", "test")
    )
    members_C = torch.stack([a.num_members_C for a in accuracies]).sum(0)
    nonmembers_C = torch.stack([a.num_nonmembers_C for a in accuracies]).sum(0)
    return TargetSection(
        architecture=targets.architecture_name,
        num_parameters=targets.num_parameters,
        num_targets=membership.num_targets,
        train_accuracy=train,
        test_accuracy=test,
        generalization_gap=train - test,
        per_class=tuple(
            TargetClass(
                class_index=c,
                class_name=name,
                num_members=int(members_C[c]),
                num_nonmembers=int(nonmembers_C[c]),
                train_accuracy=_or_none(train_C[c]),
                test_accuracy=_or_none(test_C[c]),
                generalization_gap=_or_none(train_C[c] - test_C[c]),
            )
            for c, name in enumerate(population.class_names)
        ),
        per_group=_target_groups(population, membership, signals),
    )


def _learnt_nothing(target: TargetSection) -> str | None:
    """The warning about targets that are no better on their own members than a constant answer; None for others."""
    num_members = [each.num_members for each in target.per_class]
    n = sum(num_members)
    chance = max(num_members) / n
    if target.train_accuracy > chance + 2 * math.sqrt(chance * (1 - chance) / n):
        return None
    of = "The target classifies its" if target.num_targets == 1 else "The targets classify their"
    return (
        f"{of} own training records no better than the most frequent class would (train accuracy "
        f"{target.train_accuracy:.3f}, that class {chance:.3f}): what has learnt nothing leaks nothing. Train for more "
        "epochs, or change `training.optimizer.lr` or `model`."
    )


def _target_groups(population: Population, membership: Membership, signals: Signals) -> tuple[TargetGroup, ...]:
    sections = []
    for name, of_group_N in _groups(population.group_N, population.group_names):
        accuracies = _accuracies(population, membership, membership.targets, signals, of_group_N)
        train, test = (
            float(
                _defined_mean([torch.tensor(getattr(a, f"{part}_accuracy"), dtype=torch.float64) for a in accuracies])
            )
            for part in ("train", "test")
        )
        sections.append(
            TargetGroup(
                group_name=name,
                train_accuracy=_or_none(train),
                test_accuracy=_or_none(test),
                generalization_gap=_or_none(train - test),
            )
        )
    return tuple(sections)


def _groups(group_N: Tensor | None, names: Sequence[str]) -> list[tuple[str, Tensor]]:
    """The groups by their names, with their records, bool `[N]`; empty where the records have none."""
    if group_N is None:
        return []
    return [(name, group_N == number) for number, name in enumerate(names)]


def _shadow_section(observation: Observation, whole: Population) -> ShadowSection:
    """Accuracies are on the shadow models' own records, of their own labels."""
    membership = observation.membership
    accuracies = _accuracies(whole, membership, membership.shadows, observation.shadow_signals)
    return ShadowSection(
        source=observation.audit.shadow.source,
        architecture=observation.shadows.architecture_name,
        count=len(accuracies),
        left_out=observation.left_out,
        synthesis=None if observation.synthesis is None else _synthesis_section(observation.synthesis, whole),
        train_accuracy=float(np.mean([a.train_accuracy for a in accuracies])),
        test_accuracy=float(np.mean([a.test_accuracy for a in accuracies])),
    )


def _synthesis_section(synthesis: Synthesis, population: Population) -> SynthesisSection:
    """Numbers of records and queries; a wanted class without any record has failed."""
    yield_C = synthesis.yield_C.tolist()
    wanted_C = None if synthesis.wanted_C is None else synthesis.wanted_C.tolist()
    query_C = None if synthesis.query_C is None else synthesis.query_C.tolist()
    num_records = len(synthesis.x_M)
    return SynthesisSection(
        num_records=num_records,
        num_queries=synthesis.num_queries,
        queries_per_record=synthesis.num_queries / num_records,
        per_class=tuple(
            SynthesisClass(
                class_index=c,
                class_name=name,
                num_records=yield_C[c],
                num_wanted=None if wanted_C is None else wanted_C[c],
                num_queries=None if query_C is None else query_C[c],
            )
            for c, name in enumerate(population.class_names)
        ),
        failed_classes=tuple(
            name
            for c, name in enumerate(population.class_names)
            if wanted_C is not None and wanted_C[c] > 0 and yield_C[c] == 0
        ),
    )


def _attack_section(
    outcome: AttackOutcome, population: Population, membership: Membership, defense: str | None, seed: int
) -> AttackSection:
    member_TN, scored_TN = membership.member_KN[membership.targets], membership.scored_KN[membership.targets]
    observed = (outcome.score_TN, outcome.is_flagged_TN, member_TN, scored_TN)
    label_N, group_N = population.label_N, population.group_N
    estimand = THESE_MODELS if membership.num_targets == 1 else NEW_TRAININGS
    if membership.is_trials:  # each target is one observation of one record: all together are what one target is
        canary_T = scored_TN.nonzero()[:, 1]
        score_TN, is_flagged_TN, member_TN, scored_TN = (each_TN[scored_TN][None] for each_TN in observed)
        observed, estimand = (score_TN, is_flagged_TN, member_TN, scored_TN), OTHER_TRIALS
        label_N, group_N = label_N[canary_T], None if group_N is None else group_N[canary_T]
    decision: Relearnt | str = outcome.decision
    if outcome.decision == LEARNT and outcome.threshold_T is not None:
        decision = relearnt(
            outcome.score_TN, outcome.threshold_T, *observed[2:], membership.block_K[membership.targets]
        )
    of_class_CN = label_N == torch.arange(population.num_classes)[:, None]
    return AttackSection(
        name=outcome.name,
        description=outcome.description,
        defense=defense,
        adaptive=outcome.adaptive,
        queries=outcome.needs.queries,
        convergence=None if outcome.convergence is None else ConvergenceSection.of(outcome.convergence),
        num_targets=len(observed[0]),
        estimand=estimand,
        overall=target_figures(*observed, bootstrap=Bootstrap(seed=seed, attack=outcome.name), decision=decision),
        per_class=tuple(
            ClassFigures(
                class_index=c,
                class_name=population.class_names[c],
                **_figures_of_one(observed, of_class_N, decision, population.num_classes),
            )
            for c, of_class_N in enumerate(of_class_CN)
        ),
        per_group=tuple(
            GroupFigures(
                group_name=name,
                **_figures_of_one(observed, of_group_N, decision, len(population.group_names)),
            )
            for name, of_group_N in _groups(group_N, population.group_names)
        ),
        vulnerability=vulnerability_section(outcome, population, membership),
    )


def _figures_of_one(
    observed: Sequence[Tensor], chosen_N: Tensor, decision: Relearnt | str, count: int
) -> dict[str, Any]:
    """The figures of one of `count` classes (or groups), the interval of its AUC once more for all of them at once."""
    score_TN, is_flagged_TN, member_TN, scored_TN = (each_TN[:, chosen_N] for each_TN in observed)
    decision = decision if isinstance(decision, str) else decision.columns(chosen_N)
    figures = target_figures(score_TN, is_flagged_TN, member_TN, scored_TN, decision=decision)
    simultaneous: Figure = figures.auc
    if simultaneous.value is not None:
        interval = mean_auc_interval(score_TN, member_TN, scored_TN, tail=TAIL / count)
        simultaneous = limited(simultaneous, interval)
    return {"auc_simultaneous": simultaneous, **dict(figures)}


def _scores(outcomes: Sequence[AttackOutcome], population: Population, membership: Membership) -> Scores:
    target_M, record_M = membership.scored_KN[membership.targets].nonzero(as_tuple=True)
    repeated = len(outcomes)
    return Scores(
        attack=np.repeat(np.array([outcome.name for outcome in outcomes]), len(record_M)),
        target=np.tile(target_M.numpy(), repeated),
        record=np.tile(record_M.numpy(), repeated),
        label=np.tile(population.label_N[record_M].numpy(), repeated),
        is_member=np.tile(membership.member_KN[target_M, record_M].numpy(), repeated),
        score=np.concatenate([outcome.score_TN[target_M, record_M].numpy() for outcome in outcomes]),
        is_flagged=np.concatenate([outcome.is_flagged_TN[target_M, record_M].numpy() for outcome in outcomes]),
    )


def _defined_mean(values: Sequence[Tensor]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean over targets of those that are not NaN; NaN where all are."""
    array = np.stack([value.double().numpy() for value in values])
    count = np.isfinite(array).sum(axis=0)
    total: np.ndarray[Any, np.dtype[np.float64]] = np.nansum(array, axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
