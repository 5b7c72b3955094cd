"""The plan of a team with a trained model: what it was trained on is known."""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership.draws import (
    about_reserved,
    block_numbers,
    blocks,
    check_whole_blocks,
    pairs_of_size,
    population_size,
    refuse_overlap,
    reserve,
)
from mia_lightning.membership.files import from_mask_or_rows, read_members
from mia_lightning.membership.matrices import Membership
from mia_lightning.membership.plan import Plan, Wanted
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast0, PathLike
from mia_lightning.settings.words import Words


@settings("membership")
class Given(Plan):
    """The target's members and non-members are known: the case of a team with a trained model.

    They come from `path`, or, where that is None, from the population's own member column (`dataset=csv
    dataset.member_column=...` or `dataset=npz dataset.member_key=...`), or from `member_N`.

    Attributes:
        path: `.npy` with a bool mask over the records or with member indices; `.csv` or `.txt` with a header
            `row,member` (0 or 1; records that are not listed are neither) or with row numbers alone, one a
            line, header `row` or none (listed records are members, all others non-members). Rows count from 0. Where
            records have names, as the files of `dataset=images` have, and the records of a table by
            `dataset.id_column`, these may stand in place of the numbers (header `file`, `id` or `id,member`).
        member_N: the same from Python: a bool mask, or int64 indices of the members.
        shadow_source: `same` (shadows are complementary pairs over the target's records) or `pool` (pairs over
            the records that are neither member nor non-member).
        validation: records reserved for early stopping, drawn from those the shadows draw from.
        population: records reserved for attacks, from those that are neither member nor non-member where these are
            enough and of no other use, else like `validation`; None for a tenth where an attack needs them, else none.
    """

    path: PathLike | None = None
    member_N: Annotated[Any, Words("a mask or indices of records")] = field(default=None, repr=False)
    shadow_source: Literal["same", "pool"] = "same"
    validation: AtLeast0 = 0
    population: AtLeast0 | None = None
    draws_target: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.path is not None and self.member_N is not None:
            raise InputError("`membership.path` and `member_N` are both given; give one of them.")

    @property
    def reads_members(self) -> bool:
        return self.path is None and self.member_N is None

    def look_ahead(self, record_names: Sequence[str]) -> None:
        if self.path is not None:
            read_members(Path(self.path), len(record_names), record_names)

    def fill(self, population: Population, wanted: Wanted) -> Membership:
        """The plan; the targets (more than one only if trained here) share the given members.

        Raises:
            InputError: no source of membership, a file that cannot be read as one, no members or no
                non-members, or too few records for the shadows.
        """
        num_targets, num_shadows, seed = wanted.num_targets, wanted.num_shadows, wanted.seed
        check_whole_blocks(num_shadows, 2, "given")
        refuse_overlap(wanted.overlap, "given")
        N = len(population)
        member_N, listed_N = self._read(population)
        nonmember_N = listed_N & ~member_N
        for group, mask in (("members", member_N), ("non-members", nonmember_N)):
            if not bool(mask.any()):
                raise InputError(
                    f"{self._origin(population)} gives no {group} among the {N} records of {population.name}, so no "
                    "attack can be measured; list records of both kinds."
                )
        source_N = listed_N if self.shadow_source == "same" else ~listed_N
        # Reserved records are never members: the target did train on those. Records of no other use go first.
        candidate_N = source_N & ~member_N
        num_population = population_size(self.population, wanted.reserve, int(candidate_N.sum()))
        spare_N = ~(listed_N | source_N)
        from_spare = int(spare_N.sum()) >= num_population
        num_reserved = self.validation + (0 if from_spare else num_population)
        if int(source_N.sum()) - num_reserved < 2:
            raise InputError(
                f"`membership.shadow_source` is {self.shadow_source}, which leaves {int(source_N.sum())} records for "
                f"the shadow models, of which {num_reserved} (never members) are for validation or population; shadow "
                "models need at least 2: list fewer records for shadow_source=pool, or lower `membership.validation`."
            )
        if self.shadow_source == "same" and num_reserved >= int(nonmember_N.sum()):
            raise InputError(
                f"{about_reserved(self.validation, num_reserved - self.validation)}, but there are "
                f"{int(nonmember_N.sum())} non-members to take these records from, of which at least one must be left; "
                "lower it."
            )
        validation_N = reserve(candidate_N, self.validation, seed, "validation")
        candidate_N = candidate_N.index_fill(0, validation_N, False)
        population_N = reserve(spare_N if from_spare else candidate_N, num_population, seed, "population")
        reserved_N = torch.cat([validation_N, population_N])
        source_N = source_N.index_fill(0, reserved_N, False)
        listed_N = listed_N.index_fill(0, reserved_N, False)
        shadow_KN, remarks = self._shadows(source_N, int(member_N.sum()), wanted)
        return Membership(
            plan_name=self.name,
            member_KN=torch.cat([member_N.expand(num_targets, N), shadow_KN]),
            scored_KN=torch.cat([listed_N.expand(num_targets, N), source_N.expand(num_shadows, N)]),
            num_targets=num_targets,
            block_K=block_numbers(num_targets, num_shadows, 2),
            validation_N=validation_N,
            population_N=population_N,
            origin=self._origin(population),
            remarks=remarks,
        )

    def _shadows(self, source_N: Tensor, size: int, wanted: Wanted) -> tuple[Tensor, tuple[str, ...]]:
        """The rows of the shadow models, bool `[K, N]`, and what is to be said of them.

        Args:
            size: how many records the target trained on.
        """
        num_pairs, num_source = wanted.num_shadows // 2, int(source_N.sum())
        halves_KN = blocks(source_N, num_pairs, 2, wanted.seed, "shadow").flatten(0, 1)
        if not wanted.as_target or size in (num_source // 2, num_source - num_source // 2) or num_pairs == 0:
            return halves_KN, ()
        if size < num_source:
            sized_KN = pairs_of_size(source_N, num_pairs, size, wanted.seed, "shadow").flatten(0, 1)
            in_N = sized_KN[:, source_N].sum(0)
            if int(in_N.min()) >= 2 and int(in_N.max()) <= len(sized_KN) - 2:
                return sized_KN, ()
        remark = (
            f"The target trained on {size} records, and each shadow model trains on half of {num_source}, since with "
            f"so many as the target some records would be in or out of fewer than two of {wanted.num_shadows} models"
            + ("; raise `shadow.count` for equal sizes." if size < num_source else ".")
        )
        return halves_KN, (remark,)

    def _origin(self, population: Population) -> str:
        if self.path is not None:
            return f"`membership.path` {self.path}"
        if self.member_N is not None:
            return "`member_N`"
        return f"The {'member column' if population.origin is None else 'training set'} of {population.name}"

    def _read(self, population: Population) -> tuple[Tensor, Tensor]:
        """Two bool masks: the members, and the records listed as either."""
        N = len(population)
        if self.path is not None:
            member, listed = read_members(Path(self.path), N, population.record_names)
        elif self.member_N is not None:
            member, listed = from_mask_or_rows(self.member_N, N, "`member_N`")
        elif population.member_N is not None:
            member, listed = population.member_N.cpu(), torch.ones(N, dtype=torch.bool)
        else:
            raise InputError(
                f"membership=given needs to know the members, but {population.name} has no member column; set "
                "`membership.path` to a file of rows, name the column by `dataset.member_column` or "
                "`dataset.member_key`, or give held-out records as `nonmembers` of Population.of."
            )
        return member, listed
