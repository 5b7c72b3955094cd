"""Repairs of a wrong target: classes, rows or records in another order, another normalisation, other members."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import mannwhitneyu, wilcoxon

from mia_lightning.metrics.sanity.answers import ALPHA, Answers, Array, Found, Peers, Repair
from mia_lightning.metrics.sanity.ranks import gain, ranks_within

_ACCURACY_WEIGHT = 20.0  # beside a margin in [-1, 1]: 5 % of accuracy outweigh any
_MOST_RECORDS = 8192  # on which repairs are judged: bounds time, not the error


def try_repairs(
    answers: Answers,
    peers: Peers | None,
    repairs: Sequence[Repair],
    class_mend: Callable[[Sequence[int]], str],
    rng: np.random.Generator,
    found: Found,
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
            p, score = moved_members(answers, repair, outside_N, fitted_N | other_N)
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
    found.void.append(gained(answers, best))
    found.causes.append((0.0, *_cause(best, peers)))


def _cause(repair: Repair, peers: Peers | None) -> tuple[str, str]:
    """Cause and mend. A repair after which the target is right on less than half as many records as the shadow models
    need not be what is wrong: the classes of a network that was never trained can be put in a better order, too."""
    if repair.kind == "members" or peers is None:
        return repair.cause, repair.mend
    theirs_N = peers.mean_out_N(peers.is_right_KN.astype(float))
    judged = repair.judged_N & repair.answers.scored_N & np.isfinite(theirs_N)
    if not judged.any() or repair.answers.is_right_N[judged].mean() >= theirs_N[judged].mean() / 2:
        return repair.cause, repair.mend
    return (
        f"it is not the trained model, since mended, too, it is right on less than half as many records as the shadow "
        f"models, or {repair.cause}",
        f"see that it is the one that was trained; if it is, {repair.mend}",
    )


def _merit(passed: tuple[float, Repair], answers: Answers) -> tuple[float, float]:
    """By which one of several repairs is named: what it gains in accuracy and, since normalisations that nearly agree
    gain nearly the same, the margin of the least certain members; then evidence."""
    score, repair = passed
    judged = answers.scored_N & repair.judged_N
    gained = repair.answers.is_right_N[judged].mean() - answers.is_right_N[judged].mean() if judged.any() else 0.0
    certain = _least_margin(repair.answers.signal_N[judged & answers.member_N]) if repair.kind == "answers" else 0.0
    return _ACCURACY_WEIGHT * float(gained) + certain, score


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


def gained(answers: Answers, repair: Repair) -> str:
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


def moved_members(answers: Answers, repair: Repair, outside_N: Array | None, among_N: Array) -> tuple[float, float]:
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
    signals = np.stack([outside_N, answers.signal_N, repair.answers.signal_N])
    own, old, new = ranks_within(signals[:, usable], stratum)
    difference = np.abs(old - own) - np.abs(new - own)
    if not difference.any():
        return 1.0
    return float(wilcoxon(difference, alternative="greater", method="approx").pvalue)


def _order(names: Sequence[str], order: Sequence[int]) -> str:
    """The outputs that stand for another class, as "output low is mid"."""
    moved = [f"output {names[place]!r} is {names[c]!r}" for place, c in enumerate(order) if place != c]
    return ", ".join(moved[:10]) + (f" and {len(moved) - 10} more" if len(moved) > 10 else "")
