"""Stratified bootstraps over records: members and non-members are redrawn apart, thresholds learnt anew in each
replicate.

No replicate is sorted again. That of a rate at a threshold needs the score of one rank among the redrawn records and
the number of redrawn records above it, whose laws are known: two draws, whatever the number of records. That of the
average precision needs the numbers of redrawn records at each distinct score: a multinomial draw.

Source of the method: Efron and Tibshirani, "An introduction to the bootstrap" (1993), chapters 8 (several samples) and
13 (percentile intervals).
"""

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import torch
from scipy.special import betaincinv, expit, logit, ndtri
from torch import Tensor

from mia_lightning.metrics.figures import Interval
from mia_lightning.metrics.intervals.areas import separated_average_precision
from mia_lightning.metrics.intervals.order_statistics import precision_at_recall_interval, tpr_at_fpr_interval
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.metrics.roc import Roc, allowed_false_positives
from mia_lightning.seeds import generator

# Below which a count is too coarse for percentiles.
FEWEST = 10
# Groups of neighbouring scores in which average precision is redrawn.
MAX_GROUPS = 256
# Numbers of one slice of replicates.
_SLICE_NUMBERS = 2**22


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """The draws of one attack's bootstraps, each seeded by the name of its figure.

    Attributes:
        seed: of the run.
        attack: its name.
        replicates: of each figure.
    """

    seed: int
    attack: str
    replicates: int = 2000

    @property
    def method(self) -> str:
        """What the report calls these intervals."""
        return f"stratified bootstrap, {self.replicates:,} replicates"

    def tpr_at_fpr(self, curve: Roc, max_fpr: float) -> Interval:
        """Percentiles of the largest TPR of a threshold whose FPR is at most `max_fpr`.

        Where fewer than ten false positives are allowed, or fewer than ten members are on one side of the threshold,
        percentiles pass the truth too often, and the interval is that of `tpr_at_fpr_interval`.
        """
        n1 = curve.num_members
        flagged = round(curve.tpr_at_fpr(max_fpr).tpr * n1)
        if allowed_false_positives(max_fpr, curve.num_nonmembers) < FEWEST or not FEWEST <= flagged <= n1 - FEWEST:
            return tpr_at_fpr_interval(curve, max_fpr)
        drawn = tpr_at_fpr_draws(curve, max_fpr, self.replicates, self._generator(f"tpr_at_fpr_{max_fpr:g}"))
        return self._percentiles(drawn)

    def precision_at_recall(self, curve: Roc, recall: float) -> Interval:
        """Percentiles of the precision, at one member for each non-member, of the highest threshold of this recall.

        With fewer than ten records of a kind above the threshold the interval is that of
        `precision_at_recall_interval`.
        """
        needed = members_for(recall, curve.num_members)
        at = int(torch.searchsorted(curve.true_positives_F, needed))
        alarms = int(curve.false_positives_F[at])
        if needed < FEWEST or not FEWEST <= alarms <= curve.num_nonmembers - FEWEST:
            return precision_at_recall_interval(curve, recall)
        random = self._generator(f"precision_at_recall_{recall:g}")
        return self._percentiles(precision_at_recall_draws(curve, recall, self.replicates, random))

    def average_precision(self, curve: Roc) -> Interval:
        """Normal on the logit scale, with the standard error of the replicates; not percentiles, since the mean of the
        replicates lies above the figure: a redrawn member may count above itself.

        In simulations it covered the truth in 92 to 96 % of the cases. Perfect separation leaves a one-sided bound.
        """
        value = curve.average_precision
        if curve.auc == 1.0:
            return separated_average_precision(curve.num_members, curve.num_nonmembers)
        replicates = self.replicates // 4  # for a standard error, not for percentiles
        drawn = average_precision_draws(curve, replicates, self._generator("average_precision"))
        logit_B = logit(drawn.clamp(max=1 - 1e-12).cpu().numpy())
        error = float(np.std(logit_B, ddof=1))
        if error < 1e-9 or value == 1.0:  # equal but for rounding
            return Interval(None, None, "none: all replicates are equal")
        reach = float(-ndtri(TAIL)) * error
        method = f"{replace(self, replicates=replicates).method}, on the logit scale"
        return Interval(float(expit(logit(value) - reach)), float(expit(logit(value) + reach)), method)

    def _generator(self, figure: str) -> torch.Generator:
        return generator(self.seed, "bootstrap", self.attack, figure)

    def _percentiles(self, drawn: Tensor) -> Interval:
        low, high = drawn.quantile(drawn.new_tensor([TAIL, 1 - TAIL])).tolist()
        return Interval(low, high, self.method)


