"""The first page of a report, which somebody signs: the gate, who is most exposed, what was attacked, what to do."""

from collections.abc import Sequence

from mia_lightning.metrics.figures import Figure
from mia_lightning.reports.schema import AuditReport, ClassFigures, GroupFigures
from mia_lightning.reports.sections.trust import distrust
from mia_lightning.reports.selection import has_trials, most_exposed, most_exposed_groups, strongest, worst_rates
from mia_lightning.reports.sentences import leaks
from mia_lightning.reports.words import NBSP, bracket, label, percent, share, show

NUM_EXPOSED = 3
FEW_SHADOWS = 16
LARGE_GAP = 0.05


def gate_sentence(report: AuditReport) -> str:
    """The verdict of the gate."""
    if report.gate is None:
        return "No gate was set: this report does not say how much leakage is acceptable."
    said = report.gate.sentence.removeprefix("gate: ")
    return f"Gate {said}"


def exposed_sentences(report: AuditReport) -> list[tuple[str, str]]:
    """The classes and the groups that the strongest attack surely finds best: (heading, sentence).

    None of a target that is not what it seems.
    """
    attack = strongest(report)
    if attack is None or has_trials(report) or distrust(report) is not None:
        return []
    parts = (
        (report.task.strata_name, [(each.class_name, each) for each in most_exposed(attack, NUM_EXPOSED)]),
        ("groups", [(each.group_name, each) for each in most_exposed_groups(attack, NUM_EXPOSED)]),
    )
    return [(f"most exposed {name}", _exposed(name, found, label(attack))) for name, found in parts if found]


def _exposed(name: str, found: Sequence[tuple[str, ClassFigures | GroupFigures]], attack: str) -> str:
    named = "; ".join(f"{each}: {show(of.auc.value, 2)} {bracket(_at_once(of), 2)}".rstrip() for each, of in found)
    lows = [_at_once(of).low for _, of in found]
    if all(low is None for low in lows):
        return f"{named} (AUC of {attack}, without limits: differences may be chance)."
    certain = (
        "" if any(low is not None and low > 0.5 for low in lows) else f" None of the {name} is surely above chance."
    )
    return f"{named} (AUC of {attack}, largest lower limit first; the limits hold for all {name} at once).{certain}"


def _at_once(figures: ClassFigures | GroupFigures) -> Figure:
    return figures.auc if figures.auc_simultaneous is None else figures.auc_simultaneous


def signed_facts(report: AuditReport) -> list[tuple[str, str]]:
    """What was attacked, and by whom: (heading, sentence)."""
    target, about, membership, utility = report.target, report.about, report.membership, report.task.utility
    size = "" if target.num_parameters is None else f", {target.num_parameters:,} {target.size_unit}"
    several = f"; {target.num_targets:,} of them" if target.num_targets > 1 else ""
    model = f"{target.architecture}{size}{several}"
    shadows = f"{report.shadow.count:,} shadow models ({report.shadow.architecture})"
    attacks = f"{len(report.attacks)} attacks" if len(report.attacks) > 1 else "one attack"
    seen = report.threat_model.access if report.threat_model is not None else "full"
    access = f"{report.task.seen}, unrounded" if seen == "full" else seen
    version = report.run.versions.get("mia_lightning", "")
    named = [("owner", about.owner)] if about.owner is not None else []
    return [
        ("model", model if about.model is None else f"{about.model} ({model})"),
        *named,
        (
            "data",
            f"{report.dataset.name}: {membership.num_members:,} members and {membership.num_nonmembers:,} non-members "
            f"of {'each target' if target.num_targets > 1 else 'the target'}",
        ),
        (
            "utility",
            f"train {utility} {show(target.train_accuracy)}, test {utility} {show(target.test_accuracy)}, "
            f"generalisation gap {show(target.generalization_gap)}",
        ),
        ("defence", "none" if report.defense is None else report.defense.description),
        (
            "attacked by",
            f"{attacks} with {shadows}; seen of an answer: {access}; mia-lightning {version}, seed {report.run.seed}",
        ),
    ]


