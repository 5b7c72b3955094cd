"""What the attacker sees, has and knows: the section of the report, and its sentences."""

from collections.abc import Sequence
from typing import Literal

import torch

from mia_lightning.membership import Membership
from mia_lightning.reports.schema import AuditReport, DefenseSection, TaskSection, ThreatModelSection
from mia_lightning.reports.sections.endpoint import endpoint_sentences
from mia_lightning.reports.sections.trust import trust_sentences
from mia_lightning.run.observation import Observation
from mia_lightning.run.scoring import AttackOutcome
from mia_lightning.shadows.guess import Guess

_SOURCES = {
    "noisy": "Real records of the same population with a share of their features changed at random",
    "marginal": "Records drawn feature by feature from the marginal distributions of real records",
    "model_based": "Records synthesised by queries to the target, without any real records",
}
_TRAINING = {
    "same": "The shadow models have the architecture of the target and are trained by its recipe",
    "undefended": "The shadow models have the architecture and recipe of the target, without the defences in its "
    "training, which the attacker does not know",
    "service": "The attacker knows neither; the service that trained the target also trains the shadow models",
    "guessed": "The target was trained elsewhere; architecture and recipe of the shadow models are those that were "
    "given or that its checkpoint names, and may be others than its own",
}


def threat_model(
    observation: Observation, outcomes: Sequence[AttackOutcome], *, channel: str, defense: DefenseSection | None
) -> ThreatModelSection:
    """The section.

    Args:
        channel: how the targets' answers were observed (`Signals.channel`).
    """
    membership, synthesis = observation.membership, observation.synthesis
    in_models, out_models = _fewest_references(membership)
    views = {view for outcome in outcomes for view in outcome.needs.views}
    return ThreatModelSection(
        access=channel,
        queries_per_record=1 + len(views),
        synthesis_queries=0 if synthesis is None else synthesis.num_queries,
        shadow_records=_shadow_records(observation),
        num_known=0 if membership.known_N is None else int(membership.known_N.sum()),
        num_population=len(membership.population_N),
        training=_training(observation),
        num_shadows=observation.shadows.num_models - (_largest_block(membership) if membership.leaves_one_out else 0),
        in_models=in_models,
        out_models=out_models,
        knows_defenses=None if defense is None else defense.adaptive,
        chosen_on={outcome.name: _chosen_on(outcome) for outcome in outcomes},
        members="given" if membership.is_given else "drawn",
        members_from=membership.origin,
    )


def threat_sentences(report: AuditReport) -> list[tuple[str, str]]:
    """What is said of each side of the threat model: (heading, sentences)."""
    model = report.threat_model
    if model is None:
        return []
    return [
        ("what the attacker sees", f"{_access(model.access, report.task)}."),
        ("queries to the target", _queries(report, model)),
        *endpoint_sentences(report.endpoint),
        *trust_sentences(report),
        ("data of the attacker", _data(report, model)),
        ("architecture and training", _assumed(report, model)),
        ("shadow models", _references(report, model)),
        ("defences", _defenses(report, model)),
        ("thresholds and settings", _choices(model)),
        ("membership labels", _membership(model)),
    ]


def _fewest_references(membership: Membership) -> tuple[int, int]:
    """In-models and out-models of the scored record that has the fewest."""
    member_KN, scored_TN = membership.member_KN[membership.shadows], membership.scored_KN[membership.targets]
    in_N, out_N = member_KN.sum(0, keepdim=True), (~member_KN).sum(0, keepdim=True)
    if not membership.leaves_one_out:
        scored_N = scored_TN.any(0)
        return int(in_N[0, scored_N].min()), int(out_N[0, scored_N].min())
    # A model is compared with those outside its block.
    place_K = membership.block_K.unique(return_inverse=True)[1]
    own_BN = torch.zeros(int(place_K.max()) + 1, member_KN.shape[1], dtype=torch.int64)
    own_in_KN = own_BN.index_add(0, place_K, member_KN.long())[place_K]
    own_out_KN = own_BN.index_add(0, place_K, (~member_KN).long())[place_K]
    return int((in_N - own_in_KN)[scored_TN].min()), int((out_N - own_out_KN)[scored_TN].min())


def _largest_block(membership: Membership) -> int:
    return int(membership.block_K.unique(return_counts=True)[1].max())


