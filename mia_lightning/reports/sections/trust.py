"""Whether a report can be trusted: the section, and its sentences."""

from mia_lightning.reports.rows import ACCURACY
from mia_lightning.reports.schema import AuditReport, TrustSection
from mia_lightning.run.observation import Observation
from mia_lightning.terminal.amounts import show

_KINDS = {
    "network": "a network",
    "trees": "an ensemble of trees",
    "unknown": "of unknown kind (`target.kind`)",
}
VOID, UNCONFIRMED = "This audit cannot be trusted", "This audit could not be confirmed"


def trust_section(observation: Observation) -> TrustSection:
    """The section."""
    understated = None
    if not _are_alike(observation):
        shadows = observation.shadows
        imitations = "networks" if shadows.kind == "network" else shadows.architecture_name
        understated = (
            f"Leakage may be understated: the target is {_KINDS[observation.targets.kind]} and its shadow models are "
            f"{imitations}, from which attacks learn less than from models of the target's own kind."
        )
    return TrustSection.of(observation.sanity).model_copy(update={"understated": understated})


def _are_alike(observation: Observation) -> bool:
    """Whether target and shadow models are of one kind, as far as it is known; what a target makes is of its own."""
    audit, of_target = observation.audit, observation.targets.kind
    own, made = audit.attacked.own_kind, audit.shadow_estimators
    is_own = own is not None and made is not None and made.make is own.make
    is_known = of_target != "unknown" or is_own or observation.membership.leaves_one_out
    return of_target == observation.shadows.kind and is_known


def distrust(report: AuditReport) -> str | None:
    """What stands above all figures of a void or unconfirmed target; None for others."""
    return {"void": VOID, "unconfirmed": UNCONFIRMED}.get(report.trust.verdict)


def trust_warnings(trust: TrustSection) -> list[str]:
    """The sentences at the very top of a report; none for one that can be trusted."""
    said = []
    opening = {"void": f"{VOID}: the target is not what it is taken for", "unconfirmed": UNCONFIRMED}
    if trust.verdict in opening:
        likely = "" if trust.cause is None else f" Likely cause: {trust.cause}; {trust.mend}."
        said.append(f"{opening[trust.verdict]}. {' '.join(trust.reasons)}{likely}")
    if trust.understated is not None:
        said.append(trust.understated)
    return said


def trust_sentences(report: AuditReport) -> list[tuple[str, str]]:
    """What was checked of the target: (heading, sentences); none where it was trained here."""
    trust = report.trust
    if trust.verdict == "not checked":
        return []
    task = report.task
    checked = (
        "Its accuracies, and its answers with the classes or the rows in another order,"
        if task.utility == ACCURACY
        else f"Its {task.utility}, and its answers in another order,"
    )
    found = {
        "void": "It is not what it is taken for; see the warnings.",
        "unconfirmed": "It could not be confirmed; see the warnings.",
        "sound": f"{checked} show nothing wrong.",
    }[trust.verdict]
    if trust.correlation is not None:
        found += (
            f" Within {task.strata_name}, the rank correlation of its signals with those of the shadow models is "
            f"{show(trust.correlation, 2)}."
        )
    return [("check of the target", " ".join((found, *trust.notes)))]
