"""Records that occur more than once: a non-member that equals a member is no clean non-member."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.population import Population

_DIGEST_BYTES = 32
_BLOCK_NUMBERS = 2**22  # bounds memory, not results


def duplicate_group(population: Population) -> Tensor:
    """int64 `[N]`: records are equal, value for value (labels aside), if and only if their numbers are."""
    return torch.from_numpy(np.unique(_items(population.x_N), return_inverse=True)[1].astype(np.int64))


def first_occurrences(x_N: Tensor) -> Tensor:
    """int64, ascending: indices of the records `[N, *features]` that equal, value for value, none before them."""
    return torch.from_numpy(np.sort(np.unique(_items(x_N), return_index=True)[1])).to(x_N.device)


def count_across(group_N: Tensor, member_N: Tensor, nonmember_N: Tensor) -> int:
    """Number of members that equal a non-member, value for value."""
    return int(torch.isin(group_N[member_N], group_N[nonmember_N]).sum())


def _items(x_N: Tensor) -> Any:
    """One opaque item for each record, which sorts as a whole: the record's bytes, or their 256-bit digest if longer.

    A data set of many features is never copied. Two records with the same digest do not occur in practice.
    """
    rows = x_N.flatten(1)
    if rows.shape[1] * rows.element_size() <= _DIGEST_BYTES:
        items = _bytes(rows)
    else:
        blocks = rows.split(max(1, _BLOCK_NUMBERS // rows.shape[1]))
        digests = [
            hashlib.blake2b(row, digest_size=_DIGEST_BYTES).digest() for block in blocks for row in _bytes(block)
        ]
        items = np.frombuffer(b"".join(digests), np.uint8).reshape(len(rows), _DIGEST_BYTES)
    return items.view(np.dtype((np.void, items.shape[1]))).ravel()


def _bytes(rows_BF: Tensor) -> Any:
    rows_BF = rows_BF.cpu().contiguous()
    if rows_BF.is_floating_point():
        rows_BF = rows_BF + 0.0  # -0.0 is 0.0
    return rows_BF.view(torch.uint8).numpy()
