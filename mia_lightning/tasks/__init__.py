"""What a record's answer is: a class, several labels, or numbers; and what follows for likelihood, utility, figures."""

from mia_lightning.tasks.binary import Binary as Binary
from mia_lightning.tasks.classification import Classification as Classification
from mia_lightning.tasks.interface import Task as Task
from mia_lightning.tasks.multilabel import Multilabel as Multilabel
from mia_lightning.tasks.regression import Regression as Regression

BY_NAME = {each.name: each for each in (Classification, Binary, Multilabel, Regression)}
