"""Shadow models trained on real records of the population, as the membership plan deals them out."""

import operator
from dataclasses import dataclass
from typing import ClassVar, SupportsIndex

from mia_lightning.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Real:
    """`count` shadow models (Shokri et al. 2017, section V-C: real data)."""

    count: int = 64
    source: ClassVar[str] = "real"

    def __post_init__(self) -> None:
        count: object = self.count  # of any type, from a configuration
        if isinstance(count, bool) or not isinstance(count, SupportsIndex) or operator.index(count) < 1:
            raise InputError(f"`shadow.count` is {count!r}; it must be a whole number of at least 1.")
        object.__setattr__(self, "count", operator.index(count))  # an int of Python, also from numpy
