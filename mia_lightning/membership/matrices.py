"""Who trained on what: two boolean matrices, and nothing else keeps a second copy of that truth.

`member_KN[k, i]`: model k trained on record i. `scored_KN[k, i]`: record i is evidence about model k. The
non-members of model k are `scored & ~member`; records reserved for validation are false in both.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population


@dataclass(frozen=True, eq=False, kw_only=True)
class Membership:
    """A filled-in plan. The first `num_targets` rows are targets, the others shadow models.

    Attributes:
        plan: its name.
        member_KN, scored_KN: bool, on the CPU; a member is always scored.
        num_targets: T.
        block_K: int64; models of one block (a complementary pair) must be left out together, since the others
            would give away by counting what one of them trained on.
        validation_N: int64 indices of the records for early stopping, of no model's evidence.
        remarks: sentences on where the plan departs from what was asked.
    """

    plan: str
    member_KN: Tensor
    scored_KN: Tensor
    num_targets: int
    block_K: Tensor
    validation_N: Tensor
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.member_KN.dtype == self.scored_KN.dtype == torch.bool
        assert self.member_KN.shape == self.scored_KN.shape
        assert self.block_K.shape == self.member_KN.shape[:1]
        assert not bool((self.member_KN & ~self.scored_KN).any()), "a member that is not scored"
        assert not bool(self.scored_KN[:, self.validation_N].any()), "a validation record is evidence"

    @property
    def targets(self) -> slice:
        return slice(0, self.num_targets)

    @property
    def shadows(self) -> slice:
        return slice(self.num_targets, None)

    @property
    def nonmember_KN(self) -> Tensor:
        return self.scored_KN & ~self.member_KN

    def keep_shadows(self, kept_K: Tensor) -> "Membership":
        """The plan without the shadow models where the bool mask is False."""
        rows = torch.cat([torch.ones(self.num_targets, dtype=torch.bool), kept_K])
        return replace(self, member_KN=self.member_KN[rows], scored_KN=self.scored_KN[rows], block_K=self.block_K[rows])

    def records_of(self, rows: slice) -> list[Tensor]:
        """Indices (int64) of the training records of each model in `rows`."""
        return [row.nonzero().squeeze(1) for row in self.member_KN[rows]]


class Plan(Protocol):
    """Fills in the two matrices for targets and shadow models over a population.

    Attributes:
        draws_target: whether the target's members are drawn at random, so that it must be trained here.
    """

    @property
    def draws_target(self) -> bool: ...

    def fill(self, population: Population, *, num_targets: int, num_shadows: int, seed: int) -> Membership: ...
