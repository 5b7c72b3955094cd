"""The form of a model's answers: what they show, with how many digits, and how well they add up to 1."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mia_lightning.training.signals import AnswerForm

MAX_DIGITS = 6
LARGEST_SUM_ERROR = 1e-3
# How many numbers must have been seen, and how many of them between 0 and 1, before they count as rounded: about a
# quarter of the single-precision numbers near 1 look as if they were rounded to six digits.
_FEWEST, _FEWEST_INNER = 300, 20
# The relative error of a decimal number that went through single precision.
_STEP = 2.0**-23


@dataclass(frozen=True, kw_only=True)
class Decimals:
    """The digits of some probabilities.

    Attributes:
        fits: for 1 to `MAX_DIGITS` digits, whether no number has more.
        num, num_inner: how many numbers there are, and how many of them lie between 0 and 1.
    """

    fits: tuple[bool, ...] = (True,) * MAX_DIGITS
    num: int = 0
    num_inner: int = 0

    def __add__(self, other: "Decimals") -> "Decimals":
        return Decimals(
            fits=tuple(mine and others for mine, others in zip(self.fits, other.fits, strict=True)),
            num=self.num + other.num,
            num_inner=self.num_inner + other.num_inner,
        )

    @property
    def fewest(self) -> int | None:
        """The fewest digits that all numbers fit, however few numbers there are; None for more than `MAX_DIGITS`."""
        return next((place + 1 for place, fits in enumerate(self.fits) if fits), None)

    @property
    def digits(self) -> int | None:
        """To how many digits the numbers are rounded; None where they are not, or where they are too few to tell."""
        is_enough = self.num >= _FEWEST and self.num_inner >= _FEWEST_INNER
        return self.fewest if is_enough else None


def decimals_of(probability: npt.NDArray[np.float64]) -> Decimals:
    """The digits of these numbers."""
    fits = []
    for digits in range(1, MAX_DIGITS + 1):
        error = np.abs(probability - np.round(probability, digits))
        fits.append(bool((error <= _STEP * probability + 1e-12).all()))
    inner = (probability > 0) & (probability < 1)
    return Decimals(fits=tuple(fits), num=probability.size, num_inner=int(inner.sum()))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The form of some answers, and what is judged once all answers are there.

    Attributes:
        form: without digits, which single answers do not show.
        record: the number of the first record, for messages.
        decimals: of the probabilities.
        sum_error, sum_record, sum_received: by how much the worst sum differs from 1, and of which record and answer.
        terms: how many numbers are added in a sum.
    """

    form: AnswerForm
    record: int
    decimals: Decimals = field(default_factory=Decimals)
    sum_error: float = 0.0
    sum_record: int = 0
    sum_received: str = ""
    terms: int = 1

    @property
    def allowed(self) -> float:
        """The largest error of a sum that rounding explains."""
        fewest = self.decimals.fewest
        return LARGEST_SUM_ERROR if fewest is None else max(LARGEST_SUM_ERROR, self.terms * 0.5 * 10.0**-fewest)

    @property
    def digits(self) -> int | None:
        """To how many digits the numbers are rounded; None where they are not."""
        return None if self.form.kind == "labels" else self.decimals.digits
