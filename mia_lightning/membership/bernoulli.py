"""The plan of the one-run privacy bound: a fair coin puts each canary in or out; all other records are in."""

import torch
from torch import Tensor

from mia_lightning.datasets.canaries import CANARY, canary_mask
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership.draws import refuse_overlap, reserve
from mia_lightning.membership.matrices import Membership
from mia_lightning.membership.plan import Plan, Wanted
from mia_lightning.seeds import generator
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast0, AtLeast1


@settings("membership")
class Bernoulli(Plan):
    """Canaries that are in or out of each model by fair coins (Steinke, Nasr and Jagielski 2023).

    The canaries are the same for all models: the records of the group "canary" where the population has one
    (`mia_lightning.datasets.canaries`), else one random draw. Only they are evidence. Every other record is in every
    model, as the attacker knows. Coin i of row k is a function of (seed, role, k, i), so that no model reveals coins
    of another one, and each model is a block by itself.

    Attributes:
        canaries: their number.
        validation: records reserved for early stopping, never canaries.
    """

    canaries: AtLeast1 = 100
    validation: AtLeast0 = 0

    def fill(self, population: Population, wanted: Wanted) -> Membership:
        """The plan for `num_targets` targets and `num_shadows` shadows.

        No record is reserved as population, also where one is wanted: all records but the canaries are in every model.

        Raises:
            InputError: no record would be in every model, or the group "canary" has another number of records.
        """
        num_targets, num_shadows, seed = wanted.num_targets, wanted.num_shadows, wanted.seed
        refuse_overlap(wanted.overlap, "bernoulli")
        N = len(population)
        if self.canaries + self.validation >= N:
            raise InputError(
                f"`membership.canaries` is {self.canaries} and `membership.validation` {self.validation}, which leaves "
                f"none of the {N} records of {population.name} to be in every model; lower them."
            )
        validation_N, canary_N = self._reserved(population, seed)
        canary = canary_N.nonzero().squeeze(1)
        always_N = (~canary_N).index_fill(0, validation_N, False)
        rows = [("target", t) for t in range(num_targets)] + [("shadow", k) for k in range(num_shadows)]
        member_KN = always_N.repeat(len(rows), 1)
        for row, (role, k) in enumerate(rows):
            coins = torch.rand(len(canary), generator=generator(seed, "membership", role, "coins", k))
            member_KN[row, canary] = coins < 0.5
        return Membership(
            plan_name=self.name,
            has_coins=True,
            member_KN=member_KN,
            scored_KN=torch.zeros_like(member_KN).index_fill(1, canary, True),
            num_targets=num_targets,
            block_K=torch.arange(len(rows)),
            validation_N=validation_N,
            known_N=always_N,
        )

    def _reserved(self, population: Population, seed: int) -> tuple[Tensor, Tensor]:
        """Indices of the validation records, and which records are canaries, bool `[N]`."""
        every_N = torch.ones(len(population), dtype=torch.bool)
        canary_N = canary_mask(population)
        if canary_N is None:
            validation_N = reserve(every_N, self.validation, seed, "validation")
            rest_N = every_N.index_fill(0, validation_N, False)
            canary = reserve(rest_N, self.canaries, seed, "canaries")
            return validation_N, torch.zeros_like(every_N).index_fill(0, canary, True)
        if int(canary_N.sum()) != self.canaries:
            raise InputError(
                f"`membership.canaries` is {self.canaries}, but {int(canary_N.sum())} records of {population.name} are "
                f"of the group {CANARY!r}; set it to that number."
            )
        return reserve(~canary_N, self.validation, seed, "validation"), canary_N
