"""Records that occur more than once: a member's twin among the non-members is no clean non-member."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.population import Population


def duplicate_group(population: Population) -> Tensor:
    """int64 `[N]`: records are equal, value for value (labels aside), if and only if their numbers are."""
    return torch.from_numpy(np.unique(_items(population.x_N), return_inverse=True)[1].astype(np.int64))


def first_occurrences(x_N: Tensor) -> Tensor:
    """int64, ascending: indices of the records `[N, *features]` that equal, value for value, none before them."""
    return torch.from_numpy(np.sort(np.unique(_items(x_N), return_index=True)[1])).to(x_N.device)


def count_across(group_N: Tensor, member_N: Tensor, nonmember_N: Tensor) -> int:
    """Number of members that are also, value for value, among the non-members."""
    return int(torch.isin(group_N[member_N], group_N[nonmember_N]).sum())


def _items(x_N: Tensor) -> Any:
    """One opaque item of bytes for each record: sorted as a whole, whatever the number of features."""
    rows = x_N.flatten(1).cpu().contiguous()
    if rows.is_floating_point():
        rows = rows + 0.0  # -0.0 is 0.0
    return rows.view(torch.uint8).numpy().view(np.dtype((np.void, rows.shape[1] * rows.element_size()))).ravel()
