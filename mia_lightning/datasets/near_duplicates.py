"""Near duplicates: non-members that are a member's copy, re-encoded, brightened or with a few cells changed."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.datasets.vectors import Vectors
from mia_lightning.seeds import generator

NEIGHBOURS = 10  # so that a member may have up to nine copies
MAX_RATIO = 0.25
MAX_CHANCE = 0.01  # expected number of members, in all, that are called near duplicates by chance

# They bound the time to seconds on two cores, whatever the size of the data.
MAX_PRODUCTS = 2**37
PROJECTED_FEATURES = 128

_BLOCK_RECORDS = 1024  # bounds memory, not results

Rows = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False, kw_only=True)
class NearDuplicates:
    """The near duplicates between the members and the non-members of one target.

    Attributes:
        compared_N: bool, the members that were compared with every non-member: all, or a random sample.
        near_N: bool, the compared members that have a near duplicate, and these near duplicates.
        ratio: a non-member nearer than this part of the distance to the tenth nearest one is a near duplicate.
        projected: whether distances are those in a random projection to 128 features.
    """

    compared_N: Tensor
    near_N: Tensor
    ratio: float
    projected: bool

    @property
    def count(self) -> int:
        """Members with a near duplicate among the non-members."""
        return int((self.compared_N & self.near_N).sum())


def near_duplicates(
    population: Population, group_N: Tensor, member_N: Tensor, nonmember_N: Tensor, *, seed: int
) -> NearDuplicates | None:
    """Pairs of a member and a non-member that differ, but are far closer than neighbours usually are.

    The distance is the Euclidean distance between normalised records, as a network sees them, or between their
    `Vectors` where they are no numbers or pixels; labels do not count. For binary features its square is the number of
    features that differ. A non-member is a near duplicate of a member if it is nearer than `ratio` times the distance
    to the member's tenth nearest non-member; records equal to the member are ignored. Each member has its own scale, so
    that a dense class or a tight cluster of at least ten non-members is not mistaken for copies. A member may have up
    to nine copies.

    A copy that is moved, mirrored or cropped is a different record by this distance. In a table of categories and few
    numbers, near duplicates may be similar people rather than copies; a model hardly distinguishes them, either.

    The ratio is a quarter, or less where such a near neighbour is not unusual, as in few dimensions. If records lie
    evenly in d dimensions around a member, and r_j is the distance to its j-th nearest non-member, then (r_1 / r_10)^d
    has the distribution Beta(1, 9) and (r_5 / r_10)^d has Beta(5, 5). The median of the second, 1/2, gives d without
    r_1; the first gives the ratio that 0.01 members are expected to fall below by chance.

    If all distances would take more than 2^37 products, records are projected to 128 random directions, which keeps
    distances to within about 6 % (one standard deviation). If that takes more, too, a random sample of the members is
    compared.

    Args:
        population: on the device that computes.
        group_N: int64; records are equal where their numbers are.
        member_N, nonmember_N: bool, of one target.
        seed: of the projection and the sample.

    Returns:
        None with fewer than ten non-members or without members.

    Source: the ratio of distances as evidence of dimension is that of Facco et al., "Estimating the intrinsic dimension
    of datasets by a minimal neighborhood information" (2017), with fifth and tenth neighbours for first and second.
    """
    members, nonmembers = (mask_N.cpu().nonzero().squeeze(1) for mask_N in (member_N, nonmember_N))
    if not len(members) or len(nonmembers) < NEIGHBOURS:
        return None
    num_features = Vectors.of(population).width
    projected = num_features > PROJECTED_FEATURES and len(members) * len(nonmembers) * num_features > MAX_PRODUCTS
    width = PROJECTED_FEATURES if projected else num_features
    members = _sample(members, max(1, MAX_PRODUCTS // (len(nonmembers) * width)), seed)
    compared_N, near_N = torch.zeros(2, len(group_N), dtype=torch.bool)
    compared_N[members] = True
    index = torch.cat([members, nonmembers]).to(population.device)
    rows = _projected(population, index, seed) if projected else _records(population, index)
    squared_MJ, at_MJ = _nearest(rows, group_N.to(population.device)[index], len(members))
    ratio = _ratio(squared_MJ)
    near_MJ = squared_MJ < ratio**2 * squared_MJ[:, -1:].nan_to_num(posinf=0.0)
    near_N[index[: len(members)][near_MJ.any(1)].cpu()] = True
    near_N[index[at_MJ[near_MJ]].cpu()] = True
    return NearDuplicates(compared_N=compared_N, near_N=near_N, ratio=ratio, projected=projected)


def _sample(index: Tensor, limit: int, seed: int) -> Tensor:
    if len(index) <= limit:
        return index
    return index[torch.randperm(len(index), generator=generator(seed, "near duplicates", "members"))[:limit]].sort()[0]


def _records(population: Population, index: Tensor) -> Rows:
    """A function from positions in `index` to normalised records `[B, features]`.

    They are float64, so that sums of squares keep every digit of a float32 record.
    """
    vectors = Vectors.of(population)
    return lambda at_B: vectors(index[at_B], torch.float64)


def _projected(population: Population, index: Tensor, seed: int) -> Rows:
    """As `_records`, in random directions, in which the expected square of a difference's length is the same."""
    rows = _records(population, index)
    directions = torch.randn(
        Vectors.of(population).width,
        PROJECTED_FEATURES,
        dtype=torch.float64,
        generator=generator(seed, "near duplicates", "projection"),
    ).to(index.device) / math.sqrt(PROJECTED_FEATURES)
    positions = torch.arange(len(index), device=index.device)
    projected_NF = torch.cat([rows(at_B) @ directions for at_B in positions.split(_BLOCK_RECORDS)])
    return lambda at_B: projected_NF[at_B]


