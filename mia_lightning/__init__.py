"""How much does a trained model give away about its training data?

`mia_lightning.audit` runs a whole audit from Python; `mia-lightning` does the same from the command line.
Nothing heavy is imported before it is used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mia_lightning.attacks.loss import Loss as Loss
    from mia_lightning.attacks.shokri import Shokri as Shokri
    from mia_lightning.audit import attack as attack
    from mia_lightning.audit import audit as audit
    from mia_lightning.audit import estimate as estimate
    from mia_lightning.audit import observe as observe
    from mia_lightning.audit import train_shard as train_shard
    from mia_lightning.datasets.canaries import Canaries as Canaries
    from mia_lightning.datasets.population import Population as Population
    from mia_lightning.datasets.population import make_population as make_population
    from mia_lightning.defenses.dp_sgd import DPSGD as DPSGD
    from mia_lightning.defenses.dropout import Dropout as Dropout
    from mia_lightning.defenses.interface import Defense as Defense
    from mia_lightning.defenses.l2 import L2 as L2
    from mia_lightning.defenses.label_keeping_noise import LabelKeepingNoise as LabelKeepingNoise
    from mia_lightning.defenses.label_smoothing import LabelSmoothing as LabelSmoothing
    from mia_lightning.defenses.labels_only import LabelsOnly as LabelsOnly
    from mia_lightning.defenses.mixup import Mixup as Mixup
    from mia_lightning.defenses.relaxloss import RelaxLoss as RelaxLoss
    from mia_lightning.defenses.rounding import Rounding as Rounding
    from mia_lightning.defenses.temperature import Temperature as Temperature
    from mia_lightning.defenses.top_k import TopK as TopK
    from mia_lightning.errors import InputError as InputError
    from mia_lightning.gate import Gate as Gate
    from mia_lightning.gate import judge as judge
    from mia_lightning.loggers.wandb import WandbReport as WandbReport
    from mia_lightning.membership import Bernoulli as Bernoulli
    from mia_lightning.membership import Disjoint as Disjoint
    from mia_lightning.membership import Given as Given
    from mia_lightning.membership import Halves as Halves
    from mia_lightning.membership import Membership as Membership
    from mia_lightning.membership import OneCanary as OneCanary
    from mia_lightning.membership import Plan as Plan
    from mia_lightning.reports.files import read_report as read_report
    from mia_lightning.reports.files import save_report as save_report
    from mia_lightning.reports.schema import AuditReport as AuditReport
    from mia_lightning.run.definition import Audit as Audit
    from mia_lightning.run.observation import Observation as Observation
    from mia_lightning.shadows.guess import Guess as Guess
    from mia_lightning.shadows.marginal import Marginal as Marginal
    from mia_lightning.shadows.model_based import ModelBased as ModelBased
    from mia_lightning.shadows.noisy import Noisy as Noisy
    from mia_lightning.shadows.real import Real as Real
    from mia_lightning.shadows.shard import Shard as Shard
    from mia_lightning.store.artefacts import Store as Store
    from mia_lightning.targets.endpoints.asking import Asking as Asking
    from mia_lightning.targets.endpoints.onnx import Onnx as Onnx
    from mia_lightning.targets.endpoints.open_inference import OpenInference as OpenInference
    from mia_lightning.targets.endpoints.predict_v1 import PredictV1 as PredictV1
    from mia_lightning.targets.endpoints.predictions import Predictions as Predictions
    from mia_lightning.targets.endpoints.sagemaker import SageMaker as SageMaker
    from mia_lightning.targets.endpoints.sklearn import Sklearn as Sklearn
    from mia_lightning.targets.endpoints.vertex import Vertex as Vertex
    from mia_lightning.targets.existing import Checkpoint as Checkpoint
    from mia_lightning.targets.leave_one_out import LeaveOneOut as LeaveOneOut
    from mia_lightning.targets.services.amazon_ml import AmazonML as AmazonML
    from mia_lightning.targets.services.google_prediction import GooglePrediction as GooglePrediction
    from mia_lightning.targets.trained import Trained as Trained
    from mia_lightning.training.stack.stack import Stack as Stack
    from mia_lightning.training.step.recipe import EarlyStopping as EarlyStopping
    from mia_lightning.training.step.recipe import Recipe as Recipe
    from mia_lightning.training.step.recipe import default_recipe as default_recipe
    from mia_lightning.training.trainer import TrainerSettings as TrainerSettings

__version__ = "0.1.0"

_HOMES = {
    "attacks.loss": ["Loss"],
    "attacks.shokri": ["Shokri"],
    "audit": ["attack", "audit", "estimate", "observe", "train_shard"],
    "run.definition": ["Audit"],
    "shadows.shard": ["Shard"],
    "datasets.canaries": ["Canaries"],
    "datasets.population": ["Population", "make_population"],
    "defenses.dp_sgd": ["DPSGD"],
    "defenses.dropout": ["Dropout"],
    "defenses.label_smoothing": ["LabelSmoothing"],
    "defenses.mixup": ["Mixup"],
    "defenses.relaxloss": ["RelaxLoss"],
    "defenses.label_keeping_noise": ["LabelKeepingNoise"],
    "defenses.interface": ["Defense"],
    "defenses.l2": ["L2"],
    "defenses.labels_only": ["LabelsOnly"],
    "defenses.rounding": ["Rounding"],
    "defenses.temperature": ["Temperature"],
    "defenses.top_k": ["TopK"],
    "errors": ["InputError"],
    "gate": ["Gate", "judge"],
    "membership": ["Bernoulli", "Disjoint", "Given", "Halves", "Membership", "OneCanary", "Plan"],
    "run.observation": ["Observation"],
    "reports.files": ["read_report", "save_report"],
    "reports.schema": ["AuditReport"],
    "loggers.wandb": ["WandbReport"],
    "shadows.guess": ["Guess"],
    "shadows.marginal": ["Marginal"],
    "shadows.model_based": ["ModelBased"],
    "shadows.noisy": ["Noisy"],
    "shadows.real": ["Real"],
    "store.artefacts": ["Store"],
    "targets.services.amazon_ml": ["AmazonML"],
    "targets.endpoints.asking": ["Asking"],
    "targets.endpoints.onnx": ["Onnx"],
    "targets.endpoints.open_inference": ["OpenInference"],
    "targets.endpoints.predict_v1": ["PredictV1"],
    "targets.endpoints.predictions": ["Predictions"],
    "targets.endpoints.sagemaker": ["SageMaker"],
    "targets.endpoints.sklearn": ["Sklearn"],
    "targets.endpoints.vertex": ["Vertex"],
    "targets.existing": ["Checkpoint"],
    "targets.services.google_prediction": ["GooglePrediction"],
    "targets.leave_one_out": ["LeaveOneOut"],
    "targets.trained": ["Trained"],
    "training.step.recipe": ["EarlyStopping", "Recipe", "default_recipe"],
    "training.stack.stack": ["Stack"],
    "training.trainer": ["TrainerSettings"],
}
_HOME_OF = {name: f"mia_lightning.{home}" for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mia_lightning' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # Importing the submodule `audit` would put the module in the place of the function.
        super().__setattr__(name, value.audit if name == "audit" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package
