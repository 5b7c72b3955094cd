"""Answering the class alone: Shokri et al. (2017), section VIII, the extreme case of the k largest."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.defenses.interface import PROBABILITY_FLOOR
from mia_lightning.defenses.top_k import is_among_largest


@dataclass(frozen=True, kw_only=True)
class LabelsOnly:
    """Shows which class is the most probable one, and no probability.

    The answer is observed as probability 1 for that class, of tied ones the one of lowest index, and
    `PROBABILITY_FLOOR` for the others. Applied twice is applied once.
    """

    name: ClassVar[str] = "labels_only"
    is_visible: ClassVar[bool] = True

    def describe(self) -> str:
        return "labels only"

    def apply(self, log_probability: Tensor) -> Tensor:
        hidden = torch.full_like(log_probability, math.log(PROBABILITY_FLOOR), dtype=torch.float32)
        return hidden.masked_fill(is_among_largest(log_probability, 1), 0.0)
