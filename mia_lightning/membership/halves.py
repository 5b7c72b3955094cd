"""The plan of LiRA and RMIA: blocks of models that partition one population, by default complementary pairs."""

from typing import ClassVar

import torch

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership.draws import (
    about_reserved,
    block_numbers,
    blocks,
    check_whole_blocks,
    population_size,
    refuse_overlap,
    reserve,
)
from mia_lightning.membership.matrices import Membership
from mia_lightning.membership.plan import Plan, Wanted
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast0, AtLeast1


@settings("membership")
class Halves(Plan):
    """Blocks of b rows that partition the records (b = 2: Carlini et al. 2022, section V; Zarifzadeh et al. 2024).

    Block j, a function of (seed, j) alone, splits the records at random into b rows that differ in size by at most
    one. Each target is the first row of a block of its own; the other rows of that block are left out, since they would
    reveal the target's members by counting. The shadow models are whole blocks, so that every record, member of the
    target or not, is in exactly one of b of them.

    Attributes:
        train_size: training records of a model, to the nearest whole number of models in a block; None for a half.
        validation: records reserved for early stopping.
        population: records reserved for attacks; None for a tenth where an attack needs them, else none.
    """

    train_size: AtLeast1 | None = None
    validation: AtLeast0 = 0
    population: AtLeast0 | None = None
    shares_records: ClassVar[bool] = True

    def fill(self, population: Population, wanted: Wanted) -> Membership:
        """The plan for `num_targets` targets and `num_shadows` shadows.

        Raises:
            InputError: shadows that are no whole number of blocks, fewer than 2 records beside the reserved ones, or
                too few of them for `train_size`.
        """
        num_targets, num_shadows, seed = wanted.num_targets, wanted.num_shadows, wanted.seed
        N = len(population)
        num_population = population_size(self.population, wanted.reserve, N)
        left = N - self.validation - num_population
        if left < 2:
            raise InputError(
                f"{about_reserved(self.validation, num_population)}, which leaves {max(0, left)} of the {N} records of "
                f"{population.name}; leave at least 2."
            )
        width = self._width(left, population.name)
        check_whole_blocks(num_shadows, width, "halves")
        refuse_overlap(wanted.overlap, "halves")
        every_N = torch.ones(N, dtype=torch.bool)
        validation_N = reserve(every_N, self.validation, seed, "validation")
        rest_N = every_N.index_fill(0, validation_N, False)
        population_N = reserve(rest_N, num_population, seed, "population")
        evidence_N = rest_N.index_fill(0, population_N, False)
        target_TN = blocks(evidence_N, num_targets, width, seed, "target")[:, 0]
        shadow_KN = blocks(evidence_N, num_shadows // width, width, seed, "shadow").flatten(0, 1)
        return Membership(
            plan_name=self.name,
            member_KN=torch.cat([target_TN, shadow_KN]),
            scored_KN=evidence_N.expand(num_targets + num_shadows, N),
            num_targets=num_targets,
            block_K=block_numbers(num_targets, num_shadows, width),
            validation_N=validation_N,
            population_N=population_N,
        )

    def _width(self, num_records: int, name: str) -> int:
        """b, the number of models that partition the records."""
        if self.train_size is None:
            return 2
        if 2 * self.train_size > num_records:
            raise InputError(
                f"`membership.train_size` is {self.train_size}, but the {num_records} records of {name} that are not "
                f"reserved allow at most {num_records // 2}: a model needs at least as many non-members as members."
            )
        return round(num_records / self.train_size)
