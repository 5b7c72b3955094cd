"""The plan of the multi-run privacy bound: every target is a trial, trained with one canary or without it."""

from typing import Annotated, ClassVar

import torch
from torch import Tensor

from mia_lightning.datasets.canaries import CANARY, canary_mask
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership.draws import (
    block_numbers,
    check_whole_blocks,
    population_size,
    refuse_overlap,
    reserve,
)
from mia_lightning.membership.matrices import Membership
from mia_lightning.membership.plan import Plan, Wanted
from mia_lightning.seeds import generator
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast0, AtLeast1, Place


@settings("membership")
class OneCanary(Plan):
    """One record, the canary, is in or out of each model by a coin; the other training records are the same for all.

    A trial is one independently trained target: a fair coin, a function of (seed, t) alone, puts the canary in or out
    of target t. The shadow models, from which attacks learn their thresholds, are further trials in complementary
    pairs: one with the canary and one without it. Only the canary is evidence. The attacker knows which `train_size`
    records are in every model and which are in none; test accuracy is measured on the latter.

    Attributes:
        train_size: records that are in every model, beside the canary; None for half of all.
        record: row of the canary in the data; None for the record of the group "canary" where the population has one
            (`mia_lightning.datasets.canaries`), else for a random one.
        validation: records reserved for early stopping.
        population: records reserved for attacks; None for a tenth where an attack needs them, else none.
    """

    train_size: Annotated[AtLeast1 | None, Place("dataset.train_size")] = None
    record: AtLeast0 | None = None
    validation: AtLeast0 = 0
    population: AtLeast0 | None = None
    takes_made_records: ClassVar[bool] = False

    def fill(self, population: Population, wanted: Wanted) -> Membership:
        """The plan for `num_targets` trials and `num_shadows` shadow models.

        Raises:
            InputError: an odd number of shadow models, no such record, another canary than that of the population, or
                no record left that is in no model.
        """
        num_targets, num_shadows, seed = wanted.num_targets, wanted.num_shadows, wanted.seed
        refuse_overlap(wanted.overlap, "one_canary")
        check_whole_blocks(num_shadows, 2, "one_canary")
        N = len(population)
        canary = self._canary(population, seed)
        num_population = population_size(self.population, wanted.reserve, N)
        size = N // 2 if self.train_size is None else self.train_size
        most = N - 2 - self.validation - num_population
        if not 1 <= size <= most:
            raise InputError(
                f"`dataset.train_size` is {size}, but of the {N} records of {population.name} at most {max(0, most)} "
                "can be in every model: beside them and those for validation or population come the canary and at "
                "least one record that is in no model, for the test accuracy."
            )
        rest_N = torch.ones(N, dtype=torch.bool)
        rest_N[canary] = False
        validation_N = reserve(rest_N, self.validation, seed, "validation")
        rest_N[validation_N] = False
        population_N = reserve(rest_N, num_population, seed, "population")
        rest_N[population_N] = False
        always_N = torch.zeros_like(rest_N).index_fill(0, reserve(rest_N, size, seed, "one canary"), True)
        member_KN = always_N.repeat(num_targets + num_shadows, 1)
        member_KN[:num_targets, canary] = _coins(num_targets, seed)
        member_KN[num_targets:, canary] = torch.arange(num_shadows) % 2 == 0
        return Membership(
            plan_name=self.name,
            is_trials=True,
            member_KN=member_KN,
            scored_KN=torch.zeros_like(member_KN).index_fill(1, torch.tensor([canary]), True),
            num_targets=num_targets,
            block_K=block_numbers(num_targets, num_shadows, 2),
            validation_N=validation_N,
            population_N=population_N,
            known_N=always_N,
        )

    def _canary(self, population: Population, seed: int) -> int:
        """The row of the canary."""
        N = len(population)
        if self.record is not None and self.record >= N:
            raise InputError(f"`membership.record` is {self.record}; {population.name} has the records 0 to {N - 1}.")
        canary_N = canary_mask(population)
        if canary_N is None:
            every_N = torch.ones(N, dtype=torch.bool)
            return int(reserve(every_N, 1, seed, "canary")) if self.record is None else self.record
        places = canary_N.nonzero().flatten().tolist()
        if len(places) != 1:
            raise InputError(
                f"`canary.count` is {len(places)}, and under membership=one_canary there is one; set it to 1, or to 0 "
                "for a natural record."
            )
        if self.record not in (None, places[0]):
            raise InputError(
                f"`membership.record` is {self.record}, but the record of the group {CANARY!r} of {population.name} is "
                f"{places[0]}; set one of them: `canary.count` to 0, or `membership.record` to null."
            )
        return int(places[0])


def _coins(count: int, seed: int) -> Tensor:
    """Fair coins, bool `[count]`, each a function of (seed, its number)."""
    draws = [torch.rand(1, generator=generator(seed, "membership", "target", "coin", t)) for t in range(count)]
    return torch.cat([torch.empty(0), *draws]) < 0.5
