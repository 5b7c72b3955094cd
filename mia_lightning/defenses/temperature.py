"""Answering with more entropy: Shokri et al. (2017), section VIII."""

from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Positive
from mia_lightning.training.signals import AnswerForm


@settings("defense.temperature")
class Temperature:
    """Divides the logits by a temperature before the softmax: 1 changes nothing, more makes probabilities more even.

    Log probabilities serve as the logits, from which they differ by a constant for each record. The softmax is the
    model's own, so name this before defences that hide or round; after them it acts on what they left.

    Attributes:
        temperature: above 0; the class of the largest probability stays so, up to ties in float32.
    """

    name: ClassVar[str] = "temperature"
    acts_on: ClassVar[tuple[str, ...]] = ("classes",)
    is_visible: ClassVar[bool] = False
    form: ClassVar[AnswerForm] = AnswerForm()

    temperature: Positive = 5.0

    def describe(self) -> str:
        return f"temperature {self.temperature:.12g}"

    def apply(self, log_probability: Tensor) -> Tensor:
        if self.temperature == 1:
            return log_probability.float()
        logits = log_probability.double()
        # The largest becomes 0 beforehand, so that no temperature makes all of them infinite.
        logits = (logits - logits.amax(-1, keepdim=True)) / self.temperature
        return logits.log_softmax(-1).clamp(min=torch.finfo(torch.float32).min).float()
