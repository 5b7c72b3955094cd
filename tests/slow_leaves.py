"""What trees give away of their records, by a slow loop over leaves."""

from collections.abc import Iterable
from typing import Any

import numpy as np


def shares(trees: Iterable[Any], x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Shares of the records that are alone in a leaf, and in one of fewer than 10 records of one label, of any tree."""
    alone: set[int] = set()
    disclosed: set[int] = set()
    for leaves in (tree.apply(x) for tree in trees):
        for leaf in set(leaves.tolist()):
            members = np.flatnonzero(leaves == leaf)
            if len(members) == 1:
                alone |= set(members.tolist())
            elif len(members) < 10 and len(set(y[members].tolist())) == 1:
                disclosed |= set(members.tolist())
    return len(alone) / len(x), len(disclosed) / len(x)
