"""Who trained on what: two boolean matrices, of which nothing else keeps a copy.

`member_KN[k, i]`: model k trained on record i. `scored_KN[k, i]`: record i is evidence about model k. The
non-members of model k are `scored & ~member`; records reserved for validation or as population are false in both.

Where shadow records are synthetic, the record axis is the real records followed by the synthetic ones, and the plan is
filled in two calls: the rows of the targets first, those of the shadow models once their records exist.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.membership.draws import deal


@dataclass(frozen=True, eq=False, kw_only=True)
class Membership:
    """A filled-in plan. The first `num_targets` rows are targets, the others shadow models.

    Attributes:
        plan_name: as `membership=...` names it.
        member_KN, scored_KN: bool, on the CPU; a member is always scored, unless the attacker knows its membership
            beforehand (`known_N`).
        num_targets: T.
        block_K: int64; models of one block (a complementary pair) must be left out together, since the others
            would reveal by counting what one of them trained on.
        validation_N: int64 indices of the records for early stopping, which are evidence about no model.
        population_N: int64 indices of the records that are reserved for attacks, likewise.
        known_N: bool, records of the targets whose membership the attacker knows beforehand, so that they are no
            evidence about a target: the shadow models use them, or they are in every model; None for none.
        leaves_one_out: whether every model is the target once, with the models outside its block as its shadow models;
            the rows of the targets are then those of the shadow models.
        is_trials: whether each target is one trial about one record (`one_canary`); no trial may be left out.
        has_coins: whether a fair coin decides for each scored record whether it is a member (`bernoulli`).
        origin: of the members, where they were given and not drawn, such as "`membership.path` rows.csv".
        remarks: sentences about differences between the plan and what was asked for.
    """

    plan_name: str
    member_KN: Tensor
    scored_KN: Tensor
    num_targets: int
    block_K: Tensor
    validation_N: Tensor
    population_N: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    known_N: Tensor | None = None
    leaves_one_out: bool = False
    is_trials: bool = False
    has_coins: bool = False
    origin: str | None = None
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.member_KN.dtype == self.scored_KN.dtype == torch.bool
        assert self.member_KN.shape == self.scored_KN.shape
        assert self.block_K.shape == self.member_KN.shape[:1]
        unscored_KN = self.member_KN & ~self.scored_KN
        if self.known_N is not None:
            unscored_KN &= ~self.known_N
        assert not bool(unscored_KN.any()), "a member that is not scored"
        assert not bool(self.scored_KN[:, self.validation_N].any()), "a validation record is evidence"
        assert not bool(self.scored_KN[:, self.population_N].any()), "a record of the population is evidence"

    @property
    def is_given(self) -> bool:
        """Whether the members were given and not drawn."""
        return self.origin is not None

    @property
    def targets(self) -> slice:
        return slice(0, self.num_targets)

    @property
    def shadows(self) -> slice:
        return slice(0 if self.leaves_one_out else self.num_targets, None)

    @property
    def nonmember_KN(self) -> Tensor:
        return self.scored_KN & ~self.member_KN

    @property
    def unseen_KN(self) -> Tensor:
        """Bool: the records for a model's test accuracy: its non-members. Trials have no non-members but the canary, so
        that the records in no model are added."""
        if not self.is_trials:
            return self.nonmember_KN
        return self.nonmember_KN | self.outside_N.index_fill(0, self.population_N, False)

    def keep_shadows(self, kept_K: Tensor) -> "Membership":
        """The plan with the shadow models where the bool mask is True, and no others."""
        before = 0 if self.leaves_one_out else self.num_targets
        rows = torch.cat([torch.ones(before, dtype=torch.bool), kept_K])
        return replace(
            self,
            member_KN=self.member_KN[rows],
            scored_KN=self.scored_KN[rows],
            block_K=self.block_K[rows],
            num_targets=int(kept_K.sum()) if self.leaves_one_out else self.num_targets,
        )

    def keep_targets(self, kept_T: Tensor) -> "Membership":
        """The plan with the targets where the bool mask is True, and no others."""
        rows = torch.cat([kept_T, torch.ones(len(self.block_K) - self.num_targets, dtype=torch.bool)])
        return replace(
            self,
            member_KN=self.member_KN[rows],
            scored_KN=self.scored_KN[rows],
            block_K=self.block_K[rows],
            num_targets=int(kept_T.sum()),
        )

    def each_a_target(self) -> "Membership":
        """The plan in which every shadow model is a target, too; this plan has no targets.

        Raises:
            InputError: fewer than two blocks.
        """
        assert self.num_targets == 0
        if len(self.block_K.unique()) < 2:
            raise InputError(
                f"target=leave_one_out has {len(self.block_K)} models in one block, which leaves no shadow model for "
                "any of them; raise `shadow.count`."
            )
        return replace(self, num_targets=len(self.block_K), leaves_one_out=True)

    @property
    def asked_N(self) -> Tensor:
        """Bool: the records for which answers of the targets are needed: those that are evidence about a target, those
        of its accuracies, and the population."""
        read_KN = self.scored_KN | self.member_KN | self.unseen_KN
        return read_KN[self.targets].any(0).index_fill(0, self.population_N, True)

    def asked_of_shadows(self, *, compared: bool) -> Tensor:
        """Bool `[K, N]`: the records for which answers of the shadow models are needed: a model's own, and of models
        that are targets what is asked of these.

        Args:
            compared: whether models are compared record by record, for which every model is asked about all that is
                evidence about any, and the population.
        """
        own_KN = (self.scored_KN | self.member_KN | self.unseen_KN)[self.shadows]
        if not (compared or self.leaves_one_out):
            return own_KN
        asked_N = self.asked_N if self.leaves_one_out else self.asked_N | own_KN.any(0)
        return asked_N.expand_as(own_KN)

    @property
    def outside_N(self) -> Tensor:
        """Bool: records that are neither evidence about a target nor for validation; an attacker may hold them."""
        outside_N = ~(self.scored_KN | self.member_KN)[self.targets].any(0)
        return outside_N.index_fill(0, self.validation_N, False)

    def columns(self, columns: slice) -> "Membership":
        """The plan over a slice of the record axis that holds all reserved records or none."""
        numbers = torch.arange(self.member_KN.shape[1])[columns]
        return replace(
            self,
            member_KN=self.member_KN[:, columns],
            scored_KN=self.scored_KN[:, columns],
            validation_N=torch.isin(numbers, self.validation_N).nonzero().squeeze(1),
            population_N=torch.isin(numbers, self.population_N).nonzero().squeeze(1),
            known_N=None if self.known_N is None else self.known_N[columns],
        )

    def with_synthetic(self, num_records: int, *, num_shadows: int, seed: int) -> "Membership":
        """The second call: adds shadow models that share `num_records` further records, which follow the others.

        Each draws members and equally many non-members from them: as many as a target has members, or half of all.

        Raises:
            InputError: fewer than 2 records.
        """
        assert self.member_KN.shape[0] == self.num_targets, "the plan has shadow models already"
        T, N = self.member_KN.shape
        if num_records < 2:
            raise InputError(
                f"`shadow` made {num_records} record after duplicates were removed, and shadow models need at least 2; "
                "ask for more records."
            )
        member_KN = torch.zeros(T + num_shadows, N + num_records, dtype=torch.bool)
        scored_KN = torch.zeros_like(member_KN)
        member_KN[:T, :N], scored_KN[:T, :N] = self.member_KN, self.scored_KN
        target_size = int(self.member_KN[0].sum())
        size = min(target_size, num_records // 2)
        synthetic = N + torch.arange(num_records)
        for k in range(num_shadows):
            deal(member_KN[T + k], scored_KN[T + k], synthetic, size, seed, "shadow", k)
        remark = (
            f"There are {num_records} records for the shadow models, less than twice the target's {target_size}, so "
            f"each trains on {size}."
        )
        known_N = self.known_N
        return replace(
            self,
            member_KN=member_KN,
            scored_KN=scored_KN,
            block_K=torch.arange(T + num_shadows),
            known_N=None if known_N is None else torch.nn.functional.pad(known_N, (0, num_records)),
            remarks=(*self.remarks, remark) if size < target_size else self.remarks,
        )

    def records_of(self, rows: slice) -> list[Tensor]:
        """Indices (int64) of the training records of each model in `rows`."""
        return [row.nonzero().squeeze(1) for row in self.member_KN[rows]]
