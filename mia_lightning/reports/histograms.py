"""How the scores of an attack are spread over members and over non-members, binned for drawing."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mia_lightning.reports.curves import Array
from mia_lightning.reports.scores import Scores

NUM_BINS = (12, 40)  # at least, at most
TAILS = (0.01, 0.05, 0.1, 0.25)  # of all scores on either side of the axis: extreme ones squeeze the others together
MOST = 0.5  # of all scores in one bin; with more, a larger part is left beyond the axis


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreHistogram:
    """Scores of members and of non-members over the same bins of equal width.

    Attributes:
        edge: `[F + 1]`, rising; in units of the score. What lies beyond the ends is counted in the first and last bin.
        members: `[F]`, the share of the members in each bin.
        nonmembers: the same of the non-members.
        median_member, median_nonmember: of the scores themselves.
        threshold: the lowest score that the attack flags; None where a higher one is not flagged, so that the decision
            rests on more than the score, and where nothing is flagged.
    """

    edge: Array
    members: Array
    nonmembers: Array
    median_member: float
    median_nonmember: float
    threshold: float | None


def score_histogram(scores: Scores, name: str) -> ScoreHistogram | None:
    """The histogram of attack `name`; None where members, non-members or finite scores are absent."""
    rows = scores.attack == name
    score, is_member, is_flagged = scores.score[rows], scores.is_member[rows], scores.is_flagged[rows]
    finite = score[np.isfinite(score)]
    if not finite.size or is_member.all() or not is_member.any():
        return None
    edge = _edges(finite, _num_bins(min(int(is_member.sum()), int((~is_member).sum()))))
    within = np.clip(score, edge[0], edge[-1])
    return ScoreHistogram(
        edge=edge,
        members=_shares(within[is_member], edge),
        nonmembers=_shares(within[~is_member], edge),
        median_member=_median(score[is_member]),
        median_nonmember=_median(score[~is_member]),
        threshold=_threshold(score, is_flagged),
    )


def _edges(finite: Array, num_bins: int) -> Array:
    """Of the smallest tails under which no bin holds most of the scores, else of those with the fewest in one."""
    tried = [np.histogram_bin_edges(np.quantile(finite, [tail, 1 - tail]), bins=num_bins) for tail in TAILS]
    most = [float(_shares(np.clip(finite, edge[0], edge[-1]), edge).max()) for edge in tried]
    legible = (edge for edge, share in zip(tried, most, strict=True) if share <= MOST)
    edge: Array = next(legible, tried[int(np.argmin(most))])
    return edge


def _num_bins(num_scores: int) -> int:
    """Twice the cube root (the rule of Rice University), within bounds: fewer scores than that are noise."""
    return int(np.clip(np.ceil(2 * np.cbrt(num_scores)), *NUM_BINS))


def _shares(score: Array, edge: Array) -> Array:
    return np.histogram(score, edge)[0] / len(score)


def _median(score: Array) -> float:
    """Of scores that may be infinite: the lower of the middle two, since these may have no mean."""
    return float(np.quantile(score, 0.5, method="lower"))


def _threshold(score: Array, is_flagged: np.ndarray[Any, np.dtype[np.bool_]]) -> float | None:
    if not is_flagged.any():
        return None
    lowest = float(score[is_flagged].min())
    is_by_score = bool((score[~is_flagged] < lowest).all())
    return lowest if is_by_score and np.isfinite(lowest) else None