def tpr_at_fpr_draws(curve: Roc, max_fpr: float, replicates: int, random: torch.Generator) -> Tensor:
    """TPR at FPR of `replicates` redrawn data sets, float64 `[B]`.

    With k false positives allowed the threshold lies just above the redrawn non-member of rank k + 1. A redrawn
    non-member has a rank among the n_0 original ones that is uniform on 1, …, n_0, as n_0 U rounded up is for U uniform
    on (0, 1). The (k + 1)-th smallest of n_0 such U is a Beta(k + 1, n_0 - k) number, and rounding keeps the order. Of
    the n_1 redrawn members a binomial number is above the score of that rank, with the share of the original members
    above it.

    Args:
        max_fpr: in (0, 1].
        replicates: B.
        random: on the CPU.
    """
    n1, n0 = curve.num_members, curve.num_nonmembers
    allowed = allowed_false_positives(max_fpr, n0)
    if allowed == n0:
        return torch.ones(replicates, dtype=torch.float64)
    place_B = _order_statistics(allowed + 1, n0, replicates, random)
    rank_B = (place_B * n0).long().clamp(max=n0 - 1) + 1
    at_B = torch.searchsorted(curve.false_positives_F.cpu(), rank_B) - 1  # the last point that does not flag it
    share_B = curve.true_positives_F.cpu()[at_B].double() / n1
    return torch.binomial(torch.full_like(share_B, n1), share_B, generator=random) / n1


def precision_at_recall_draws(curve: Roc, recall: float, replicates: int, random: torch.Generator) -> Tensor:
    """Precision at 1:1 of the highest threshold of at least this recall, of `replicates` redrawn data sets, float64
    `[B]`.

    The threshold is the score of the redrawn member of rank k = ⌈recall · n_1⌉, found as in `tpr_at_fpr_draws` from the
    k-th smallest U of n_1. The other n_1 - k redrawn members have U above it, uniformly, and are flagged too if they
    share its score: with s the share of original members at or above that score, each does with a probability of
    (s - U) / (1 - U). Their number is binomial, as is that of the non-members at or above the score.

    Args:
        recall: in (0, 1].
        replicates, random: as for `tpr_at_fpr_draws`.
    """
    n1, n0 = curve.num_members, curve.num_nonmembers
    needed = members_for(recall, n1)
    place_B = _order_statistics(needed, n1, replicates, random)
    rank_B = (place_B * n1).long().clamp(max=n1 - 1) + 1
    at_B = torch.searchsorted(curve.true_positives_F.cpu(), rank_B)
    reached_B = curve.true_positives_F.cpu()[at_B].double() / n1
    tied_B = ((reached_B - place_B) / (1 - place_B)).clamp(0, 1)
    found_B = needed + torch.binomial(torch.full_like(tied_B, n1 - needed), tied_B, generator=random)
    share_B = curve.false_positives_F.cpu()[at_B].double() / n0
    fpr_B = torch.binomial(torch.full_like(share_B, n0), share_B, generator=random) / n0
    tpr_B = found_B / n1
    return tpr_B / (tpr_B + fpr_B)


