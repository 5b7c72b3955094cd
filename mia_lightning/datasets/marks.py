"""What was done to some of the records while they were read, which may tell members from non-members by itself."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mia_lightning.datasets.doubts import by_side

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Mark:
    """Something that some of the records have.

    Attributes:
        what: they are, in the plural, such as "texts that were cut".
        has_N: bool; which records have it.
    """

    what: str
    has_N: Mask

    def taken(self, index: slice | Mask) -> "Mark":
        """That of some of the records."""
        return Mark(what=self.what, has_N=self.has_N[index])

    def sentence(self, member_N: Mask, nonmember_N: Mask) -> str:
        """How many members and non-members of a split have it, and whether they differ by more than chance."""
        listed_N = member_N | nonmember_N
        return f"{self.what[:1].upper()}{self.what[1:]}{by_side(self.has_N[listed_N], member_N[listed_N])}."
