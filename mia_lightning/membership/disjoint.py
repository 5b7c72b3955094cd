"""The plan of Shokri et al. (2017): target and shadow models share no record."""

from typing import Annotated

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership.draws import about_reserved, deal, population_size, reserve
from mia_lightning.membership.matrices import Membership
from mia_lightning.membership.plan import Plan, Wanted
from mia_lightning.seeds import generator
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast0, AtLeast1, Place


@settings("membership")
class Disjoint(Plan):
    """Target members, target non-members and the shadow pool are disjoint (Shokri et al. 2017, section V).

    Each target draws its members from the same records, the rest of which are its non-members, equal in number.
    Each shadow draws its own members and non-members, equal in number, from the pool: as many as the target has
    where the pool holds twice that, else half the pool.

    Attributes:
        train_size: training records of a target; None for a quarter of the records.
        validation: records reserved for early stopping.
        population: records reserved for attacks; None for a tenth where an attack needs them, else none.
    """

    train_size: Annotated[AtLeast1 | None, Place("dataset.train_size")] = None
    validation: AtLeast0 = 0
    population: AtLeast0 | None = None

    def fill(self, population: Population, wanted: Wanted) -> Membership:
        """The plan for `num_targets` targets and `num_shadows` shadows.

        With `overlap`, the attacker knows that share of the targets' members and non-members: these records join the
        pool, and are no evidence about a target, since the attacker need not infer what is known.

        Raises:
            InputError: the population is too small for the sizes, or the overlap leaves no evidence.
        """
        num_targets, num_shadows, seed = wanted.num_targets, wanted.num_shadows, wanted.seed
        N = len(population)
        num_population = population_size(self.population, wanted.reserve, N)
        available = N - self.validation - num_population
        size = available // 4 if self.train_size is None else self.train_size
        pool_size = available - 2 * size
        if available < 4:
            raise InputError(
                f"{about_reserved(self.validation, num_population)}, which leaves {max(0, available)} of the {N} "
                f"records of {population.name}; membership=disjoint needs at least 4: a member and a non-member of the "
                "target, and 2 for the shadow models."
            )
        if pool_size < 2:
            largest = (available - 2) // 2
            raise InputError(
                f"`dataset.train_size` is {size}, but the {N} records of {population.name} (of which {N - available} "
                f"are for validation or population) allow at most {largest}: the target needs {size} members and as "
                "many non-members, and the shadow models at least 2 other records."
            )
        every_N = torch.ones(N, dtype=torch.bool)
        validation_N = reserve(every_N, self.validation, seed, "validation")
        rest_N = every_N.index_fill(0, validation_N, False)
        population_N = reserve(rest_N, num_population, seed, "population")
        rest = rest_N.index_fill(0, population_N, False).nonzero().squeeze(1)
        order = rest[torch.randperm(available, generator=generator(seed, "membership", "disjoint"))]
        evidence, pool = order.split([2 * size, pool_size])
        member_KN = torch.zeros(num_targets + num_shadows, N, dtype=torch.bool)
        scored_KN = torch.zeros_like(member_KN)
        for t in range(num_targets):
            deal(member_KN[t], scored_KN[t], evidence, size, seed, "target", t)
        known_N = _known(member_KN[:num_targets], scored_KN[:num_targets], wanted.overlap, seed)
        scored_KN[:num_targets, known_N] = False
        pool = torch.cat([pool, known_N.nonzero().squeeze(1)])
        pool_size = len(pool)
        shadow_size = min(size, pool_size // 2)
        for k in range(num_shadows):
            row = num_targets + k
            deal(member_KN[row], scored_KN[row], pool, shadow_size, seed, "shadow", k)
        assert not bool((scored_KN[:num_targets].any(0) & scored_KN[num_targets:].any(0)).any())
        remarks: tuple[str, ...] = ()
        if shadow_size < size:
            remarks = (
                f"The shadow pool holds {pool_size} records, less than twice the target's {size}, so each shadow model "
                f"trains on {shadow_size}; lower `dataset.train_size` to {available // 4} for shadows of the target's "
                "size.",
            )
        return Membership(
            plan_name=self.name,
            member_KN=member_KN,
            scored_KN=scored_KN,
            num_targets=num_targets,
            block_K=torch.arange(num_targets + num_shadows),
            validation_N=validation_N,
            population_N=population_N,
            known_N=known_N if wanted.overlap else None,
            remarks=remarks,
        )


def _known(member_TN: Tensor, scored_TN: Tensor, overlap: float, seed: int) -> Tensor:
    """Bool: the share `overlap` of the first target's members, and the same of its non-members."""
    known_N = torch.zeros_like(member_TN[0])
    for side, mask_N in (("in", member_TN[0]), ("out", scored_TN[0] & ~member_TN[0])):
        index = mask_N.nonzero().squeeze(1)
        count = round(overlap * len(index))
        if count == len(index):
            raise InputError(
                f"`shadow.overlap` is {overlap}, which leaves none of the target's {len(index)} "
                f"{'members' if side == 'in' else 'non-members'} to be inferred; lower it."
            )
        known_N[index[torch.randperm(len(index), generator=generator(seed, "membership", "overlap", side))[:count]]] = (
            True
        )
    return known_N