def average_precision_draws(curve: Roc, replicates: int, random: torch.Generator) -> Tensor:
    """Average precision of `replicates` redrawn data sets, float64 `[B]` on the device of the curve.

    More than 256 distinct scores are taken in 256 groups of neighbours, within which scores count as tied; the change
    that this makes to the figure itself is taken off all replicates.
    """
    point_F = _grouped(curve)
    true_F, false_F = curve.true_positives_F[point_F], curve.false_positives_F[point_F]
    shift = curve.average_precision - float(_average_precision(true_F[1:], false_F[1:]))
    device = true_F.device
    parts = []
    width = max(1, _SLICE_NUMBERS // len(point_F))
    for start in range(0, replicates, width):
        size = min(width, replicates - start)
        true_BF, false_BF = (
            _multinomial(count_F.diff().cpu(), size, random).to(device).cumsum(-1) for count_F in (true_F, false_F)
        )
        parts.append(_average_precision(true_BF, false_BF))
    return torch.cat(parts) + shift


def members_for(recall: float, num_members: int) -> int:
    """The fewest members whose share, as a float, is at least `recall`."""
    count = max(ceil(recall * num_members) - 1, 1)
    while count / num_members < recall:
        count += 1
    return count


def _order_statistics(rank: int, total: int, replicates: int, random: torch.Generator) -> Tensor:
    """The `rank`-th smallest of `total` uniform numbers, `replicates` times."""
    uniform_B = torch.rand(replicates, generator=random, dtype=torch.float64)
    return torch.from_numpy(betaincinv(rank, total - rank + 1, uniform_B.numpy()))


def _grouped(curve: Roc) -> Tensor:
    """Points of the ROC, the first and the last among them, that cut the records into at most `MAX_GROUPS` groups."""
    flagged_F = curve.true_positives_F + curve.false_positives_F
    last = len(flagged_F) - 1
    if last <= MAX_GROUPS:
        return torch.arange(last + 1, device=flagged_F.device)
    cut = torch.linspace(0, int(flagged_F[-1]), MAX_GROUPS + 1, dtype=torch.float64, device=flagged_F.device)
    point_F: Tensor = torch.searchsorted(flagged_F.double(), cut).clamp(max=last).unique()
    return point_F


def _average_precision(true_BF: Tensor, false_BF: Tensor) -> Tensor:
    """Of counts of flagged members and non-members at descending scores; see `Roc.average_precision`."""
    gained_BF = torch.cat([true_BF[..., :1], true_BF.diff(dim=-1)], dim=-1)
    precision_BF = true_BF.double() / (true_BF + false_BF).clamp(min=1)
    total_B: Tensor = (gained_BF * precision_BF).sum(-1)
    share_B: Tensor = total_B / true_BF[..., -1]
    return share_B


def _multinomial(count_F: Tensor, replicates: int, random: torch.Generator) -> Tensor:
    """As many records as there are, drawn with replacement: their numbers in each cell, int64 `[B, F]`.

    Cells are halved again and again, and the records of a half are a binomial share of those of the whole.
    """
    levels = max(len(count_F) - 1, 1).bit_length()
    padded_F = torch.zeros(2**levels, dtype=torch.float64)
    padded_F[: len(count_F)] = count_F
    sums = [padded_F]
    while len(sums[-1]) > 1:
        sums.append(sums[-1].view(-1, 2).sum(1))
    drawn_BF = sums[-1].expand(replicates, 1)
    for whole_F, half_F in zip(reversed(sums[1:]), reversed(sums[:-1]), strict=True):
        share_F = half_F[::2] / whole_F.clamp(min=1)
        left_BF = torch.binomial(drawn_BF.contiguous(), share_F.expand(replicates, -1).contiguous(), generator=random)
        drawn_BF = torch.stack([left_BF, drawn_BF - left_BF], dim=2).flatten(1)
    return drawn_BF[:, : len(count_F)].long()
