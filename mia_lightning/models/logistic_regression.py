"""Multinomial logistic regression."""

from math import prod
from typing import ClassVar

from torch import nn

from mia_lightning.models.shapes import Shape
from mia_lightning.models.takes import NUMBERS, Takes
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import AtLeast1


class LogisticRegression(nn.Sequential):
    """One linear layer on the flattened record; logits `[B, C]`.

    Args:
        input_shape: of one record.
        num_classes: C.
    """

    takes_records: ClassVar[Takes] = NUMBERS

    @checked("model")
    def __init__(self, input_shape: Shape, num_classes: AtLeast1) -> None:
        super().__init__(nn.Flatten(), nn.Linear(prod(input_shape), num_classes))
