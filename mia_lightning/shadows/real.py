"""Shadow models that train on real records of the population, which the membership plan assigns."""

from typing import ClassVar, NoReturn

from mia_lightning.datasets.population import Population
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1, ShareBelow1
from mia_lightning.shadows.interface import Source
from mia_lightning.targets.black_box import BlackBox


@settings("shadow")
class Real(Source):
    """`count` shadow models (Shokri et al. 2017, section V-C: real data).

    Attributes:
        count: K.
        overlap: share of the target's members and non-members, in [0, 1), whose membership the attacker knows. They
            join the records of the shadow models and are no longer scored. 0: shadow and target records are disjoint.
    """

    count: AtLeast1 = 64
    overlap: ShareBelow1 = 0.0
    source: ClassVar[str] = "real"
    makes_records: ClassVar[bool] = False

    def synthesise(self, known: Population, target: BlackBox, *, seed: int) -> NoReturn:
        """Not called: the records are there."""
        raise AssertionError("real records are not made")
