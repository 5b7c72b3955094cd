"""Plans: the rules by which the two matrices are filled in."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mia_lightning.datasets.population import Population
from mia_lightning.membership.matrices import Membership


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a plan is filled in for.

    Attributes:
        num_targets: T.
        num_shadows: K, the number of shadow models; 0 where their records do not exist yet.
        seed: of the run.
        overlap: share of the targets' records that the attacker knows and trains shadow models on.
        reserve: whether an attack needs records that are evidence about no model.
        as_target: whether shadow models train on as many records as a given target did, where there are enough of them
            for each record to be in and out of two; else on half of the records each.
    """

    num_targets: int
    num_shadows: int
    seed: int
    overlap: float = 0.0
    reserve: bool = False
    as_target: bool = False


class Plan(ABC):
    """Fills in the two matrices for targets and shadow models over a population.

    Attributes:
        draws_target: whether the target's members are drawn at random, so that it must be trained here.
        shares_records: whether all models are drawn from the same records, so that each can be a target once.
        takes_made_records: whether shadow models may train on synthetic records.
        reads_members: whether the members of the targets are those that the population names.
    """

    draws_target: ClassVar[bool] = True
    shares_records: ClassVar[bool] = False
    takes_made_records: ClassVar[bool] = True

    @property
    def reads_members(self) -> bool:
        return False

    @property
    def name(self) -> str:
        """Name of the plan in `membership=...`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def look_ahead(self, record_names: Sequence[str]) -> None:  # noqa: B027  # most plans fit any names
        """Refuse what does not fit records of these names, before these are read.

        Raises:
            InputError: as `fill`, as far as the names show it.
        """

    @abstractmethod
    def fill(self, population: Population, wanted: Wanted) -> Membership:
        """The matrices.

        Raises:
            InputError: the population, or what is wanted, does not fit the plan.
        """
