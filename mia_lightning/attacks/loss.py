"""The loss threshold of Yeom et al., "Privacy Risk in Machine Learning" (2018), section III-B."""

from typing import ClassVar

from mia_lightning.attacks.description import DescribedByTask
from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.operating_point import FittedStatistic, best_of_all
from mia_lightning.attacks.statistics import log_confidence
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AttackName
from mia_lightning.tasks import Task
from mia_lightning.training.engine import Engine


@settings("attack.{name}")
class Loss(DescribedByTask):
    """Score: minus the loss of the record, in nats, of classes the cross-entropy; larger for members.

    Flagged is a record from the threshold on that is best on the shadow models.
    """

    name: AttackName = "loss"
    needs: ClassVar[Needs] = Needs()

    def described(self, task: Task) -> str:
        return f"Minus the {task.wording.loss}; one threshold, the best on the shadow models."

    def fit(self, shadows: Evidence, engine: Engine) -> FittedStatistic:
        """Learn the threshold.

        Raises:
            DoesNotApplyError: the shadow models have no scored members, or no scored non-members.
        """
        score_KN = log_confidence(shadows.signals, shadows.label_N)
        return FittedStatistic(statistic=log_confidence, threshold=best_of_all(self.name, score_KN, shadows))
