"""Why low figures of a run are no evidence that nothing leaks, as far as the figures themselves show it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mia_lightning.metrics.intervals.limits import advantage_limits
from mia_lightning.reports.schema import AttackSection, ShadowSection, TargetSection
from mia_lightning.reports.selection import CHANCE_ERRORS, null_error
from mia_lightning.run.observation import Observation
from mia_lightning.tasks import Task
from mia_lightning.terminal.amounts import show
from mia_lightning.training.models import Models
from mia_lightning.training.signals import Signals

_CONFIDENCE = 0.998  # of both sides of the limits of the gap in accuracy
_MOST_COUNTED = 64  # shadow models whose classes are counted
_NOTHING = "low figures of what has learnt nothing say nothing of a model that has"
_MENDS = {
    "run": "Train for more epochs, or change `training.optimizer.lr` or `model`",
    "service": "Choose other settings of `target`, or another `dataset`",
}


def low_figures(
    observation: Observation,
    signals: Signals,
    target: TargetSection,
    shadow: ShadowSection,
    attacks: Sequence[AttackSection],
) -> list[str]:
    """A warning for each reason.

    Args:
        signals: the answers of the targets, through their defences.
        attacks: as they are in the report.
    """
    idle = _idle_targets(observation, target)
    found = [
        idle,
        _idle_shadows(observation, shadow) if idle is None else None,
        _turned_round(attacks),
        _worse_than_the_gap(observation, signals, attacks),
    ]
    return [each for each in found if each is not None]


def _idle_targets(observation: Observation, target: TargetSection) -> str | None:
    """Of targets that were trained for this run and have learnt nothing."""
    mend = _mend(observation.targets)
    if mend is None:
        return None
    num_members_C = torch.tensor([[each.num_members for each in target.per_class]])
    who = "The target" if target.num_targets == 1 else "The targets"
    found = _learnt_nothing(observation.population.task, who, target.train_accuracy, num_members_C, target.num_targets)
    return None if found is None else f"{found}: {_NOTHING}. {mend}."


def _idle_shadows(observation: Observation, shadow: ShadowSection) -> str | None:
    """Of shadow models that have learnt nothing, from which no attack can learn."""
    membership, population = observation.membership, observation.population
    if membership.leaves_one_out or not any(each.needs.shadows for each in observation.audit.attacks):
        return None
    some_KN = membership.member_KN[membership.shadows][:_MOST_COUNTED]
    num_members_KC = some_KN.double() @ population.strata.of_SN.cpu().double().T
    found = _learnt_nothing(population.task, "The shadow models", shadow.train_accuracy, num_members_KC, shadow.count)
    mend = _mend(observation.shadows)
    said = "attacks learn nothing from them, so that low figures are no evidence"
    return None if found is None or mend is None else f"{found}: {said}. {mend}."


def _mend(models: Models) -> str | None:
    """What might help models that have learnt nothing; None where they were not trained for this run."""
    if models.structures:
        return "Change the estimator or its parameters"
    return _MENDS.get(models.trained_by)


def _learnt_nothing(task: Task, who: str, utility: float, num_members_KC: Tensor, count: int) -> str | None:
    """The beginning of a sentence about models that are no better on their own members than a constant answer; None for
    others.

    Args:
        utility: mean of `count` models on their own training records.
        num_members_KC: of each class, of each model or of all together.
    """
    if not task.has_classes:
        least, what = task.nothing
        if utility > least:
            return None
        do = "does no better on its" if count == 1 else "do no better on their"
        return f"{who} {do} own training records than {what} would (train {task.utility} {show(utility)})"
    n = int(num_members_KC.sum())
    chance = float((num_members_KC.amax(1).double() / num_members_KC.sum(1)).mean())
    if utility > chance + 2 * math.sqrt(chance * (1 - chance) / n):
        return None
    classify = "classifies its" if count == 1 else "classify their"
    return (
        f"{who} {classify} own training records no better than the most frequent class would (train accuracy "
        f"{utility:.3f}, that class {chance:.3f})"
    )


def _turned_round(attacks: Sequence[AttackSection]) -> str | None:
    """Of an attack that surely ranks members below the others, if none ranks them above by as much."""
    areas = {each.name: each.overall.auc.value for each in attacks if each.overall.auc.value is not None}
    sure = {
        each.name: areas[each.name]
        for each in attacks
        if each.name in areas and 0.5 - areas[each.name] > CHANCE_ERRORS * null_error(each.overall, each.num_targets)
    }
    if not sure:
        return None
    name, area = min(sure.items(), key=lambda each: each[1])
    if 1 - area <= max(areas.values()) + 1e-9:
        return None
    return (
        f"{name} ranks members below non-members (AUC {area:.3f}): turned round, its scores tell members with an AUC "
        f"of {1 - area:.3f}, more than any attack of this run, so that low figures are no evidence. Members and "
        "non-members may differ beside the membership, or a defence may show members by what it hides."
    )


def _worse_than_the_gap(observation: Observation, signals: Signals, attacks: Sequence[AttackSection]) -> str | None:
    """Of attacks that surely tell members less well than whether their class is predicted right does alone."""
    membership = observation.membership.columns(observation.target_columns)
    areas = [each.overall.auc.value for each in attacks if each.overall.auc.value is not None]
    if not signals.task.has_classes or membership.is_trials or not areas:
        return None
    label_N = observation.population.label_N[observation.target_columns].cpu()
    sides = zip(membership.member_KN[membership.targets], membership.nonmember_KN[membership.targets], strict=True)
    lows = [
        _lowest_gap(answer_NC.cpu().argmax(-1) == label_N, member_N & scored_N, nonmember_N)
        for answer_NC, (member_N, nonmember_N), scored_N in zip(
            signals.log_probability_KANC[:, 0], sides, membership.scored_KN[membership.targets], strict=True
        )
    ]
    alone = 0.5 + sum(lows) / len(lows) / 2
    if alone <= max(areas):
        return None
    return (
        "Whether their class is predicted right tells members from non-members with an AUC of at least "
        f"{alone:.3f}, and no attack of this run reaches that, so that low figures are no evidence. Add attack=gap or "
        "attack=loss, and give the shadow models the training of the target."
    )


def _lowest_gap(is_right_N: Tensor, member_N: Tensor, nonmember_N: Tensor) -> float:
    """The lower limit of accuracy on members less that on non-members."""
    n1, n0 = int(member_N.sum()), int(nonmember_N.sum())
    if min(n1, n0) == 0:
        return -1.0
    rates = [float(is_right_N[side_N].double().mean()) for side_N in (member_N, nonmember_N)]
    return advantage_limits(rates[0] - rates[1], n1, n0, _CONFIDENCE)[0]
