"""The named random draws and the checks that the plans share."""

import operator
from typing import SupportsIndex

import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.seeds import generator


def reserve(candidate_N: Tensor, count: int, seed: int) -> Tensor:
    """Sorted int64 indices of `count` random candidates."""
    index = candidate_N.nonzero().squeeze(1)
    return (
        index[torch.randperm(len(index), generator=generator(seed, "membership", "validation"))[:count]].sort().values
    )


def pairs(source_N: Tensor, num_pairs: int, seed: int, role: str) -> Tensor:
    """Complementary pairs of rows, bool `[num_pairs, 2, N]`; pair j is a function of (seed, role, j) alone."""
    index = source_N.nonzero().squeeze(1)
    pairs = torch.zeros(num_pairs, 2, len(source_N), dtype=torch.bool)
    for j in range(num_pairs):
        order = index[torch.randperm(len(index), generator=generator(seed, "membership", role, "pair", j))]
        pairs[j, 0, order[: len(index) // 2]] = True
        pairs[j, 1, order[len(index) // 2 :]] = True
    return pairs


def deal(member_N: Tensor, scored_N: Tensor, source: Tensor, size: int, seed: int, role: str, k: int) -> None:
    """Fill a row of a plan with `size` members and as many non-members from `source`: a function of (seed, role, k)."""
    drawn = source[torch.randperm(len(source), generator=generator(seed, "membership", role, k))]
    member_N[drawn[:size]] = True
    scored_N[drawn[: 2 * size]] = True


def refuse_overlap(overlap: float, plan: str) -> None:
    """Under plans whose shadow models train on the scored records themselves, an overlap has no meaning."""
    if overlap:
        raise InputError(
            f"`shadow.overlap` is {overlap}, but under membership={plan} the shadow models draw from records that the "
            "plan names; use membership=disjoint, or leave it 0."
        )


def check_counts(train_size: object, validation: object) -> None:
    """Refuse what is no number of records: bool and float too, which would count as one or be cut off later."""
    if train_size is not None and _whole(train_size, "dataset.train_size") < 1:
        raise InputError(f"`dataset.train_size` is {train_size}; it must be at least 1.")
    if _whole(validation, "membership.validation") < 0:
        raise InputError(f"`membership.validation` is {validation}; it must be a number of records, 0 for none.")


def _whole(value: object, setting: str) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise InputError(f"`{setting}` is {value!r}; it must be a whole number of records.")
    return operator.index(value)


def check_even(num_shadows: int, plan: str) -> None:
    if num_shadows % 2:
        raise InputError(
            f"`shadow.count` is {num_shadows}, but membership={plan} trains complementary pairs; give an even number."
        )


def pair_blocks(num_targets: int, num_shadows: int) -> Tensor:
    """Blocks of targets, each by itself, followed by complementary pairs of shadows: int64 `[T + K]`."""
    return torch.cat([torch.arange(num_targets), num_targets + torch.arange(num_shadows) // 2])
