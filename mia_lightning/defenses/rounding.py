"""Answering with fewer digits: Shokri et al. (2017), section VIII."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """Rounds each probability to so many decimal digits, as `numpy.round` does (halves to even), not renormalised.

    A probability that is rounded to zero is observed as half of the last digit, the most that it can have been. The
    class of the largest probability keeps a largest one, though others may tie with it. Applied twice is applied once.

    Attributes:
        digits: after the decimal point, 0 to 15; from 8 on they are finer than a float32 logarithm holds, and the
            observed number is as near as that can be.
    """

    name: ClassVar[str] = "rounding"
    is_visible: ClassVar[bool] = True

    digits: int = 3

    def __post_init__(self) -> None:
        if type(self.digits) is not int or not 0 <= self.digits <= 15:
            raise InputError(
                f"`defense.rounding.digits` is {self.digits!r}; it must be a whole number from 0 to 15, the digits "
                "that a 64-bit probability holds."
            )

    def describe(self) -> str:
        return f"rounded to {self.digits} {'digit' if self.digits == 1 else 'digits'}"

    def apply(self, log_probability: Tensor) -> Tensor:
        rounded = self._round(log_probability)
        # Where the digits are about as fine as float32 logarithms, one round trip may move a number again. Rounding
        # keeps the order of numbers, so repeating it moves each in one direction until it stays.
        while not torch.equal((again := self._round(rounded)).nan_to_num(), rounded.nan_to_num()):
            rounded = again
        return rounded

    def _round(self, log_probability: Tensor) -> Tensor:
        scale = 10.0**self.digits
        probability = log_probability.double().exp().mul_(scale).round_().div_(scale)
        return probability.log_().float().clamp_(min=self._log_floor())

    def _log_floor(self) -> float:
        """The float32 next below half of the last digit: the nearest one may lie above it, and so round up."""
        half = torch.tensor(math.log(0.5) - self.digits * math.log(10.0), dtype=torch.float32)
        return float(torch.nextafter(half, torch.tensor(-torch.inf)))
