"""Shadow models trained on real records of the population, as the membership plan deals them out."""

from dataclasses import dataclass
from typing import ClassVar

from mia_lightning.shadows.settings import share, whole


@dataclass(frozen=True, kw_only=True)
class Real:
    """`count` shadow models (Shokri et al. 2017, section V-C: real data).

    Attributes:
        count: K.
        overlap: share of the target's members and non-members, in [0, 1), whose membership the attacker knows; they
            join the shadow models' records and are no longer scored. 0: shadow and target records are disjoint.
    """

    count: int = 64
    overlap: float = 0.0
    source: ClassVar[str] = "real"

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", whole("count", self.count))
        share("overlap", self.overlap, below_one=True)
