"""Answers of a local network that do not depend, to the last bit, on the other records of the batch."""

from collections.abc import Callable

import torch
from torch import Tensor

# With another number of rows, matrix products add up in another order, and a chain of queries could take another way.
_BATCH = 512


def steadily(answer: Callable[[Tensor], Tensor], x_B: Tensor) -> Tensor:
    """`answer(x_B)`, computed in batches of one size; the last one is filled up with copies of a record.

    Args:
        answer: from records `[B, *features]` to a row for each.
    """
    answers = []
    for block in x_B.split(_BATCH):
        padded = torch.cat([block, block[:1].expand(_BATCH - len(block), *block.shape[1:])])
        answers.append(answer(padded)[: len(block)])
    return torch.cat(answers)
