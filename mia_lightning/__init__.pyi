"""The public names; `mia_lightning/__init__.py` imports each when it is first used."""

from .attacks.attack_p import AttackP as AttackP
from .attacks.attack_r import AttackR as AttackR
from .attacks.bavaria import Bavaria as Bavaria
from .attacks.calibrated_loss import CalibratedLoss as CalibratedLoss
from .attacks.gap import Gap as Gap
from .attacks.label_only import AugmentationLabelOnly as AugmentationLabelOnly
from .attacks.label_only import BoundaryLabelOnly as BoundaryLabelOnly
from .attacks.lira import Lira as Lira
from .attacks.loss import Loss as Loss
from .attacks.quantile_regression import QuantileRegression as QuantileRegression
from .attacks.ratio import Ratio as Ratio
from .attacks.rmia import Rmia as Rmia
from .attacks.shokri import Shokri as Shokri
from .attacks.thresholds import ClassConfidence as ClassConfidence
from .attacks.thresholds import ClassEntropy as ClassEntropy
from .attacks.thresholds import ClassModifiedEntropy as ClassModifiedEntropy
from .attacks.thresholds import Confidence as Confidence
from .attacks.thresholds import Entropy as Entropy
from .attacks.thresholds import ModifiedEntropy as ModifiedEntropy
from .audit import attack as attack
from .audit import audit as audit
from .audit import estimate as estimate
from .audit import observe as observe
from .audit import train_shard as train_shard
from .callbacks.limits import BestWithin as BestWithin
from .callbacks.limits import LeakageLimit as LeakageLimit
from .callbacks.monitor import LeakageMonitor as LeakageMonitor
from .comparison.differences.assemble import difference as difference
from .comparison.differences.equal_utility import difference_at_equal_utility as difference_at_equal_utility
from .datasets.augmentation import Crop as Crop
from .datasets.augmentation import Cutout as Cutout
from .datasets.augmentation import Flip as Flip
from .datasets.canaries import Canaries as Canaries
from .datasets.population import Population as Population
from .datasets.population import make_population as make_population
from .defenses.dp_sgd import DPSGD as DPSGD
from .defenses.dropout import Dropout as Dropout
from .defenses.early_stopping import StopEarly as StopEarly
from .defenses.fewer_epochs import FewerEpochs as FewerEpochs
from .defenses.group_norm import GroupNorm as GroupNorm
from .defenses.interface import Defense as Defense
from .defenses.l2 import L2 as L2
from .defenses.label_keeping_noise import LabelKeepingNoise as LabelKeepingNoise
from .defenses.label_smoothing import LabelSmoothing as LabelSmoothing
from .defenses.labels_only import LabelsOnly as LabelsOnly
from .defenses.mixup import Mixup as Mixup
from .defenses.random_crop import RandomCrop as RandomCrop
from .defenses.relaxloss import RelaxLoss as RelaxLoss
from .defenses.rounding import Rounding as Rounding
from .defenses.temperature import Temperature as Temperature
from .defenses.top_k import TopK as TopK
from .errors import InputError as InputError
from .gate import Gate as Gate
from .gate import judge as judge
from .loggers.interface import Loggers as Loggers
from .loggers.tensorboard import TensorBoardReport as TensorBoardReport
from .loggers.wandb import WandbReport as WandbReport
from .membership import Bernoulli as Bernoulli
from .membership import Disjoint as Disjoint
from .membership import Given as Given
from .membership import Halves as Halves
from .membership import Membership as Membership
from .membership import OneCanary as OneCanary
from .membership import Plan as Plan
from .remedies import RemedyReport as RemedyReport
from .remedies import try_remedies as try_remedies
from .reports.files import read_report as read_report
from .reports.files import save_report as save_report
from .reports.schema import AuditReport as AuditReport
from .run.about import About as About
from .run.definition import Audit as Audit
from .run.observation import Observation as Observation
from .shadows.guess import Guess as Guess
from .shadows.marginal import Marginal as Marginal
from .shadows.model_based import ModelBased as ModelBased
from .shadows.noisy import Noisy as Noisy
from .shadows.real import Real as Real
from .shadows.shard import Shard as Shard
from .store.artefacts import Store as Store
from .targets.checkpoint import Checkpoint as Checkpoint
from .targets.endpoints.asking import Asking as Asking
from .targets.endpoints.onnx import Onnx as Onnx
from .targets.endpoints.open_inference import OpenInference as OpenInference
from .targets.endpoints.predict_v1 import PredictV1 as PredictV1
from .targets.endpoints.predictions import Predictions as Predictions
from .targets.endpoints.sagemaker import SageMaker as SageMaker
from .targets.endpoints.sklearn import Sklearn as Sklearn
from .targets.endpoints.vertex import Vertex as Vertex
from .targets.estimator import Estimator as Estimator
from .targets.existing import Existing as Existing
from .targets.leave_one_out import LeaveOneOut as LeaveOneOut
from .targets.services.amazon_ml import AmazonML as AmazonML
from .targets.services.google_prediction import GooglePrediction as GooglePrediction
from .targets.trained import Trained as Trained
from .tasks.binary import Binary as Binary
from .tasks.classification import Classification as Classification
from .tasks.interface import Task as Task
from .tasks.multilabel import Multilabel as Multilabel
from .tasks.regression import Regression as Regression
from .training.stack.stack import Stack as Stack
from .training.step.recipe import EarlyStopping as EarlyStopping
from .training.step.recipe import Recipe as Recipe
from .training.step.recipe import default_recipe as default_recipe
from .training.trainer import TrainerSettings as TrainerSettings