def _nearest(rows: Rows, group_N: Tensor, num_members: int) -> tuple[Tensor, Tensor]:
    """Squared distances `[M, 10]` of the first M records to the nearest of the others, and the positions of these.

    They ascend, and are infinite where fewer than ten records differ from the record.
    """
    positions = torch.arange(len(group_N), device=group_N.device)
    found = []
    for at_B in positions[:num_members].split(_BLOCK_RECORDS):
        x_BF, group_B = rows(at_B), group_N[at_B]
        best_BJ = x_BF.new_full((len(at_B), NEIGHBOURS), math.inf)
        where_BJ = torch.zeros_like(best_BJ, dtype=torch.int64)
        for at_Q in positions[num_members:].split(_BLOCK_RECORDS):
            y_QF = rows(at_Q)
            squared_BQ = torch.addmm(y_QF.square().sum(1), x_BF, y_QF.T, alpha=-2)  # the square of x is added below
            squared_BQ.masked_fill_(group_B[:, None] == group_N[at_Q], math.inf)
            near_BJ, column_BJ = squared_BQ.topk(min(NEIGHBOURS, len(at_Q)), largest=False)
            best_BJ, chosen_BJ = torch.cat([best_BJ, near_BJ], 1).topk(NEIGHBOURS, largest=False)
            where_BJ = torch.cat([where_BJ, at_Q[column_BJ]], 1).gather(1, chosen_BJ)
        found.append(((best_BJ + x_BF.square().sum(1, keepdim=True)).clamp(min=0.0), where_BJ))
    squared, where = zip(*found, strict=True)
    return torch.cat(squared), torch.cat(where)


def _ratio(squared_MJ: Tensor) -> float:
    """The largest ratio of the nearest to the tenth distance, up to a quarter, that chance is not expected to reach."""
    middle_M, last_M = squared_MJ[:, NEIGHBOURS // 2 - 1], squared_MJ[:, -1]
    usable_M = (middle_M > 0) & last_M.isfinite()
    if not bool(usable_M.any()):
        return MAX_RATIO
    log_median = float((last_M[usable_M] / middle_M[usable_M]).log().median()) / 2
    share = -math.expm1(math.log1p(-MAX_CHANCE / len(squared_MJ)) / (NEIGHBOURS - 1))
    return min(MAX_RATIO, math.exp(math.log(share) * log_median / math.log(2)))
