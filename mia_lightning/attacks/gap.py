"""The baseline of Yeom et al., "Privacy Risk in Machine Learning" (2018), section III-B: what is predicted right is a
member.

Its advantage is the generalisation gap of the target.
"""

from typing import ClassVar

from mia_lightning.attacks.description import DescribedByTask
from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.operating_point import FittedStatistic
from mia_lightning.attacks.statistics import correctness
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AttackName
from mia_lightning.tasks import Task
from mia_lightning.training.engine import Engine


@settings("attack.{name}")
class Gap(DescribedByTask):
    """Score: 1 where the record is classified correctly, else 0; flagged are the former.

    Of several labels, the score is the share that is predicted right, and flagged are records of which all are.
    Where probabilities tie, as hidden ones do, the class of lowest index is the predicted one.
    """

    name: AttackName = "gap"
    needs: ClassVar[Needs] = Needs(shadows=False, right=True)

    def described(self, task: Task) -> str:
        right = task.wording.right
        return f"{right[0].upper()}{right[1:]}; nothing is learnt."

    def fit(self, shadows: Evidence, engine: Engine) -> FittedStatistic:
        """Nothing is learnt."""
        num_labels = shadows.label_N.reshape(len(shadows.label_N), -1).shape[1]
        return FittedStatistic(statistic=correctness, threshold=1 - 0.5 / num_labels)
