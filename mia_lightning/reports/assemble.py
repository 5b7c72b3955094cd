"""From scores to the report."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from torch import Tensor

from mia_lightning.attacks.decisions import LEARNT
from mia_lightning.datasets.population import Population
from mia_lightning.membership import Membership
from mia_lightning.metrics.figures import NEW_TRAININGS, OTHER_TRIALS, THESE_MODELS, Figure, limited
from mia_lightning.metrics.intervals.bootstrap import Bootstrap
from mia_lightning.metrics.intervals.learnt_thresholds import Relearnt, relearnt
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.metrics.over_targets import mean_auc_interval, target_figures
from mia_lightning.reports.run_section import ExecutionSection, ReuseSection, RunSection
from mia_lightning.reports.schema import (
    AboutSection,
    AttackSection,
    AuditReport,
    ClassFigures,
    ConvergenceSection,
    DatasetSection,
    DefenseSection,
    FieldSection,
    GroupFigures,
    MembershipSection,
    SetSection,
    TaskSection,
)
from mia_lightning.reports.scores import Scores, TrainingCurves
from mia_lightning.reports.sections.duplicates import DuplicateFindings, find_duplicates
from mia_lightning.reports.sections.endpoint import endpoint_section, unsteady
from mia_lightning.reports.sections.knowledge import knowledge_sections
from mia_lightning.reports.sections.low_figures import low_figures
from mia_lightning.reports.sections.models import groups_of, shadow_section, target_section
from mia_lightning.reports.sections.privacy import privacy_section
from mia_lightning.reports.sections.records import MOST_FLAGGED, flagged_members, pictures, vulnerability_section
from mia_lightning.reports.sections.structure import structure_section
from mia_lightning.reports.sections.threat_model import threat_model
from mia_lightning.reports.sections.trust import trust_section, trust_warnings
from mia_lightning.reports.selection import knowledge_pairs
from mia_lightning.reports.sentences import headline
from mia_lightning.run.definition import Audit
from mia_lightning.run.observation import Observation
from mia_lightning.run.scoring import AttackOutcome
from mia_lightning.training.engine import Engine
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
    duplicates = find_duplicates(
        observation.membership, observation.population, outcomes, num_real=observation.num_real, seed=engine.seed
    )
    target = target_section(population, membership, observation.targets, target_signals)
    how = {"trains_itself": observation.trains_itself, "private_training": observation.private_training}
    target = target.model_copy(update=how)
    shadow = shadow_section(observation, whole)
    attacks = tuple(
        _attack_section(outcome, population, membership, None if defense is None else defense.description, engine.seed)
        for outcome in outcomes
    )
    for warning in duplicates.warnings:
        engine.stages.remark(warning, kind="broken" if warning in duplicates.broken else "warning")
    for doubt in low_figures(observation, target_signals, target, shadow, attacks):
        engine.stages.remark(doubt, kind="broken")
    trust, changed = trust_section(observation), unsteady(endpoint)
    if changed is not None:
        engine.stages.note(changed)
    of_endpoint = () if changed is None else (changed,)
    report = AuditReport(
        about=AboutSection.of(observation.audit.report),
        task=TaskSection.of(population.task),
        trust=trust,
        run=_run_section(engine, observation.audit.config),
        dataset=_dataset_section(population),
        membership=_membership_section(observation, membership, duplicates),
        target=target,
        shadow=shadow,
        defense=defense,
        privacy=privacy_section(observation, outcomes),
        threat_model=threat_model(observation, outcomes, channel=target_signals.channel, defense=defense),
        endpoint=endpoint,
        structure=structure_section(observation),
        attacks=attacks,
        warnings=(*trust_warnings(trust), *of_endpoint, *engine.stages.remarks),
        broken=(*of_endpoint, *engine.stages.broken),
        notes=tuple(engine.stages.notes),
        scores=_scores(outcomes, population, membership),
        record_names=population.record_names,
        training_curves=_training_curves(engine),
    )
    flagged = flagged_members(report, MOST_FLAGGED)
    drawn = pictures(population, (each.record for each in flagged))
    knowledge = knowledge_sections(knowledge_pairs(report), outcomes, membership)
    return report.model_copy(
        update={"pictures": drawn, "headline": headline(report).replace("\u00a0", " "), "knowledge": knowledge}
    )


def _dataset_section(population: Population) -> DatasetSection:
    strata, form, origin = population.strata, population.form, population.origin
    return DatasetSection(
        name=population.name,
        num_records=len(population),
        num_classes=len(strata.names),
        class_names=strata.names,
        values=() if population.task.has_classes else population.class_names,
        input_shape=population.input_shape,
        form=None if form is None else FieldSection.of_all(form.fields),
        fingerprint=population.fingerprint(),
        sets=() if origin is None else tuple(SetSection(**vars(each)) for each in origin.parts),
    )


def _membership_section(
    observation: Observation, membership: Membership, duplicates: DuplicateFindings
) -> MembershipSection:
    return MembershipSection(
        plan=membership.plan_name,
        num_members=int((membership.member_KN[0] & membership.scored_KN[0]).sum()),
        num_nonmembers=int(membership.nonmember_KN[0].sum()),
        shadow_train_size=int(observation.membership.member_KN[membership.shadows][0].sum()),
        num_validation=len(membership.validation_N),
        duplicates_across_boundary=duplicates.count,
        near_duplicates_across_boundary=duplicates.near_count,
        num_compared_for_near_duplicates=duplicates.num_compared,
    )


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


def _attack_section(
    outcome: AttackOutcome, population: Population, membership: Membership, defense: str | None, seed: int
) -> AttackSection:
    member_TN, scored_TN = membership.member_KN[membership.targets], membership.scored_KN[membership.targets]
    observed = (outcome.score_TN, outcome.is_flagged_TN, member_TN, scored_TN)
    strata, group_N = population.strata, population.group_N
    of_class_CN = strata.of_SN
    estimand = THESE_MODELS if membership.num_targets == 1 else NEW_TRAININGS
    if membership.is_trials:  # each target is one observation of one record: all together are what one target is
        canary_T = scored_TN.nonzero()[:, 1]
        score_TN, is_flagged_TN, member_TN, scored_TN = (each_TN[scored_TN][None] for each_TN in observed)
        observed, estimand = (score_TN, is_flagged_TN, member_TN, scored_TN), OTHER_TRIALS
        of_class_CN, group_N = of_class_CN[:, canary_T], None if group_N is None else group_N[canary_T]
    decision: Relearnt | str = outcome.decision
    if outcome.decision == LEARNT and outcome.threshold_T is not None:
        decision = relearnt(
            outcome.score_TN, outcome.threshold_T, *observed[2:], membership.block_K[membership.targets]
        )
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
                class_name=strata.names[c],
                **_figures_of_one(observed, of_class_N, decision, len(strata.names)),
            )
            for c, of_class_N in enumerate(of_class_CN)
        ),
        per_group=tuple(
            GroupFigures(
                group_name=name,
                **_figures_of_one(observed, of_group_N, decision, len(population.group_names)),
            )
            for name, of_group_N in groups_of(group_N, population.group_names)
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
    strata, repeated = population.strata, len(outcomes)
    return Scores(
        attack=np.repeat(np.array([outcome.name for outcome in outcomes]), len(record_M)),
        target=np.tile(target_M.numpy(), repeated),
        record=np.tile(record_M.numpy(), repeated),
        label=np.tile(strata.number_N[record_M].numpy(), repeated),
        is_member=np.tile(membership.member_KN[target_M, record_M].numpy(), repeated),
        score=np.concatenate([outcome.score_TN[target_M, record_M].numpy() for outcome in outcomes]),
        is_flagged=np.concatenate([outcome.is_flagged_TN[target_M, record_M].numpy() for outcome in outcomes]),
        parts_NS=strata.of_SN.T.numpy() if strata.overlap else None,
    )
