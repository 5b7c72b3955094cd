"""From what was measured to the report: verdicts over all strengths together, and the order of the remedies."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from mia_lightning.defenses.interface import Defense
from mia_lightning.metrics.figures import NEW_TRAININGS
from mia_lightning.metrics.intervals.differences import ERROR
from mia_lightning.metrics.intervals.families import holm
from mia_lightning.remedies.catalogue import settings_of
from mia_lightning.remedies.measuring import Way
from mia_lightning.remedies.schema import RemedyReport, RemedyResult, Strength, Verdict
from mia_lightning.remedies.setting_up import Tried
from mia_lightning.remedies.trading import Against, against, alone, at_equal_utility

Results = Mapping[str, Sequence[tuple[Defense, Way | str]]]
"""By remedy: its strengths, each with what was measured, or why it was not."""

ESTIMAND = f"95 % intervals for {NEW_TRAININGS}, paired: target by target the same members, records and initial weights"


def report_of(tried: Tried, nothing: Way, results: Results, *, give_up: float) -> RemedyReport:
    """The report; `seconds` is 0, and `warnings` are none."""
    measured = [
        (name, place, against(found, nothing))
        for name, strengths in results.items()
        for place, (_, found) in enumerate(strengths)
        if isinstance(found, Way)
    ]
    adjusted = holm([1.0 if each.p is None else each.p for _, _, each in measured])
    compared = {(name, place): (each, p) for (name, place, each), p in zip(measured, adjusted, strict=True)}
    remedies = [_result(tried, nothing, name, strengths, compared, give_up) for name, strengths in results.items()]
    remedies.sort(key=lambda each: (each.at_equal_utility is None, each.at_equal_utility and each.at_equal_utility.auc))
    skipped = [
        RemedyResult(name=remedy.name, trains=remedy.trains, skipped=reason) for remedy, reason in tried.inapplicable
    ]
    packages = ("mia_lightning", "torch", "pytorch_lightning")
    versions = {name: importlib.metadata.version(name.replace("_", "-")) for name in packages}
    return RemedyReport(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        versions={"python": platform.python_version(), **versions},
        seed=tried.audit.seed,
        dataset=tried.audit.population.name,
        architecture=tried.architecture,
        epochs=int(tried.audit.training.epochs),
        utility=tried.audit.population.task.utility,
        num_models=nothing.num_targets,
        num_members=int(tried.plan.member_KN[0].sum()),
        num_nonmembers=int(tried.plan.nonmember_KN[0].sum()),
        num_validation=len(tried.plan.validation_N),
        attacks=tuple(nothing.auc),
        give_up=give_up,
        estimand=ESTIMAND,
        nothing=Strength(
            description="nothing",
            settings=(),
            utility=nothing.utility.figure.value,
            train_utility=nothing.train_utility,
            auc=alone(nothing.auc),
            tpr_at_fpr={rate: alone(parts) for rate, parts in nothing.tpr.items()},
        ),
        remedies=(*remedies, *skipped),
        notes=tried.notes,
    )


def _result(
    tried: Tried,
    nothing: Way,
    name: str,
    strengths: Sequence[tuple[Defense, Way | str]],
    compared: Mapping[tuple[str, int], tuple[Against, float]],
    give_up: float,
) -> RemedyResult:
    found = [(defense.describe(), each) for defense, each in strengths if isinstance(each, Way)]
    sections = tuple(
        _strength(defense, each, compared.get((name, place))) for place, (defense, each) in enumerate(strengths)
    )
    trains = any(remedy.trains for remedy in tried.remedies if remedy.name == name)
    if not found:
        return RemedyResult(name=name, trains=trains, skipped=sections[0].skipped, strengths=sections)
    return RemedyResult(
        name=name,
        trains=trains,
        strengths=sections,
        at_equal_utility=at_equal_utility(nothing, found, give_up=give_up, seed=tried.audit.seed),
        best=_best(sections, (nothing.utility.figure.value or 0.0) - give_up),
    )


def _best(strengths: Sequence[Strength], floor: float) -> int:
    """The strength of least AUC among those of enough utility; without such the one of most utility."""
    places = [place for place, each in enumerate(strengths) if each.skipped is None]
    enough = [place for place in places if (strengths[place].utility or 0.0) >= floor]
    if not enough:
        return max(places, key=lambda place: strengths[place].utility or 0.0)
    return min(enough, key=lambda place: _auc(strengths[place]))


def _auc(strength: Strength) -> float:
    assert strength.auc is not None
    assert strength.auc.value is not None
    return strength.auc.value


def _strength(defense: Defense, found: Way | str, compared: tuple[Against, float] | None) -> Strength:
    description, typed = defense.describe(), tuple(settings_of(defense))
    if isinstance(found, str) or compared is None:
        return Strength(description=description, settings=typed, skipped=str(found))
    of, p = compared
    return Strength(
        description=description,
        settings=typed,
        utility=found.utility.figure.value,
        train_utility=found.train_utility,
        utility_difference=of.utility,
        auc=of.auc,
        tpr_at_fpr=dict(of.tpr),
        p_adjusted=None if of.p is None else p,
        verdict=_verdict(of, p),
    )


def _verdict(found: Against, p: float) -> Verdict | None:
    """By the difference in AUC, with 5 % over all strengths of all remedies together; None without an interval."""
    if found.p is None or found.auc.difference is None:
        return None
    if p > ERROR:
        return "no difference shown"
    return "leaks less" if found.auc.difference.value < 0 else "leaks more"
