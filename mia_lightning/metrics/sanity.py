"""Whether a given or served target is what it is taken for, judged by its answers before any attack is.

Accuracies alone cannot tell: a file of answers that is sorted by class and shifted by one row keeps them. A target is
`void` if its members are classified worse than the others, if a repair (classes, rows or records in another order,
another normalisation) gains, if its accuracy is not the expected one, or if the signal of its records within their
classes has nothing to do with that of the shadow models that were not trained on them. It is `unconfirmed` if nothing
shows that it is right. A right target is void with a probability of about 0.001 for each of these rules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom, hypergeom, mannwhitneyu, norm, rankdata, wilcoxon

Array = np.ndarray[Any, np.dtype[Any]]
Verdict = Literal["void", "unconfirmed", "sound", "not checked"]

ALPHA = 0.001  # of each rule
_Z = float(norm.isf(ALPHA))
# A correlation is held against a target only where one of half the shadow models' own would be found with 99.9 %.
_ABLE = 2 * _Z
_FAR_BELOW = 0.1  # in accuracy, or a quarter of the shadow models' own
_CHANCE = 0.025  # to be called better than the commonest class, on members or on the others
_ONE_CLASS = 0.95
_ACCURACY_WEIGHT = 20.0  # beside a margin in [-1, 1]: 5 % of accuracy outweigh any
_UNKNOWN = (
    "another preprocessing than in its training, answers in another order, or a target that has learnt little",
    "give the accuracy that was seen elsewhere on records that it was not trained on in `target.expected_accuracy`",
)
_MOST_RECORDS = 8192  # on which repairs are judged: bounds time, not the error


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """What one target answers for N records.

    Attributes:
        predicted_N: int64, the class of the largest probability.
        signal_N: float64, log probability of the record's own class.
        label_N: int64.
        member_N, nonmember_N: bool; the records that are in neither are no evidence.
        asked_N: bool, the records with an answer.
        class_names: C of them.
    """

    predicted_N: Array
    signal_N: Array
    label_N: Array
    member_N: Array
    nonmember_N: Array
    asked_N: Array
    class_names: tuple[str, ...]

    @property
    def is_right_N(self) -> Array:
        is_right_N: Array = self.predicted_N == self.label_N
        return is_right_N

    @property
    def scored_N(self) -> Array:
        return self.member_N | self.nonmember_N


@dataclass(frozen=True, eq=False, kw_only=True)
class Peers:
    """What K shadow models answer for the same records.

    Attributes:
        signal_KN: float64, log probability of the record's own class.
        is_right_KN: bool.
        out_KN: bool, the records that a model was not trained on.
    """

    signal_KN: Array
    is_right_KN: Array
    out_KN: Array

    def mean_out_N(self, value_KN: Array, *, without: int | None = None) -> Array:
        """The mean over the models that were not trained on a record; NaN where there is none."""
        out_KN = self.out_KN
        if without is not None:
            out_KN = out_KN.copy()
            out_KN[without] = False
        count_N = out_KN.sum(0)
        total_N = np.where(out_KN, value_KN, 0.0).sum(0)
        return np.where(count_N > 0, total_N / np.maximum(count_N, 1), np.nan)


@dataclass(frozen=True, eq=False, kw_only=True)
class Repair:
    """A change after which a wrong target might be right.

    Attributes:
        cause: what would be wrong, as the end of "Likely cause: …".
        mend: what to do about it, with the setting.
        answers: the target after it; None for a permutation of classes, which is found here.
        kind: `answers` are judged by accuracy, `order` by the ranks of the shadow models, too, `members` by the signal
            of the records whose membership changes.
        judged_N: bool, the records on which it can be judged.
    """

    cause: str
    mend: str
    answers: Answers
    kind: Literal["answers", "order", "members"] = "answers"
    judged_N: Array


@dataclass(frozen=True, kw_only=True)
class Sanity:
    """What was found of a target.

    Attributes:
        reasons: what speaks against it, in sentences; none for a sound one.
        cause, mend: the likely cause and what to do about it; None where they are not known.
        correlation: within classes, of the ranks of the target's and the shadow models' signals; None where it could
            not be judged.
        notes: which checks were not run, and why.
    """

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    cause: str | None = None
    mend: str | None = None
    correlation: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Correlation:
    """Stratified rank correlation, with its null standard score; `per_unit` is the score of a correlation of one."""

    rho: float
    z: float
    per_unit: float


@dataclass(kw_only=True)
class _Found:
    void: list[str] = field(default_factory=list)
    unconfirmed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    causes: list[tuple[float, str, str]] = field(default_factory=list)  # p, cause, mend


def check_target(
    answers: Answers,
    peers: Peers | None,
    *,
    repairs: Sequence[Repair] = (),
    class_mend: Callable[[Sequence[int]], str] = lambda order: "give its answers in the order of the data set",
    expected_accuracy: float | None = None,
    draw: int = 0,
) -> Sanity:
    """Whether the target is what it is taken for.

    Args:
        answers: of the target, as they are.
        peers: the shadow models on the same records; None without any.
        repairs: beside the permutation of classes, which is always tried.
        class_mend: what to do about classes that stand in the order `order` of the data set's.
        expected_accuracy: on records that it was not trained on, as it was seen elsewhere; None for unknown.
        draw: seed of the halves, on one of which repairs are fitted and on the other judged.
    """
    found = _Found()
    _members_worse(answers, found)
    _repaired(answers, peers, repairs, class_mend, np.random.default_rng(draw), found)
    is_met = _as_expected(answers, expected_accuracy, found)
    correlation = _correlated(answers, peers, found)
    if not is_met:
        weak = [*_no_better(answers), *_far_below(answers, peers)]
        found.unconfirmed += weak
        if weak:
            found.causes.append((0.9, *_UNKNOWN))
    verdict: Verdict = "void" if found.void else "unconfirmed" if found.unconfirmed else "sound"
    cause, mend = None, None
    if found.causes:
        _, cause, mend = min(found.causes, key=lambda each: each[0])
    return Sanity(
        verdict=verdict,
        reasons=tuple(found.void or found.unconfirmed),
        cause=cause,
        mend=mend,
        correlation=None if correlation is None else correlation.rho,
        notes=tuple(found.notes),
    )


def stratified_correlation(first_N: Array, second_N: Array, stratum_N: Array) -> _Correlation | None:
    """Spearman's correlation within strata; None where either has ties alone.

    The variance of the score is the exact one of random ranks within each stratum.
    """
    cov = ss_first = ss_second = variance = 0.0
    for stratum in np.unique(stratum_N):
        inside = stratum_N == stratum
        n = int(inside.sum())
        if n < 3:
            continue
        one = (rankdata(first_N[inside]) - (n + 1) / 2) / n
        two = (rankdata(second_N[inside]) - (n + 1) / 2) / n
        own, other = float(one @ one), float(two @ two)
        cov, ss_first, ss_second = cov + float(one @ two), ss_first + own, ss_second + other
        variance += own * other / (n - 1)
    scale = float(np.sqrt(ss_first * ss_second))
    if variance == 0 or scale == 0:
        return None
    return _Correlation(rho=cov / scale, z=cov / variance**0.5, per_unit=scale / variance**0.5)


def gain(old_N: Array, new_N: Array, label_N: Array) -> float:
    """One-sided p-value that new predictions are better than old ones, beyond what their frequencies explain.

    The larger of two: McNemar's exact test of the records that one of them has right alone; and the score of their
    difference under labels in random order, since predicting the commonest class more often is no repair.
    """
    old_right, new_right = old_N == label_N, new_N == label_N
    better, worse = int((new_right & ~old_right).sum()), int((old_right & ~new_right).sum())
    if better <= worse:
        return 1.0
    paired = float(binom.sf(better - 1, better + worse, 0.5))
    n = len(label_N)
    pairs, count_P = np.unique(np.stack([old_N, new_N]), axis=1, return_counts=True)
    names_Y, count_Y = np.unique(label_N, return_counts=True)
    a_PY = (pairs[1][:, None] == names_Y).astype(float) - (pairs[0][:, None] == names_Y)
    share_P, share_Y = count_P / n, count_Y / n
    row_P, column_Y = a_PY @ share_Y, share_P @ a_PY
    mean = float(share_P @ row_P)
    centred_PY = a_PY - row_P[:, None] - column_Y + mean
    variance = float(count_P @ centred_PY**2 @ count_Y) / max(n - 1, 1)
    if variance <= 0:
        return 1.0
    return max(paired, float(norm.sf((better - worse - n * mean) / variance**0.5)))


def _members_worse(answers: Answers, found: _Found) -> None:
    """One-sided Fisher test."""
    right = [int(answers.is_right_N[mask].sum()) for mask in (answers.member_N, answers.nonmember_N)]
    n = [int(mask.sum()) for mask in (answers.member_N, answers.nonmember_N)]
    if min(n) and float(hypergeom.cdf(right[0], sum(n), sum(right), n[0])) < ALPHA:
        found.void.append(
            f"It classifies {_share(right[0], n[0])} of its members correctly and {_share(right[1], n[1])} of the "
            "others: a model does not know the records that it was trained on less well than others."
        )
        found.causes.append(
            (
                1.0,
                "the membership: members and non-members are exchanged, or are not those of this target",
                "look at how `membership` numbers the records",
            )
        )


def _repaired(
    answers: Answers,
    peers: Peers | None,
    repairs: Sequence[Repair],
    class_mend: Callable[[Sequence[int]], str],
    rng: np.random.Generator,
    found: _Found,
) -> None:
    """A permutation is fitted on one half of the records and judged on the other.

    The other repairs have nothing to fit, and are judged on all. The p-value is corrected for the number of tests.
    """
    place = answers.scored_N.nonzero()[0]
    if len(place) > _MOST_RECORDS:
        place = np.sort(rng.choice(place, _MOST_RECORDS, replace=False))
    fitted_N, other_N = np.zeros(len(answers.label_N), bool), np.zeros(len(answers.label_N), bool)
    first = rng.random(len(place)) < 0.5
    fitted_N[place[first]], other_N[place[~first]] = True, True
    outside_N = None if peers is None else peers.mean_out_N(peers.signal_KN)
    tried = 1 + sum(2 if each.kind == "order" and peers is not None else 1 for each in repairs)
    passed: list[tuple[float, Repair]] = []
    order = _class_order(answers, fitted_N)
    if order is not None:
        permuted = replace(answers, predicted_N=np.array(order)[answers.predicted_N])
        permutation = Repair(
            cause=f"the classes of its answers stand in another order: {_order(answers.class_names, order)}",
            mend=class_mend(order),
            answers=permuted,
            judged_N=other_N,
        )
        repairs = (permutation, *repairs)
    for repair in repairs:
        if repair.kind == "members":
            p, score = _moved_members(answers, repair, outside_N, fitted_N | other_N)
        else:
            judged = (fitted_N | other_N) & repair.judged_N
            p = gain(answers.predicted_N[judged], repair.answers.predicted_N[judged], answers.label_N[judged])
            if repair.kind == "order" and outside_N is not None:
                p = min(p, _closer(answers, repair, outside_N, judged))
            score = -p
        if p * tried < ALPHA:
            passed.append((score, repair))
    if not passed:
        return
    _, best = max(passed, key=lambda each: _merit(each, answers))
    found.causes.append((0.0, best.cause, best.mend))
    found.void.append(_gained(answers, best))


def _merit(passed: tuple[float, Repair], answers: Answers) -> tuple[float, float]:
    """By which one of several repairs is named: accuracy and, since normalisations that nearly agree have nearly the
    same, the margin of the least certain members; then evidence."""
    score, repair = passed
    judged = answers.scored_N & repair.judged_N
    right = float(repair.answers.is_right_N[judged].mean()) if judged.any() else 0.0
    certain = _least_margin(repair.answers.signal_N[judged & answers.member_N]) if repair.kind == "answers" else 0.0
    return _ACCURACY_WEIGHT * right + certain, score


def _least_margin(signal_N: Array) -> float:
    """Of members, the second percentile of the scaled logit relative to its mean, in [-1, 1].

    Training drives all members over one margin. In other records than those of the training they are disordered,
    whatever the scale of the logits.
    """
    if len(signal_N) == 0:
        return 0.0
    scaled_N = signal_N - np.log(-np.expm1(np.minimum(signal_N, -1e-12)))
    mean = float(scaled_N.mean())
    return float(np.clip(np.quantile(scaled_N, 0.02) / mean, -1, 1)) if mean > 0 else -1.0


def _gained(answers: Answers, repair: Repair) -> str:
    judged = repair.judged_N & answers.scored_N
    if repair.kind == "members":
        lost, won = (
            answers.signal_N[mask & judged]
            for mask in (answers.member_N & ~repair.answers.member_N, repair.answers.member_N & ~answers.member_N)
        )
        return (
            f"With the members counted otherwise the target knows them better: the mean loss of the {len(won):,} "
            f"records that become members is {-won.mean():.3g}, that of the {len(lost):,} others {-lost.mean():.3g}."
        )
    old, new = answers.is_right_N[judged].mean(), repair.answers.is_right_N[judged].mean()
    if new - old < 0.005:
        return "With its answers in another order they resemble those of the shadow models more."
    return f"Mended as below, its accuracy on {int(judged.sum()):,} records is {new:.3f} in place of {old:.3f}."


def _class_order(answers: Answers, fitted_N: Array) -> list[int] | None:
    """The class of the data set that each output most likely is (Hungarian); None where it is the one it should be."""
    C = len(answers.class_names)
    table_CC = np.zeros((C, C))
    np.add.at(table_CC, (answers.predicted_N[fitted_N], answers.label_N[fitted_N]), 1.0)
    total = max(table_CC.sum(), 1.0)
    beyond_CC = table_CC - table_CC.sum(1, keepdims=True) * table_CC.sum(0) / total
    # Classes of which nothing is known stay where they are.
    order: list[int] = linear_sum_assignment(beyond_CC + 1e-6 * np.eye(C), maximize=True)[1].tolist()
    return None if order == list(range(C)) else order


def _moved_members(answers: Answers, repair: Repair, outside_N: Array | None, among_N: Array) -> tuple[float, float]:
    """p-value that records which the repair makes members have larger signals than those that it makes others, and
    the score behind it, which does not underflow."""
    level_N = answers.signal_N if outside_N is None else answers.signal_N - outside_N
    usable = among_N & repair.judged_N & np.isfinite(level_N)
    won = usable & repair.answers.member_N & answers.nonmember_N
    lost = usable & answers.member_N & repair.answers.nonmember_N
    n_1, n_0 = int(won.sum()), int(lost.sum())
    if min(n_1, n_0) < 5:
        return 1.0, 0.0
    found = mannwhitneyu(level_N[won], level_N[lost], alternative="greater")
    score = (float(found.statistic) - n_1 * n_0 / 2) / (n_1 * n_0 * (n_1 + n_0 + 1) / 12) ** 0.5
    return float(found.pvalue), score


def _closer(answers: Answers, repair: Repair, outside_N: Array, judged: Array) -> float:
    """p-value that within classes the repaired answers rank records more as the shadow models do."""
    usable = judged & np.isfinite(outside_N)
    stratum = answers.label_N[usable]
    if len(stratum) < 10:
        return 1.0
    own, old, new = (_ranks(each[usable], stratum) for each in (outside_N, answers.signal_N, repair.answers.signal_N))
    difference = np.abs(old - own) - np.abs(new - own)
    if not difference.any():
        return 1.0
    return float(wilcoxon(difference, alternative="greater", method="approx").pvalue)


def _ranks(value_N: Array, stratum_N: Array) -> Array:
    rank_N = np.zeros(len(value_N))
    for stratum in np.unique(stratum_N):
        inside = stratum_N == stratum
        rank_N[inside] = rankdata(value_N[inside]) / inside.sum()
    return rank_N


def _as_expected(answers: Answers, expected: float | None, found: _Found) -> bool:
    """Whether the accuracy on non-members lies in the 99.9 % binomial interval around the expected one."""
    n = int(answers.nonmember_N.sum())
    if expected is None or n == 0:
        return False
    right = int(answers.is_right_N[answers.nonmember_N].sum())
    if binom.cdf(right, n, expected) >= ALPHA / 2 and binom.sf(right - 1, n, expected) >= ALPHA / 2:
        return True
    found.void.append(
        f"It classifies {_share(right, n)} of {n:,} non-members correctly, and `target.expected_accuracy` is "
        f"{expected:g}."
    )
    return False


def _correlated(answers: Answers, peers: Peers | None, found: _Found) -> _Correlation | None:
    """Whether the target's signal rises with the shadow models' own on records that these were not trained on."""
    if peers is None or len(peers.signal_KN) < 2:
        found.notes.append(
            "Whether its answers belong to these records was not tested against shadow models, since there are too few."
        )
        return None
    outside_N = peers.mean_out_N(peers.signal_KN)
    usable = answers.scored_N & np.isfinite(outside_N)
    stratum_N = 2 * answers.label_N + answers.member_N
    own = stratified_correlation(answers.signal_N[usable], outside_N[usable], stratum_N[usable])
    others = [_peer_correlation(answers, peers, k) for k in range(min(8, len(peers.signal_KN)))]
    rhos = [each.rho for each in others if each is not None]
    expected = 0.0 if own is None or not rhos else float(np.median(rhos)) * own.per_unit
    if own is None or expected < _ABLE:
        found.notes.append(
            "Whether its answers belong to these records was not tested against shadow models: there are too few "
            "records, or the shadow models agree too little."
        )
        return None
    if own.z < _Z:
        sentence = (
            "Within the classes its answers have nothing to do with those of the shadow models for the same records "
            f"(rank correlation {own.rho:.2f}; the shadow models' own {np.median(rhos):.2f})."
        )
        (found.void if expected / 2 >= _ABLE else found.unconfirmed).append(sentence)
        found.causes.append(
            (
                0.5,
                "its answers stand in another order than the records, or it sees other records (preprocessing)",
                "give each record its own answer",
            )
        )
    return own


def _peer_correlation(answers: Answers, peers: Peers, k: int) -> _Correlation | None:
    outside_N = peers.mean_out_N(peers.signal_KN, without=k)
    usable = answers.scored_N & peers.out_KN[k] & np.isfinite(outside_N)
    return stratified_correlation(peers.signal_KN[k][usable], outside_N[usable], answers.label_N[usable])


def _no_better(answers: Answers) -> list[str]:
    sentences, masks = [], (answers.member_N, answers.nonmember_N)
    if not any(_beats_commonest(answers, mask) for mask in masks):
        n = int(answers.scored_N.sum())
        common = int(np.bincount(answers.label_N[answers.scored_N]).max())
        sentences.append(
            f"It classifies {_share(int(answers.is_right_N[answers.scored_N].sum()), n)} of the records correctly, no "
            f"better than naming the commonest class each time ({_share(common, n)})."
        )
    count_C = np.bincount(answers.predicted_N[answers.scored_N], minlength=len(answers.class_names))
    if count_C.max() > _ONE_CLASS * count_C.sum():
        sentences.append(
            f"It answers {answers.class_names[int(count_C.argmax())]} for {_share(int(count_C.max()), count_C.sum())} "
            "of the records."
        )
    return sentences


def _beats_commonest(answers: Answers, mask_N: Array) -> bool:
    n = int(mask_N.sum())
    if n == 0:
        return False
    common = float(np.bincount(answers.label_N[mask_N]).max()) / n
    return bool(binom.sf(int(answers.is_right_N[mask_N].sum()) - 1, n, common) < _CHANCE)


def _far_below(answers: Answers, peers: Peers | None) -> list[str]:
    """On the non-members, beside the shadow models that were not trained on them either."""
    if peers is None:
        return []
    outside_N = peers.mean_out_N(peers.is_right_KN.astype(float))
    usable = answers.nonmember_N & np.isfinite(outside_N)
    if usable.sum() < 2:
        return []
    own, theirs = answers.is_right_N[usable].astype(float), outside_N[usable]
    missing = theirs - own
    error = float(missing.std(ddof=1)) / len(missing) ** 0.5
    far = min(_FAR_BELOW, float(theirs.mean()) / 4)
    if missing.mean() <= far or missing.mean() <= _Z * error:
        return []
    return [
        f"It classifies {100 * own.mean():.1f} % of the records that it was not trained on correctly, where the shadow "
        f"models reach {100 * theirs.mean():.1f} % on those that they were not trained on."
    ]


def _order(names: Sequence[str], order: Sequence[int]) -> str:
    """The outputs that stand for another class, as "output low is mid"."""
    moved = [f"output {names[place]!r} is {names[c]!r}" for place, c in enumerate(order) if place != c]
    return ", ".join(moved[:10]) + (f" and {len(moved) - 10} more" if len(moved) > 10 else "")


def _share(count: int, n: int) -> str:
    return f"{100 * count / n:.1f} %"
