"""The cheap half of a run: every attack on what was observed, behind output defences; no model is trained anew."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from mia_lightning.attacks.applicable import refusal
from mia_lightning.attacks.decisions import FIXED, LEARNT
from mia_lightning.attacks.description import description_of
from mia_lightning.attacks.interface import Attack, DoesNotApplyError, Evidence, Needs, needs_of
from mia_lightning.attacks.leave_one_out import in_units, score_each, scored_at
from mia_lightning.attacks.views import RecordForm, observe_views
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.interface import Defense, OutputDefense, apply_all, channel_of
from mia_lightning.errors import InputError
from mia_lightning.membership import Membership
from mia_lightning.run.convergence import Convergence, Outcome, converge
from mia_lightning.run.filling import filled
from mia_lightning.run.observation import Observation
from mia_lightning.training.models import Observable
from mia_lightning.training.signals import Signals, on_one_device

LEARNT_APART = (
    "none: the threshold was learnt on shadow models that are no targets, and how it varies is not known; see "
    "target=leave_one_out"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class AttackOutcome:
    """What an attack said of T targets on their records, and whether its attacker knew of their defences.

    Attributes:
        score_TN: float64, higher = more likely a member.
        is_flagged_TN: the attack's own decision.
        threshold_T: float64, that of each target; None where decisions are no threshold of the scores.
        decision: how they come about, `FIXED`, `LEARNT` with the other targets, or "none: " and why the shares that are
            flagged have no interval over targets.
        needs: of the attack, such as its queries for each record of the target.
        convergence: what it achieves with fewer shadow models; None where that was not measured.
        shadow_score_K: float64, what it says of the shadow models about the canary, where the plan is `one_canary`:
            scores from which a threshold may be learnt, and nothing else, since the attack has seen those models.
    """

    name: str
    description: str
    score_TN: Tensor
    is_flagged_TN: Tensor
    threshold_T: Tensor | None = None
    decision: str = FIXED
    adaptive: bool = False
    needs: Needs = field(default_factory=Needs)
    convergence: Convergence | None = None
    shadow_score_K: Tensor | None = None


def run_attacks(observation: Observation) -> tuple[Signals, list[AttackOutcome]]:
    """What the targets answer through their defences, and what each attack of the audit says of them.

    Raises:
        DoesNotApplyError: an attack cannot be run.
        InputError: none of them can.
    """
    audit, membership, remark = observation.audit, observation.membership, observation.engine.stages.remark
    outputs = (*observation.answer_defenses, *audit.output_defenses)
    fitting = _fitting(observation)
    convergence = audit.convergence
    if convergence and membership.leaves_one_out:
        convergence = False
        remark(
            "Whether more shadow models would help was not measured (`convergence`): with target=leave_one_out every "
            "model is a target, and fewer shadow models would be fewer targets."
        )
    if convergence and membership.is_trials:
        convergence = False
        remark(
            "Whether more shadow models would help was not measured (`convergence`): under membership=one_canary a "
            "target has one record alone."
        )
    views = _Views(observation, fitting)
    target_signals = views.of_targets(_answered(observation.target_signals, outputs), outputs)
    outcomes = []
    trainings = audit.training_defenses
    attackers = _attackers(outputs, trainings, audit.adaptive)
    if len(attackers) > 1 and trainings:
        remark(
            f"Attackers with and without `{attackers[1][0]}` differ in the output defences that they know; of "
            f"{', '.join(each.name for each in trainings)} both {'know' if audit.adaptive else 'know nothing'}, since "
            "shadow models are trained once."
        )
    for suffix, imitated, adapts in attackers:
        same = membership.leaves_one_out and imitated == outputs
        shadow_signals = target_signals if same else _answered(observation.shadow_signals, imitated)
        shadow_signals = shadow_signals if same else views.of_shadows(shadow_signals, imitated)
        target_signals, shadow_signals = on_one_device(target_signals, shadow_signals)
        evidence = evidence_of(membership, observation.population, shadow_signals)
        if suffix:  # the training curves of a run are the first attacker's
            observation = replace(observation, engine=replace(observation.engine, losses={}))
        for each in fitting:
            try:
                outcome = _run(each, f"{each.name}{suffix}", observation, target_signals, evidence, convergence)
            except DoesNotApplyError as error:
                if not audit.may_leave_out(each):
                    raise
                remark(f"{each.name}{suffix} was not run: {error}")
                continue
            outcomes.append(replace(outcome, adaptive=adapts and bool(audit.defenses)))
    if not outcomes:
        raise InputError("None of the attacks can be run on these models; choose `attack`, or the plan, anew.")
    return target_signals, outcomes


def _fitting(observation: Observation) -> list[Attack]:
    """The attacks that plan, records and target serve."""
    fitting, shape = [], observation.population.input_shape
    audit, membership = observation.audit, observation.membership
    all_trained = len(membership.block_K[membership.shadows]) == audit.shadow.count
    can_refill = all_trained and not audit.shadow.makes_records
    for attack in audit.attacks:
        reason = refusal(
            attack,
            membership,
            shape,
            form=observation.population.form,
            answers_others=observation.targets.answers_others,
            folds=audit.attacked.folds,
            task=observation.population.task,
            with_count=partial(filled, audit, observation.population) if can_refill else None,
        )
        if reason is None:
            fitting.append(attack)
        elif audit.may_leave_out(attack):
            observation.engine.stages.remark(f"{attack.name} was not run: {reason}", kind="note")
        else:
            raise DoesNotApplyError(reason)
    return fitting


class _Views:
    """The union of the views that attacks need, about which all models are asked once for each channel."""

    def __init__(self, observation: Observation, attacks: Sequence[Attack]) -> None:
        self._observation = observation
        self._views = needs_of(attacks).views
        if self._views:
            # Ranges and deviations of columns, from what an attacker may hold where that is anything.
            real = observation.population.part(observation.target_columns)
            outside_N = observation.membership.columns(observation.target_columns).outside_N.to(real.device)
            self._form = RecordForm.of(real.chosen(outside_N) if int(outside_N.sum()) > 1 else real)

    def of_targets(self, signals: Signals, outputs: Sequence[OutputDefense]) -> Signals:
        observation = self._observation
        return self._seen(
            signals, observation.asked_targets, observation.population.part(observation.target_columns), outputs
        )

    def of_shadows(self, signals: Signals, outputs: Sequence[OutputDefense]) -> Signals:
        return self._seen(signals, self._observation.asked_shadows, self._observation.population, outputs)

    def _seen(
        self, signals: Signals, models: Observable, population: Population, outputs: Sequence[OutputDefense]
    ) -> Signals:
        if not self._views:
            return signals
        engine = self._observation.engine
        with engine.stages.clock("views"):
            views = observe_views(
                models, population, self._views, engine.seed, outputs, form=self._form, room=signals.room
            )
        return replace(signals, views=views)


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
    log_probability_KANC = apply_all(outputs, signals.log_probability_KANC, room=signals.room)
    return replace(signals, log_probability_KANC=log_probability_KANC, channel=channel_of(outputs))


def evidence_of(membership: Membership, population: Population, shadow_signals: Signals) -> Evidence:
    """What attacks are fitted on: the shadow models of a plan over the whole record axis."""
    device = shadow_signals.log_probability_KANC.device
    population_N = torch.zeros(len(population), dtype=torch.bool).index_fill(0, membership.population_N, True)
    return Evidence(
        signals=shadow_signals,
        member_KN=membership.member_KN[membership.shadows].to(device),
        scored_KN=membership.scored_KN[membership.shadows].to(device),
        block_K=membership.block_K[membership.shadows].to(device),
        label_N=population.label_N.to(device),
        num_classes=population.num_classes,
        target_scored_N=membership.scored_KN[membership.targets].any(0).to(device),
        population_N=population_N.to(device),
        population=population,
        plan_name=membership.plan_name,
    )


def _run(
    attack: Attack,
    name: str,
    observation: Observation,
    target_signals: Signals,
    evidence: Evidence,
    convergence: bool,
) -> AttackOutcome:
    engine, membership = observation.engine, observation.membership
    shadow_score_K: Tensor | None = None
    with engine.stages.clock(f"attack/{name}"):
        if membership.leaves_one_out:
            scored = score_each(attack, evidence, target_signals, engine, folds=observation.audit.attacked.folds)
        else:
            evidence = evidence.in_units_of()
            target_signals = in_units(target_signals, evidence)
            fitted = attack.fit(evidence, engine)
            score_TN = fitted.score(target_signals, evidence.label_N[observation.target_columns])
            scored = scored_at(score_TN, [fitted.threshold] * len(score_TN), fitted.remarks)
            # Of a threshold learnt on models that are no targets, the targets do not tell how it varies.
            if scored.decision == LEARNT or (scored.decision == FIXED and attack.needs.shadows):
                scored = replace(scored, decision=LEARNT_APART)
            if membership.is_trials:
                losses = dict(engine.losses)  # the training curves of a run are those of the targets' networks
                shadow_score_K = fitted.score(evidence.signals, evidence.label_N)[:, evidence.target_scored_N][:, 0]
                engine.losses.update(losses)
    for remark in scored.remarks:
        engine.stages.remark(f"{name}: {remark}", kind="note")
    outcome = AttackOutcome(
        name=name,
        description=description_of(attack, evidence.population.task),
        score_TN=scored.score_TN.cpu(),
        is_flagged_TN=scored.is_flagged_TN.cpu(),
        threshold_T=scored.threshold_T.cpu(),
        decision=scored.decision,
        needs=attack.needs,
        shadow_score_K=None if shadow_score_K is None else shadow_score_K.cpu(),
    )
    if not convergence or not attack.needs.shadows:
        return outcome
    of_targets = membership.columns(observation.target_columns)
    whole = Outcome(
        score_TN=outcome.score_TN,
        is_flagged_TN=outcome.is_flagged_TN,
        member_TN=of_targets.member_KN[membership.targets],
        scored_TN=of_targets.scored_KN[membership.targets],
    )
    with engine.stages.clock(f"convergence/{name}"):
        return replace(outcome, convergence=converge(attack, name, evidence, target_signals, whole, engine))
