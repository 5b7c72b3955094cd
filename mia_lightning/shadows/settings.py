"""The checks that settings of shadow sources share; values come from a configuration, so they are of any type."""

import math
import operator
from typing import SupportsIndex

from mia_lightning.errors import InputError

LABELS = ("target", "own")


def whole(setting: str, value: object, *, at_least: int = 1) -> int:
    """The value as an int of Python, also from numpy.

    Raises:
        InputError: it is no whole number, a bool, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or operator.index(value) < at_least:
        raise InputError(f"`shadow.{setting}` is {value!r}; it must be a whole number of at least {at_least}.")
    return operator.index(value)


def share(setting: str, value: object, *, below_one: bool = False) -> None:
    """Refuse what is no number from 0 to 1."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not 0 <= number <= 1 or (below_one and number == 1):
        raise InputError(f"`shadow.{setting}` is {value!r}; it must be a share from 0 to {'below ' * below_one}1.")


def check_label(value: object) -> None:
    """Refuse what says of no kind where the labels come from."""
    if value not in LABELS:
        raise InputError(f"`shadow.label` is {value!r}; it must be target (the class that the target predicts) or own.")
