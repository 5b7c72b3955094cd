"""What a report says of records that are equal, value for value, and lie on both sides of a boundary."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mia_lightning.datasets.duplicates import count_across
from mia_lightning.membership import Membership
from mia_lightning.metrics.roc import auc
from mia_lightning.scoring import AttackOutcome


def duplicate_warnings(
    plan: Membership, group_N: Tensor, outcomes: Sequence[AttackOutcome], num_real: int
) -> tuple[int, list[str]]:
    """How many members of the first target are also among its non-members, and sentences on this and on shadow records.

    Args:
        plan: over the whole record axis, which begins with the `num_real` records that targets are observed on.
        group_N: int64; records are equal where their numbers are.
    """
    member_N, nonmember_N = (plan.member_KN[0] & plan.scored_KN[0])[:num_real], plan.nonmember_KN[0][:num_real]
    of_target_N = group_N[:num_real]
    count = count_across(of_target_N, member_N, nonmember_N)
    warnings = []
    if count:
        warnings.append(
            f"{count} of {int(member_N.sum())} members are also, value for value, among the non-members, which no "
            f"attack can tell apart{_figures_without(of_target_N, member_N, nonmember_N, outcomes)}."
        )
    return count, [*warnings, *_twins(plan, group_N)]


def _figures_without(group_N: Tensor, member_N: Tensor, nonmember_N: Tensor, outcomes: Sequence[AttackOutcome]) -> str:
    """The AUC of each attack on the first target, with such records and without."""
    is_clean_N = ~(torch.isin(group_N, group_N[member_N]) & torch.isin(group_N, group_N[nonmember_N]))
    scored_N = member_N | nonmember_N
    clean_N = scored_N & is_clean_N
    if not bool((clean_N & member_N).any()) or not bool((clean_N & nonmember_N).any()):
        return "; nothing is left without them"
    figures = [
        f"{each.name} {auc(each.score_TN[0][clean_N], member_N[clean_N]):.3f} without them, "
        f"{auc(each.score_TN[0][scored_N], member_N[scored_N]):.3f} with"
        for each in outcomes
    ]
    return f" (AUC of {'; '.join(figures)})"


def _twins(plan: Membership, group_N: Tensor) -> list[str]:
    """Plans that keep targets and shadow models apart do so record by record; equal records are told."""
    target_N, shadow_N = plan.scored_KN[plan.targets].any(0), plan.scored_KN[plan.shadows].any(0)
    if bool((target_N & shadow_N).any()):
        return []
    twins = count_across(group_N, shadow_N, target_N)
    if not twins:
        return []
    return [
        f"{twins} of the {int(shadow_N.sum())} records of the shadow models equal, value for value, a record that is "
        "evidence about the target."
    ]