__version__: str
__all__ = [
    "DPSGD",
    "L2",
    "About",
    "AmazonML",
    "Asking",
    "AttackP",
    "AttackR",
    "Audit",
    "AuditReport",
    "AugmentationLabelOnly",
    "Bavaria",
    "Bernoulli",
    "BestWithin",
    "Binary",
    "BoundaryLabelOnly",
    "CalibratedLoss",
    "Canaries",
    "Checkpoint",
    "ClassConfidence",
    "ClassEntropy",
    "ClassModifiedEntropy",
    "Classification",
    "Confidence",
    "Crop",
    "Cutout",
    "Defense",
    "Disjoint",
    "Dropout",
    "EarlyStopping",
    "Entropy",
    "FewerEpochs",
    "Flip",
    "Gap",
    "Gate",
    "Given",
    "GooglePrediction",
    "GroupNorm",
    "Guess",
    "Halves",
    "InputError",
    "LabelKeepingNoise",
    "LabelSmoothing",
    "LabelsOnly",
    "LeakageLimit",
    "LeakageMonitor",
    "LeaveOneOut",
    "Lira",
    "Loggers",
    "Loss",
    "Marginal",
    "Membership",
    "Mixup",
    "ModelBased",
    "ModifiedEntropy",
    "Multilabel",
    "Noisy",
    "Observation",
    "OneCanary",
    "Onnx",
    "OpenInference",
    "Plan",
    "Population",
    "PredictV1",
    "Predictions",
    "QuantileRegression",
    "RandomCrop",
    "Ratio",
    "Real",
    "Recipe",
    "Regression",
    "RelaxLoss",
    "RemedyReport",
    "Rmia",
    "Rounding",
    "SageMaker",
    "Shard",
    "Shokri",
    "Sklearn",
    "Stack",
    "StopEarly",
    "Store",
    "Task",
    "Temperature",
    "TensorBoardReport",
    "TopK",
    "Trained",
    "TrainerSettings",
    "Vertex",
    "WandbReport",
    "__version__",
    "attack",
    "audit",
    "default_recipe",
    "difference",
    "difference_at_equal_utility",
    "estimate",
    "judge",
    "make_population",
    "observe",
    "read_report",
    "save_report",
    "train_shard",
    "try_remedies",
]
