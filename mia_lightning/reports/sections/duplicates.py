"""What a report says of equal and nearly equal records among both members and non-members."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mia_lightning.datasets.duplicates import count_across, duplicate_group
from mia_lightning.datasets.near_duplicates import PROJECTED_FEATURES, NearDuplicates, near_duplicates
from mia_lightning.datasets.population import Population
from mia_lightning.membership import Membership
from mia_lightning.metrics.roc import auc
from mia_lightning.run.scoring import AttackOutcome

_SHOWN = 4  # attacks in a sentence
_FEW_NEAR = 0.01  # the share of members of a given split with a near duplicate before low figures are no evidence


@dataclass(frozen=True, kw_only=True)
class DuplicateFindings:
    """Members of the first target that equal, or nearly equal, one of its non-members.

    Attributes:
        count: those that are also, value for value, among the non-members.
        near_count: those that nearly equal a non-member; None with too few non-members to say.
        num_compared: members compared for it: all, or a random sample.
        warnings: sentences on these and on shadow records, for the top of the report.
        broken: those of the warnings after which low figures are no evidence.
    """

    count: int
    near_count: int | None
    num_compared: int | None
    warnings: tuple[str, ...]
    broken: tuple[str, ...] = ()


def find_duplicates(
    membership: Membership, population: Population, outcomes: Sequence[AttackOutcome], *, num_real: int, seed: int
) -> DuplicateFindings:
    """Equal and nearly equal records on both sides of the first target's boundary; figures with and without them.

    Args:
        membership: over the whole record axis, which begins with the `num_real` records that targets are observed on.
        population: the same records, on the device that computes.
        seed: of projections and samples.
    """
    group_N = duplicate_group(population)
    member_N, nonmember_N = (
        (membership.member_KN[0] & membership.scored_KN[0])[:num_real],
        membership.nonmember_KN[0][:num_real],
    )
    of_target_N = group_N[:num_real]
    is_equal_N = torch.isin(of_target_N, of_target_N[member_N]) & torch.isin(of_target_N, of_target_N[nonmember_N])
    count = count_across(of_target_N, member_N, nonmember_N)
    near = near_duplicates(population.part(slice(0, num_real)), of_target_N, member_N, nonmember_N, seed=seed)
    whose = "" if membership.num_targets == 1 else " of the first target"
    warnings = []
    if count:
        warnings.append(
            f"{count:,} of {int(member_N.sum()):,} members{whose} are also, value for value, among the non-members, "
            f"which no attack can tell apart{_figures_without(is_equal_N, member_N, nonmember_N, outcomes)}."
        )
    broken = []
    if near is not None and near.count:
        warnings.append(_near_warning(near, is_equal_N, member_N, nonmember_N, outcomes, whose))
        if membership.is_given and near.count > _FEW_NEAR * int(near.compared_N.sum()):
            warnings[-1] = f"{warnings[-1].rstrip('.')}, so that low figures are no evidence."
            broken.append(warnings[-1])
    return DuplicateFindings(
        count=count,
        near_count=None if near is None else near.count,
        num_compared=None if near is None else int(near.compared_N.sum()),
        warnings=(*warnings, *_twins(membership, group_N)),
        broken=tuple(broken),
    )


def _near_warning(
    near: NearDuplicates,
    is_equal_N: Tensor,
    member_N: Tensor,
    nonmember_N: Tensor,
    outcomes: Sequence[AttackOutcome],
    whose: str,
) -> str:
    num_compared, num_members = int(near.compared_N.sum()), int(member_N.sum())
    compared = f"{num_compared:,} members{whose}"
    if num_compared < num_members:
        compared += f" that were looked at, drawn at random from {num_members:,},"
    seen = f", seen in {PROJECTED_FEATURES} random directions" if near.projected else ""
    figures = _figures_without(
        near.near_N | is_equal_N, near.compared_N, nonmember_N, outcomes, them="these and equal ones"
    )
    return (
        f"{near.count:,} of {compared} have a near duplicate among the non-members, not equal but at less than "
        f"{near.ratio:.2g} of the distance to the tenth nearest{seen}{figures}."
    )


def _figures_without(
    is_twin_N: Tensor,
    member_N: Tensor,
    nonmember_N: Tensor,
    outcomes: Sequence[AttackOutcome],
    *,
    them: str = "them",
) -> str:
    """The AUC on the first target with such records and without, of the attacks on which they tell most."""
    scored_N = member_N | nonmember_N
    clean_N = scored_N & ~is_twin_N
    if not bool((clean_N & member_N).any()) or not bool((clean_N & nonmember_N).any()):
        return f"; nothing is left without {them}"
    found = [(each.name, *_areas(each.score_TN[0], member_N, (clean_N, scored_N))) for each in outcomes]
    others = ""
    if len(found) > _SHOWN:
        found.sort(key=lambda each: -abs(each[1] - each[2]))
        differences = [abs(without - everywhere) for _, without, everywhere in found[_SHOWN:]]
        others = f"; {len(differences)} others differ by at most {max(differences):.3f}"
    figures = [
        f"{name} {without:.3f} without {them}, {everywhere:.3f} with" for name, without, everywhere in found[:_SHOWN]
    ]
    return f" (AUC of {'; '.join(figures)}{others})"


def _areas(score_N: Tensor, member_N: Tensor, of: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """The AUC on each of two parts of the records."""
    first_N, second_N = of
    return auc(score_N[first_N], member_N[first_N]), auc(score_N[second_N], member_N[second_N])


def _twins(membership: Membership, group_N: Tensor) -> list[str]:
    """Plans that keep the records of targets and shadow models apart do not see equal records; this warns of them."""
    target_N, shadow_N = (
        membership.scored_KN[membership.targets].any(0),
        membership.scored_KN[membership.shadows].any(0),
    )
    if bool((target_N & shadow_N).any()):
        return []
    twins = count_across(group_N, shadow_N, target_N)
    if not twins:
        return []
    return [
        f"{twins:,} of the {int(shadow_N.sum()):,} records of the shadow models equal, value for value, a "
        "record that is evidence about the target."
    ]
