"""The plan of LiRA and RMIA: complementary pairs of models over one population."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership.draws import check_counts, check_even, pair_blocks, pairs, refuse_overlap, reserve
from mia_lightning.membership.matrices import Membership


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Complementary pairs of rows over all records (Carlini et al. 2022, section V; Zarifzadeh et al. 2024).

    Pair j, a function of (seed, j) alone, splits the records into two rows of floor(N / 2) and ceil(N / 2)
    members. The targets are first rows of pairs of their own; their complements are left out, since the shadow
    models would give the target's membership away by counting. The shadows are whole pairs, so every record is
    in exactly half of them, member of the target or not.

    Attributes:
        validation: records reserved for early stopping.
    """

    validation: int = 0
    draws_target: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_counts(None, self.validation)

    def fill(
        self, population: Population, *, num_targets: int, num_shadows: int, seed: int, overlap: float = 0.0
    ) -> Membership:
        """The plan for `num_targets` targets and `num_shadows` shadows.

        Raises:
            InputError: an odd number of shadows, or fewer than 2 records beside the validation records.
        """
        N = len(population)
        if N - self.validation < 2:
            raise InputError(
                f"`membership.validation` is {self.validation}, which leaves {max(0, N - self.validation)} of the {N} "
                f"records of {population.name}; leave at least 2."
            )
        check_even(num_shadows, "halves")
        refuse_overlap(overlap, "halves")
        every_N = torch.ones(N, dtype=torch.bool)
        validation_N = reserve(every_N, self.validation, seed)
        evidence_N = every_N.index_fill(0, validation_N, False)
        target_TN = pairs(evidence_N, num_targets, seed, "target")[:, 0]
        shadow_KN = pairs(evidence_N, num_shadows // 2, seed, "shadow").flatten(0, 1)
        return Membership(
            plan="halves",
            member_KN=torch.cat([target_TN, shadow_KN]),
            scored_KN=evidence_N.expand(num_targets + num_shadows, N),
            num_targets=num_targets,
            block_K=pair_blocks(num_targets, num_shadows),
            validation_N=validation_N,
        )
