"""Where the records of a dataset lie: in which dataset inside `Subset` and `ConcatDataset`, and at which place."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Dataset, Subset


@dataclass(frozen=True, eq=False)
class Places:
    """For each record of a dataset, the number of the inner dataset, and the place in it.

    Attributes:
        leaves: the inner datasets, each once.
        leaf_M, index_M: int64.
    """

    leaves: list[Any] = field(default_factory=list)
    leaf_M: Any = None
    index_M: Any = None


def places_of(dataset: Dataset[Any], leaves: list[Any], index: Sequence[int] | None = None) -> Places:
    """The places of the records at `index` of the dataset; None for all.

    Args:
        leaves: of other datasets; those of this one join them.
    """
    own_M = np.arange(len(dataset)) if index is None else np.asarray(index, np.int64).reshape(-1)  # type: ignore[arg-type]
    leaf_M, index_M = _found(dataset, own_M, leaves)
    return Places(leaves, leaf_M, index_M)


def _found(dataset: Any, own_M: Any, leaves: list[Any]) -> tuple[Any, Any]:
    own = type(dataset)
    own_M = np.where(own_M < 0, own_M + len(dataset), own_M) if len(own_M) else own_M
    if isinstance(dataset, Subset) and own.__getitem__ is Subset.__getitem__:
        inner = dataset.indices if not hasattr(dataset.indices, "tolist") else dataset.indices.tolist()
        return _found(dataset.dataset, np.asarray(list(inner), np.int64)[own_M], leaves)
    if isinstance(dataset, ConcatDataset) and own.__getitem__ is ConcatDataset.__getitem__:
        ends = np.asarray(dataset.cumulative_sizes)
        part_M = np.searchsorted(ends, own_M, side="right")
        leaf_M, index_M = np.empty_like(own_M), np.empty_like(own_M)
        for number, part in enumerate(dataset.datasets):
            of_part = part_M == number
            if of_part.any():
                start = ends[number - 1] if number else 0
                leaf_M[of_part], index_M[of_part] = _found(part, own_M[of_part] - start, leaves)
        return leaf_M, index_M
    number = next((i for i, leaf in enumerate(leaves) if leaf is dataset), len(leaves))
    if number == len(leaves):
        leaves.append(dataset)
    return np.full_like(own_M, number), own_M
