"""Answering with fewer digits: Shokri et al. (2017), section VIII."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from mia_lightning.settings import settings
from mia_lightning.training.signals import AnswerForm, rounded


@settings("defense.rounding")
class Rounding:
    """Rounds each probability to so many decimal digits, as `numpy.round` does (halves to even), not renormalised.

    A probability that is rounded to zero is observed as half of the last digit, the most that it can have been. The
    class of the largest probability keeps a largest one, though others may tie with it. Applied twice is applied once.

    Attributes:
        digits: after the decimal point, 0 to 15; from 8 on they are finer than a float32 logarithm holds, and the
            observed number is as near as that can be.
    """

    name: ClassVar[str] = "rounding"
    acts_on: ClassVar[tuple[str, ...]] = ("classes", "labels")
    is_visible: ClassVar[bool] = True

    digits: Annotated[int, Ge(0), Le(15)] = 3

    @property
    def form(self) -> AnswerForm:
        return AnswerForm(digits=self.digits)

    def describe(self) -> str:
        return self.form.describe()

    def apply(self, log_probability: Tensor) -> Tensor:
        observed = rounded(log_probability, self.digits)
        # Where the digits are about as fine as float32 logarithms, one round trip may move a number again. Rounding
        # keeps the order of numbers, so repeating it moves each in one direction until it stays.
        while not torch.equal((again := rounded(observed, self.digits)).nan_to_num(), observed.nan_to_num()):
            observed = again
        return observed
