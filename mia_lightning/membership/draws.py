"""The named random draws and the checks that the plans share."""

import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.seeds import generator


def reserve(candidate_N: Tensor, count: int, seed: int, role: str) -> Tensor:
    """Sorted int64 indices of `count` random candidates: a function of (seed, role)."""
    index = candidate_N.nonzero().squeeze(1)
    return index[torch.randperm(len(index), generator=generator(seed, "membership", role))[:count]].sort().values


def population_size(setting: int | None, wanted: bool, num_records: int) -> int:
    """Number of records reserved for attacks: the setting, or else a tenth where an attack needs them."""
    if setting is not None:
        return setting
    return max(1, num_records // 10) if wanted else 0


def blocks(source_N: Tensor, num_blocks: int, width: int, seed: int, role: str) -> Tensor:
    """Blocks of rows that partition the records, bool `[num_blocks, width, N]`: with a width of 2, complementary pairs.

    Block j is a function of (seed, role, width, j) alone; its rows differ in size by at most one.
    """
    index = source_N.nonzero().squeeze(1)
    blocks_JWN = torch.zeros(num_blocks, width, len(source_N), dtype=torch.bool)
    ends = [w * len(index) // width for w in range(width + 1)]
    for j in range(num_blocks):
        order = index[torch.randperm(len(index), generator=generator(seed, "membership", role, "block", width, j))]
        for w in range(width):
            blocks_JWN[j, w, order[ends[w] : ends[w + 1]]] = True
    return blocks_JWN


def pairs_of_size(source_N: Tensor, num_pairs: int, size: int, seed: int, role: str) -> Tensor:
    """Pairs of rows of `size` records each that overlap no more than they must, bool `[num_pairs, 2, N]`.

    Pair j is a function of (seed, role, size, j) alone.
    """
    index = source_N.nonzero().squeeze(1)
    pairs_J2N = torch.zeros(num_pairs, 2, len(source_N), dtype=torch.bool)
    for j in range(num_pairs):
        order = index[torch.randperm(len(index), generator=generator(seed, "membership", role, "pair", size, j))]
        pairs_J2N[j, 0, order[:size]] = True
        pairs_J2N[j, 1, order[len(order) - size :]] = True
    return pairs_J2N


def deal(member_N: Tensor, scored_N: Tensor, source: Tensor, size: int, seed: int, role: str, k: int) -> None:
    """Fill a row of a plan with `size` members and as many non-members from `source`: a function of (seed, role, k)."""
    drawn = source[torch.randperm(len(source), generator=generator(seed, "membership", role, k))]
    member_N[drawn[:size]] = True
    scored_N[drawn[: 2 * size]] = True


def refuse_overlap(overlap: float, plan: str) -> None:
    """Refuse an overlap under a plan whose shadow models train on the scored records, where it has no meaning."""
    if overlap:
        raise InputError(
            f"`shadow.overlap` is {overlap}, but under membership={plan} the shadow models draw from records that the "
            "plan names; use membership=disjoint, or leave it 0."
        )


def about_reserved(validation: int, population: int) -> str:
    """The settings that reserve records, as the start of an error message."""
    beside = f" and `membership.population` {population}" if population else ""
    return f"`membership.validation` is {validation}{beside}"


def check_whole_blocks(num_shadows: int, width: int, plan: str) -> None:
    if num_shadows % width:
        kind = "complementary pairs; give an even number" if width == 2 else f"blocks of {width}; give a multiple of it"
        raise InputError(f"`shadow.count` is {num_shadows}, but membership={plan} trains {kind}.")


def block_numbers(num_targets: int, num_shadows: int, width: int) -> Tensor:
    """Blocks of targets, each by itself, followed by whole blocks of shadows: int64 `[T + K]`."""
    return torch.cat([torch.arange(num_targets), num_targets + torch.arange(num_shadows) // width])
