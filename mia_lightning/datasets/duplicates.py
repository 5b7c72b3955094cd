"""Records that occur more than once: a member's twin among the non-members is no clean non-member."""

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.population import Population


def duplicate_group(population: Population) -> Tensor:
    """int64 `[N]`: records are equal, value for value (labels aside), if and only if their numbers are."""
    rows = population.x_N.flatten(1).cpu().contiguous()
    if rows.is_floating_point():
        rows = rows + 0.0  # -0.0 is 0.0
    # One opaque item of bytes for each record: sorted as a whole, whatever the number of features.
    items = rows.view(torch.uint8).numpy().view(np.dtype((np.void, rows.shape[1] * rows.element_size()))).ravel()
    return torch.from_numpy(np.unique(items, return_inverse=True)[1].astype(np.int64))


def count_across(group_N: Tensor, member_N: Tensor, nonmember_N: Tensor) -> int:
    """Number of members that are also, value for value, among the non-members."""
    return int(torch.isin(group_N[member_N], group_N[nonmember_N]).sum())