def _shadow_records(observation: Observation) -> Literal["same", "disjoint", "synthetic"]:
    membership = observation.membership
    if observation.synthesis is not None:
        return "synthetic"
    asked_N = membership.scored_KN[membership.targets].any(0)
    return "same" if bool(membership.scored_KN[membership.shadows][:, asked_N].any()) else "disjoint"


def _training(observation: Observation) -> Literal["same", "undefended", "service", "guessed"]:
    audit, targets, shadows = observation.audit, observation.targets, observation.shadows
    if targets.trained_by == shadows.trained_by == "service":
        return "service"
    if audit.guess not in (None, Guess()) or targets.trained_by != "run":
        return "guessed"
    if audit.training_defenses and not audit.adaptive:
        return "undefended"
    return "same"


def _chosen_on(outcome: AttackOutcome) -> Literal["shadow_models", "population", "nothing"]:
    if outcome.needs.shadows:
        return "shadow_models"
    return "population" if outcome.needs.population else "nothing"


def _access(channel: str, task: TaskSection) -> str:
    if channel == "full":
        seen = "the probabilities of all classes" if task.stratum == "class" else task.seen
        return f"{seen[0].upper()}{seen[1:]}, unrounded"
    return f"The target's answers as it returns them: {channel}"


def _queries(report: AuditReport, model: ThreatModelSection) -> str:
    each = ", ".join(f"{attack.name} {attack.queries:,}" for attack in report.attacks if attack.queries > 1)
    sentence = f"{model.queries_per_record:,} for each scored record"
    sentence += f" ({each}; the others 1)." if each and model.queries_per_record > 1 else "."
    if model.synthesis_queries:
        sentence += f" {model.synthesis_queries:,} more to synthesise the records of the shadow models."
    return sentence


def _data(report: AuditReport, model: ThreatModelSection) -> str:
    if model.shadow_records == "synthetic":
        sentence = f"{_SOURCES.get(report.shadow.source, f'Records made by shadow={report.shadow.source}')}."
    elif model.shadow_records == "same":
        sentence = "The scored records themselves: each is in some shadow models and out of others."
    else:
        sentence = "Real records of the same population, none of which is scored."
    if model.num_known:
        sentence += (
            f" The attacker knows the membership of {model.num_known:,} records beforehand; these are not scored."
        )
    if model.num_population:
        sentence += f" {model.num_population:,} more real records that no model was trained on."
    return sentence


def _assumed(report: AuditReport, model: ThreatModelSection) -> str:
    guess = f": {report.shadow.architecture}" if model.training == "guessed" else ""
    return f"{_TRAINING[model.training]}{guess}."


def _references(report: AuditReport, model: ThreatModelSection) -> str:
    number = f"{model.num_shadows:,}" + (" for each target" if report.target.num_targets > 1 else "")
    if model.shadow_records == "same":
        return (
            f"{number}. Of these, at least {model.in_models:,} were trained on each scored record (in-models) and at "
            f"least {model.out_models:,} were not (out-models)."
        )
    return f"{number}. None was trained on a scored record: there are only out-models."


def _defenses(report: AuditReport, model: ThreatModelSection) -> str:
    if report.defense is None or model.knows_defenses is None:
        return "None."
    knows = "knows them and imitates them on the shadow models" if model.knows_defenses else "does not know them"
    return f"{report.defense.description}; the attacker {knows}."


def _choices(model: ThreatModelSection) -> str:
    where = {
        "shadow_models": "learnt on shadow models",
        "population": "learnt on records that no model was trained on, with the target's answers to them",
        "nothing": "fixed beforehand",
    }
    parts = "; ".join(
        f"{text} ({', '.join(name for name, on in model.chosen_on.items() if on == place)})"
        for place, text in where.items()
        if place in model.chosen_on.values()
    )
    return f"{parts[:1].upper()}{parts[1:]}. Nothing was chosen on the scored records."


def _membership(model: ThreatModelSection) -> str:
    if model.members == "drawn":
        return "Drawn at random here, so that members and non-members differ in nothing else."
    return (
        f"Given by the user{'' if model.members_from is None else f' ({model.members_from})'}. If members and "
        "non-members also differ in something else, such as their age, an attack may find that instead."
    )
