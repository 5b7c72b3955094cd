"""The baseline of Yeom et al., "Privacy Risk in Machine Learning" (2018): what is predicted right is a member.

Its advantage is the generalisation gap of the target.
"""

from dataclasses import dataclass

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.one_statistic import FittedStatistic
from mia_lightning.attacks.statistics import correctness
from mia_lightning.training.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Score a record 1 where it is classified correctly, else 0, and flag the former.

    Where probabilities tie, as hidden ones do, the class of lowest index is the predicted one.
    """

    name: str = "gap"

    @property
    def description(self) -> str:
        return "Whether the record is classified correctly; nothing is learnt."

    @property
    def needs(self) -> Needs:
        return Needs(shadows=False)

    def fit(self, shadows: Evidence, engine: Engine) -> FittedStatistic:
        return FittedStatistic(statistic=correctness, threshold=0.5)