def advice(report: AuditReport) -> list[str]:
    """What to do about what was found."""
    if distrust(report) is not None:
        mend = "" if report.trust.mend is None else f": {report.trust.mend}"
        return [
            f"Find out what was attacked{mend}; then audit again. Until then the figures say neither that the model "
            "leaks nor that it does not.",
        ]
    if strongest(report) is None:
        return ["Give the audit more records: no attack could be measured."]
    return _against(report) if leaks(report) else _kept_up(report)


def _against(report: AuditReport) -> list[str]:
    gap = report.target.generalization_gap
    said = [
        "Decide whether membership itself is sensitive: whoever can ask the model, and has such shadow models, can do "
        "what these figures say."
    ]
    if gap >= LARGE_GAP:
        is_estimator = report.structure is not None
        simpler = "a simpler estimator" if is_estimator else "fewer epochs or early stopping, stronger weight decay"
        said.append(f"Close the generalisation gap of {show(gap, 2)}: {simpler}, more training records.")
    refusal = report.target.private_training
    first = "" if refusal is None else f", for which something must change first: {refusal.removesuffix('.')}"
    how = f"training with differential privacy (`defense=[dp_sgd]`){first}"
    if report.structure is not None:
        how = "training with differential privacy, which takes a library that has such estimators"
    elif report.target.trains_itself:
        how = (
            "training with differential privacy. That replaces a module's own training_step, so give the network "
            "inside as `model`, with `defense=[dp_sgd]`"
        )
    elif report.trust.verdict != "not checked":
        how = (
            "training it again with differential privacy; what that changes, an audit of models that are trained here "
            f"says (`target=trained defense=[dp_sgd]`){first}"
        )
    hidden = "classes or digits" if report.task.stratum == "class" else "digits"
    said.append(
        f"Or bound what any attack can find, by {how}. Judge defences that change the answers alone, such as fewer "
        f"{hidden}, by the figures of an attacker who knows of them (`defense.adaptive=true`): they "
        "mislead any other."
    )
    if report.structure is None and not has_trials(report):
        said.append(
            f"To see what each remedy would do to leakage and {report.task.utility}, train the same recipe with and "
            "without it: `mia-lightning experiment=remedies` with your other settings (in Python: "
            "`mia.try_remedies(audit)`)."
        )
    attack = strongest(report)
    assert attack is not None
    sure = [] if has_trials(report) else [each for each in most_exposed(attack) if (_at_once(each).low or 0.0) > 0.5]
    if sure and len(sure) < len(attack.per_class):
        names = ", ".join(each.class_name for each in sure[:NUM_EXPOSED])
        parts = report.task.stratum if len(sure) == 1 else report.task.strata_name
        said.append(f"Look first at the {parts} {names}, most exposed of all.")
    return [*said, "Then audit again, with the same seed and settings."]


def _kept_up(report: AuditReport) -> list[str]:
    said = []
    if report.trust.understated is not None:
        said.append("Do not rely on low figures: attack with shadow models of the target's own kind.")
    if report.broken:
        said.append("Settle the warnings first: after them, low figures are no evidence.")
    rising = any(each.convergence is not None and each.convergence.verdict == "still rising" for each in report.attacks)
    if rising or report.shadow.count < FEW_SHADOWS:
        said.append(
            f"Attack with more than {report.shadow.count:,} shadow models (`shadow.count`), which may find more."
        )
    for rate, top in worst_rates(report).items():
        if top.figure.high is not None:
            said.append(
                f"Judge whether up to {share(top.figure.high)} of the members, found at {percent(rate)} false alarms, "
                "would be acceptable: that is not ruled out. More records narrow it."
            )
            break
    if report.gate is None:
        said.append("Set a limit for the next audit, such as `gate.metric=tpr_at_fpr gate.fpr=0.01 gate.limit=0.05`.")
    return [*said, "Audit again when model, data or training change: low figures do not prove privacy."]


def subtitle(report: AuditReport) -> str:
    """Model, data and owner, for the line below the headline."""
    model = report.about.model or report.target.architecture
    owner = "" if report.about.owner is None else f" · {report.about.owner}"
    return f"{model} trained on {report.dataset.name}{owner}".replace(" · ", f"{NBSP}· ")
