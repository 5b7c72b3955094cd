"""Curves, figures and accuracies: pure functions of scores and memberships.

The ROC itself is `mia_lightning.metrics.roc.roc`; it is not repeated here, where its module has its name.
"""

from mia_lightning.metrics.figures import Figure as Figure
from mia_lightning.metrics.figures import Figures as Figures
from mia_lightning.metrics.intervals.areas import delong as delong
from mia_lightning.metrics.intervals.bootstrap import Bootstrap as Bootstrap
from mia_lightning.metrics.leakage import attack_figures as attack_figures
from mia_lightning.metrics.leakage import per_class_figures as per_class_figures
from mia_lightning.metrics.over_targets import mean_auc_interval as mean_auc_interval
from mia_lightning.metrics.over_targets import mean_figures as mean_figures
from mia_lightning.metrics.over_targets import target_figures as target_figures
from mia_lightning.metrics.roc import PrecisionRecall as PrecisionRecall
from mia_lightning.metrics.roc import Roc as Roc
from mia_lightning.metrics.roc import TprAtFpr as TprAtFpr
from mia_lightning.metrics.roc import auc as auc
from mia_lightning.metrics.roc import average_precision as average_precision
from mia_lightning.metrics.roc import precision_recall_curve as precision_recall_curve
from mia_lightning.metrics.roc import tpr_at_fpr as tpr_at_fpr
from mia_lightning.metrics.target_accuracy import TargetAccuracy as TargetAccuracy
from mia_lightning.metrics.target_accuracy import accuracy_by_membership as accuracy_by_membership
