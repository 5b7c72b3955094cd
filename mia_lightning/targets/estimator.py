"""Targets that are estimators, such as a random forest: fitted here, and so are their shadow models."""

from dataclasses import field
from typing import Any, ClassVar

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1
from mia_lightning.targets.interface import Target
from mia_lightning.training.estimators.making import Making
from mia_lightning.training.models import Models
from mia_lightning.training.setup import Setup


@settings("target", eq=False)
class Estimator(Target):
    """`count` estimators with `fit` and `predict_proba`, `decision_function` or `predict`, and shadow models like them.

    Attributes:
        estimator: one that is cloned for each model, or a function or class that makes one.
        count: T; figures are means over them.
        normalised: whether they take scaled and normalised records, as networks do, in place of those of the data set.
        processes: how many fit at the same time, one thread each; None for one on each core.

    Example:
        >>> import mia_lightning as mia
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.tree import DecisionTreeClassifier
        >>> x, label = load_digits(return_X_y=True)
        >>> report = mia.audit(
        ...     x,
        ...     label,
        ...     target=mia.Estimator(DecisionTreeClassifier),
        ...     membership=mia.Halves(),
        ...     shadow=mia.Real(count=4),
        ...     attacks=[mia.Lira()],
        ... )
        >>> report.target.architecture, report.target.train_accuracy
        ('DecisionTreeClassifier()', 1.0)
    """

    estimator: Any = field(kw_only=False)
    count: AtLeast1 = 1
    normalised: bool = False
    processes: AtLeast1 | None = None
    takes_recipe: ClassVar[bool] = False
    takes_guess: ClassVar[bool] = True
    has_weights: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.own_kind.check()

    @property
    def own_kind(self) -> Making:
        return Making(make=self.estimator, normalised=self.normalised, processes=self.processes)

    def obtain(self, setup: Setup) -> Models:
        """Fit the targets; some may fail.

        Raises:
            InputError: none can be fitted.
        """
        models = setup.train(setup.membership.targets, "target")
        if bool((models.failed_epoch_K >= 0).all()):
            raise InputError(
                f"`target.estimator` {models.architecture_name} could not be fitted on its "
                f"{int(setup.membership.member_KN[0].sum())} records ({models.failure}); change its parameters, or put "
                "what the records need before it in a Pipeline."
            )
        return models
