"""The plan of Shokri et al. (2017): target and shadow models share no record."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership.draws import check_counts, reserve
from mia_lightning.membership.matrices import Membership
from mia_lightning.seeds import generator


@dataclass(frozen=True, kw_only=True)
class Disjoint:
    """Target members, target non-members and the shadow pool are disjoint (Shokri et al. 2017, section V).

    Each target draws its members from the same records, the rest of which are its non-members, equal in number.
    Each shadow draws its own members and non-members, equal in number, from the pool: as many as the target has
    where the pool holds twice that, else half the pool.

    Attributes:
        train_size: training records of a target; None for a quarter of the records.
        validation: records reserved for early stopping.
    """

    train_size: int | None = None
    validation: int = 0
    draws_target: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_counts(self.train_size, self.validation)

    def fill(self, population: Population, *, num_targets: int, num_shadows: int, seed: int) -> Membership:
        """The plan for `num_targets` targets and `num_shadows` shadows.

        Raises:
            InputError: the population is too small for the sizes.
        """
        N = len(population)
        available = N - self.validation
        size = available // 4 if self.train_size is None else self.train_size
        pool_size = available - 2 * size
        if available < 4:
            raise InputError(
                f"`membership.validation` is {self.validation}, which leaves {max(0, available)} of the {N} records of "
                f"{population.name}; membership=disjoint needs at least 4: a member and a non-member of the target, "
                "and 2 for the shadow models."
            )
        if pool_size < 2:
            largest = (available - 2) // 2
            raise InputError(
                f"`dataset.train_size` is {size}, but the {N} records of {population.name} (of which {self.validation} "
                f"are for validation) allow at most {largest}: the target needs {size} members and as many "
                "non-members, and the shadow models at least 2 other records."
            )
        every_N = torch.ones(N, dtype=torch.bool)
        validation_N = reserve(every_N, self.validation, seed)
        rest = every_N.index_fill(0, validation_N, False).nonzero().squeeze(1)
        order = rest[torch.randperm(available, generator=generator(seed, "membership", "disjoint"))]
        evidence, pool = order.split([2 * size, pool_size])
        shadow_size = min(size, pool_size // 2)
        member_KN = torch.zeros(num_targets + num_shadows, N, dtype=torch.bool)
        scored_KN = torch.zeros_like(member_KN)
        rows = [("target", t, evidence, size) for t in range(num_targets)]
        rows += [("shadow", k, pool, shadow_size) for k in range(num_shadows)]
        for row, (role, k, source, row_size) in enumerate(rows):
            drawn = source[torch.randperm(len(source), generator=generator(seed, "membership", role, k))]
            member_KN[row, drawn[:row_size]] = True
            scored_KN[row, drawn[: 2 * row_size]] = True
        assert not bool((scored_KN[:num_targets].any(0) & scored_KN[num_targets:].any(0)).any())
        remarks: tuple[str, ...] = ()
        if shadow_size < size:
            remarks = (
                f"The shadow pool holds {pool_size} records, less than twice the target's {size}, so each shadow model "
                f"trains on {shadow_size}; lower `dataset.train_size` to {available // 4} for shadows of the target's "
                "size.",
            )
        return Membership(
            plan="disjoint",
            member_KN=member_KN,
            scored_KN=scored_KN,
            num_targets=num_targets,
            block_K=torch.arange(num_targets + num_shadows),
            validation_N=validation_N,
            remarks=remarks,
        )
