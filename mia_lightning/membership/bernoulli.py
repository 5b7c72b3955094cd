"""The plan of the one-run privacy bound: each canary is in by an independent fair coin, all else always in."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership.draws import check_counts, refuse_overlap, reserve
from mia_lightning.membership.matrices import Membership
from mia_lightning.seeds import generator


@dataclass(frozen=True, kw_only=True)
class Bernoulli:
    """Canaries that are in or out of each model by fair coins (Steinke, Nasr and Jagielski 2023).

    The canaries are one random draw of the records and the same for all models; only they are evidence. Every other
    record is in every model, which everybody knows. Coin i of row k is a function of (seed, role, k, i), so no model
    gives another's coins away, and each is a block by itself.

    Attributes:
        canaries: how many records are canaries.
        validation: records reserved for early stopping, never canaries.
    """

    canaries: int = 100
    validation: int = 0
    draws_target: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_counts(None, self.validation, None)
        if type(self.canaries) is not int or self.canaries < 1:
            raise InputError(f"`membership.canaries` is {self.canaries!r}; it must be at least 1 record.")

    def fill(
        self,
        population: Population,
        *,
        num_targets: int,
        num_shadows: int,
        seed: int,
        overlap: float = 0.0,
        wants_population: bool = False,
    ) -> Membership:
        """The plan for `num_targets` targets and `num_shadows` shadows.

        No record is reserved as population, wanted or not: all that are no canaries are in every model.

        Raises:
            InputError: no record would be always in.
        """
        refuse_overlap(overlap, "bernoulli")
        N = len(population)
        if self.canaries + self.validation >= N:
            raise InputError(
                f"`membership.canaries` is {self.canaries} and `membership.validation` {self.validation}, which leaves "
                f"none of the {N} records of {population.name} to be in every model; lower them."
            )
        every_N = torch.ones(N, dtype=torch.bool)
        validation_N = reserve(every_N, self.validation, seed, "validation")
        rest = every_N.index_fill(0, validation_N, False).nonzero().squeeze(1)
        order = rest[torch.randperm(len(rest), generator=generator(seed, "membership", "canaries"))]
        canary = order[: self.canaries].sort().values
        always_N = torch.zeros(N, dtype=torch.bool).index_fill(0, order[self.canaries :], True)
        rows = [("target", t) for t in range(num_targets)] + [("shadow", k) for k in range(num_shadows)]
        member_KN = always_N.repeat(len(rows), 1)
        for row, (role, k) in enumerate(rows):
            coins = torch.rand(len(canary), generator=generator(seed, "membership", role, "coins", k))
            member_KN[row, canary] = coins < 0.5
        return Membership(
            plan="bernoulli",
            member_KN=member_KN,
            scored_KN=torch.zeros_like(member_KN).index_fill(1, canary, True),
            num_targets=num_targets,
            block_K=torch.arange(len(rows)),
            validation_N=validation_N,
            known_N=always_N,
        )
