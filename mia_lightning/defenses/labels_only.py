"""Answering the class alone: Shokri et al. (2017), section VIII, the extreme case of the k largest."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.defenses.interface import PROBABILITY_FLOOR
from mia_lightning.defenses.top_k import is_among_largest
from mia_lightning.settings import settings
from mia_lightning.training.signals import AnswerForm


@settings("defense.labels_only")
class LabelsOnly:
    """Shows which class is the most probable one, and no probability.

    The answer is observed as probability 1 for that class, of tied ones the one of lowest index, and
    `PROBABILITY_FLOOR` for the others. Applied twice is applied once.
    """

    name: ClassVar[str] = "labels_only"
    acts_on: ClassVar[tuple[str, ...]] = ("classes",)
    is_visible: ClassVar[bool] = True
    form: ClassVar[AnswerForm] = AnswerForm(kind="labels")

    def describe(self) -> str:
        return self.form.describe()

    def apply(self, log_probability: Tensor) -> Tensor:
        hidden = torch.full_like(log_probability, math.log(PROBABILITY_FLOOR), dtype=torch.float32)
        return hidden.masked_fill(is_among_largest(log_probability, 1), 0.0)
