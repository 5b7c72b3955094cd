"""Answering the k most probable classes only: Shokri et al. (2017), section VIII."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.defenses.interface import PROBABILITY_FLOOR
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1
from mia_lightning.training.signals import AnswerForm


@settings("defense.top_k")
class TopK:
    """Shows the k largest probabilities as they are, not renormalised, and hides the others.

    A hidden probability is observed as `PROBABILITY_FLOOR`, or as the smallest that is shown where that is smaller
    still, since it cannot have been above it. With k of at least C nothing changes. Applied twice is applied once.

    Attributes:
        k: classes that are shown; where probabilities tie at the border, those of lower index.
    """

    name: ClassVar[str] = "top_k"
    acts_on: ClassVar[tuple[str, ...]] = ("classes",)
    is_visible: ClassVar[bool] = True

    k: AtLeast1 = 3

    @property
    def form(self) -> AnswerForm:
        return AnswerForm(kind="top_k", k=self.k)

    def describe(self) -> str:
        return self.form.describe()

    def apply(self, log_probability: Tensor) -> Tensor:
        is_shown = is_among_largest(log_probability, self.k)
        smallest_shown = log_probability.masked_fill(~is_shown, torch.inf).amin(-1, keepdim=True)
        return torch.where(is_shown, log_probability, smallest_shown.clamp(max=math.log(PROBABILITY_FLOOR))).float()


def is_among_largest(log_probability: Tensor, k: int) -> Tensor:
    """bool `[..., C]`: the k largest along the last axis; of tied ones those of lower index."""
    C = log_probability.shape[-1]
    order = log_probability.sort(dim=-1, descending=True, stable=True).indices[..., : min(k, C)]
    return torch.zeros_like(log_probability, dtype=torch.bool).scatter(-1, order, True)
