"""Multinomial logistic regression."""

from collections.abc import Sequence
from math import prod

from torch import nn


class LogisticRegression(nn.Sequential):
    """One linear layer on the flattened record; logits `[B, C]`.

    Args:
        input_shape: of one record.
        num_classes: C.
    """

    def __init__(self, input_shape: Sequence[int], num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(prod(input_shape), num_classes))
