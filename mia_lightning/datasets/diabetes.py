"""Progression of diabetes, bundled with scikit-learn: small enough for a first regression and for tests."""

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import Name
from mia_lightning.tasks.interface import LabelTask
from mia_lightning.tasks.regression import Regression


@checked("dataset")
def load_diabetes(*, name: Name = "diabetes", task: LabelTask | None = None) -> Population:
    """442 patients with 10 features, and a measure of how far the disease has gone a year later, from 25 to 346.

    The features are published already centred and scaled over all patients; they are multiplied by √442 here, so that
    each has mean 0 and deviation 1.

    Args:
        name: of the data set, in reports.
        task: a regression, the default.

    Source: Efron, Hastie, Johnstone and Tibshirani, "Least angle regression" (2004).
    """
    from sklearn import datasets  # slow to import

    x, label = datasets.load_diabetes(return_X_y=True)
    task = Regression() if task is None else task
    return make_population(
        x * len(x) ** 0.5, label, name=name, task=task, class_names=["progression"] if not task.has_classes else None
    )
