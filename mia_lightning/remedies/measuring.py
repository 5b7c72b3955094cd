"""What one way of training achieves: utility, and what each attack finds, with the contributions of records."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mia_lightning.membership import Membership
from mia_lightning.metrics.intervals.crossed import auc_contributions, share_contributions
from mia_lightning.metrics.intervals.crossed_thresholds import tpr_contributions
from mia_lightning.metrics.intervals.paired import Part, jackknifed, summed
from mia_lightning.run.observation import Observation
from mia_lightning.run.scoring import AttackOutcome, run_attacks
from mia_lightning.seeds import generator
from mia_lightning.tasks import Task
from mia_lightning.training.signals import Signals

NUM_GROUPS = 100  # of records; as many groups as records where there are fewer
MAX_FPRS = (0.001, 0.01)


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """What one way of training achieves.

    Attributes:
        utility: on the non-members of each target (`Task.utility`).
        train_utility: on its members, a mean.
        auc: by attack.
        tpr: by false-positive rate ("0.01"), by attack; without the attacks whose TPR has no contributions of records.
        missing: by false-positive rate, why the first of those attacks has none.
        left_out: numbers of the models that were no longer finite, with their blocks.
    """

    utility: Part
    train_utility: float
    auc: Mapping[str, Part]
    tpr: Mapping[str, Mapping[str, Part]]
    missing: Mapping[str, str]
    left_out: tuple[int, ...]


def measured(observation: Observation) -> Measured:
    """What the attacks of the audit find of the targets, by the attacker who knows its defences."""
    signals, outcomes = run_attacks(observation)
    membership = observation.membership
    member_TN, scored_TN = (each[membership.targets] for each in (membership.member_KN, membership.scored_KN))
    group_N, count = _groups(member_TN.shape[1], observation.engine.seed)
    auc: dict[str, Part] = {}
    tpr: dict[str, dict[str, Part]] = {f"{rate:g}": {} for rate in MAX_FPRS}
    missing: dict[str, str] = {}
    for outcome in _informed(outcomes):
        value_T, part_TN = auc_contributions(outcome.score_TN, member_TN, scored_TN)
        auc[outcome.name] = Part(value_T=value_T, part_TG=summed(part_TN, group_N, count))
        for rate in MAX_FPRS:
            found = tpr_contributions(outcome.score_TN, member_TN, scored_TN, rate)
            if isinstance(found, str):
                missing.setdefault(f"{rate:g}", found.removeprefix("none: "))
                continue
            tpr[f"{rate:g}"][outcome.name] = Part(value_T=found.value_T, part_TG=summed(found.part_TN, group_N, count))
    label_N = observation.population.label_N.cpu()
    task = observation.population.task
    utility = _utility(task, signals, label_N, membership.unseen_KN[membership.targets], group_N, count)
    return Measured(
        utility=utility,
        train_utility=_train_utility(task, signals, label_N, membership),
        auc=auc,
        tpr=tpr,
        missing=missing,
        left_out=observation.left_out,
    )


def _informed(outcomes: list[AttackOutcome]) -> list[AttackOutcome]:
    """The attackers who know the defence; all, where there is no second one."""
    return [each for each in outcomes if not each.name.endswith("-unaware")]


def _groups(num_records: int, seed: int) -> tuple[Tensor, int]:
    """The group of each record, int64 `[N]`, and their number."""
    count = min(NUM_GROUPS, num_records)
    return torch.randperm(num_records, generator=generator(seed, "remedies", "groups")) % count, count


def _utility(
    task: Task, signals: Signals, label_N: Tensor, unseen_TN: Tensor, group_N: Tensor, num_groups: int
) -> Part:
    answers = [each_ANC[0].cpu() for each_ANC in signals.log_probability_KANC]
    if task.has_classes:
        is_correct_TN = torch.stack([answer_NC.argmax(-1) == label_N for answer_NC in answers])
        value_T, part_TN = share_contributions(is_correct_TN, unseen_TN)
        return Part(value_T=value_T, part_TG=summed(part_TN, group_N, num_groups))
    rows = [unseen_TN, *(unseen_TN & (group_N != group) for group in range(num_groups))]
    value_RT = torch.tensor(
        [
            [task.utility_of(answer_NC[of_N], label_N[of_N]) for answer_NC, of_N in zip(answers, of_TN, strict=True)]
            for of_TN in rows
        ],
        dtype=torch.float64,
    )
    return jackknifed(value_RT[0], value_RT[1:])


def _train_utility(task: Task, signals: Signals, label_N: Tensor, membership: Membership) -> float:
    rows = zip(signals.log_probability_KANC, membership.member_KN[membership.targets], strict=True)
    values = [task.utility_of(answer_ANC[0].cpu()[member_N], label_N[member_N]) for answer_ANC, member_N in rows]
    return sum(values) / len(values)
