"""Where the records of a dataset lie: in which dataset inside `Subset` and `ConcatDataset`, and at which place."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Dataset, Subset

from mia_lightning.datasets.own.sets import OwnSet
from mia_lightning.errors import InputError


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


def check_disjoint(sets: Sequence[OwnSet], places: Sequence[Places]) -> None:
    """Refuse sets that have records in common: a record that a model was trained on is no non-member.

    Raises:
        InputError: two of them have a place in common.
    """
    span = 1 + max(int(each.index_M.max(initial=0)) for each in places)
    held = [np.unique(each.leaf_M * span + each.index_M) for each in places]
    for (one, of_one), (other, of_other) in combinations(zip(sets, held, strict=True), 2):
        both = np.intersect1d(of_one, of_other, assume_unique=True)
        if len(both):
            inner = type(places[0].leaves[int(both[0]) // span]).__name__
            raise InputError(
                f"The {one} and the {other} have {len(both):,} records in common, at the same places of one {inner}, "
                "and each record must be in one set; split them anew, or give the held-out sets that count as "
                "`nonmembers` (`dataset.nonmembers`)."
            )


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
