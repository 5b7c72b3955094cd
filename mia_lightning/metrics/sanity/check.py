"""Whether a given or served target is what it is taken for, judged by its answers before any attack is.

Accuracies alone cannot tell: a file of answers that is sorted by class and shifted by one row keeps them. A target is
`void` if its members are classified worse than the others, if a repair (classes, rows or records in another order,
another normalisation) gains, if its accuracy is not the expected one, or if the signal of its records within their
classes has nothing to do with that of the shadow models that were not trained on them. It is `unconfirmed` if nothing
shows that it is right. A right target is void with a probability of about 0.001 for each of these rules.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import binom, hypergeom, norm

from mia_lightning.metrics.intervals.limits import area_under_curve
from mia_lightning.metrics.sanity.answers import ALPHA, Answers, Array, Found, Peers, Repair, Sanity, share
from mia_lightning.metrics.sanity.ranks import Correlation, stratified_correlation
from mia_lightning.metrics.sanity.repairs import try_repairs
from mia_lightning.terminal.amounts import show

_Z = float(norm.isf(ALPHA))
# A correlation is held against a target only where one of half the shadow models' own would be found with 99.9 %.
_ABLE = 2 * _Z
_FAR_BELOW = 0.1  # in accuracy, or a quarter of the shadow models' own
_CHANCE = 0.025  # to be called better than the commonest class, on members or on the others
_ONE_CLASS = 0.95
_FEWEST_PEERS = 4
_EXPECTED = (
    "give the accuracy that was seen elsewhere on records that it was not trained on in `target.expected_accuracy`"
)
_UNKNOWN = (
    "another preprocessing than in its training, answers in another order, or a target that has learnt little",
    _EXPECTED,
)
OTHERS_MEMBERS = (
    "the members are those of another training, or it was trained in another way than the shadow models, by which it "
    "remembers less"
)
SEE_MEMBERS = "see that `membership` lists the records that this very model was trained on"


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
    found = Found()
    _members_worse(answers, found)
    try_repairs(answers, peers, repairs, class_mend, np.random.default_rng(draw), found)
    is_met = _as_expected(answers, expected_accuracy, found)
    correlation = correlated(answers, peers, found)
    found.unconfirmed += _one_answer(answers)
    if not is_met:
        weak = [*_no_better(answers), *_far_below(answers, peers)]
        found.unconfirmed += weak
        if weak:
            found.causes.append((0.9, *_UNKNOWN))
        unshown = unshown_members(answers, peers, found)
        found.unconfirmed += unshown
        if unshown:
            found.causes.append((0.95, OTHERS_MEMBERS, f"{SEE_MEMBERS}; if it does, {_EXPECTED}"))
    return found.judged(None if correlation is None else correlation.rho)


def _members_worse(answers: Answers, found: Found) -> None:
    """One-sided Fisher test."""
    right = [int(answers.is_right_N[mask].sum()) for mask in (answers.member_N, answers.nonmember_N)]
    n = [int(mask.sum()) for mask in (answers.member_N, answers.nonmember_N)]
    if min(n) and float(hypergeom.cdf(right[0], sum(n), sum(right), n[0])) < ALPHA:
        found.void.append(
            f"It classifies {share(right[0], n[0])} of its members correctly and {share(right[1], n[1])} of the "
            "others: a model does not know the records that it was trained on less well than others."
        )
        found.causes.append(
            (
                1.0,
                "the membership: members and non-members are exchanged, or are not those of this target",
                "look at how `membership` numbers the records",
            )
        )


def _as_expected(answers: Answers, expected: float | None, found: Found) -> bool:
    """Whether the accuracy on non-members lies in the 99.9 % binomial interval around the expected one."""
    n = int(answers.nonmember_N.sum())
    if expected is None or n == 0:
        return False
    right = int(answers.is_right_N[answers.nonmember_N].sum())
    if binom.cdf(right, n, expected) >= ALPHA / 2 and binom.sf(right - 1, n, expected) >= ALPHA / 2:
        return True
    found.void.append(
        f"It classifies {share(right, n)} of {n:,} non-members correctly, and `target.expected_accuracy` is "
        f"{expected:g}."
    )
    return False


def correlated(answers: Answers, peers: Peers | None, found: Found, *, parts: str = "classes") -> Correlation | None:
    """Whether the target's signal rises with the shadow models' own on records that these were not trained on.

    Args:
        parts: what `answers.label_N` numbers, within which ranks are compared.
    """
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
            f"Within the {parts} its answers have nothing to do with those of the shadow models for the same records "
            f"(rank correlation {show(own.rho, 2)}; the shadow models' own {show(float(np.median(rhos)), 2)})."
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


def _peer_correlation(answers: Answers, peers: Peers, k: int) -> Correlation | None:
    outside_N = peers.mean_out_N(peers.signal_KN, without=k)
    usable = answers.scored_N & peers.out_KN[k] & np.isfinite(outside_N)
    return stratified_correlation(peers.signal_KN[k][usable], outside_N[usable], answers.label_N[usable])


def unshown_members(answers: Answers, peers: Peers | None, found: Found) -> list[str]:
    """That nothing shows whose members these are: the target knows them no better than the others, where shadow models
    know their own so much better that it would be found of the target, too."""
    own, theirs = _known_areas(answers, peers)
    n_1, n_0 = int(answers.member_N.sum()), int(answers.nonmember_N.sum())
    error = ((n_1 + n_0 + 1) / (12 * n_1 * n_0)) ** 0.5 if min(n_1, n_0) else np.inf
    if own is not None and own - 0.5 >= _Z * error:
        return []
    if own is None or theirs is None or theirs - 0.5 < _ABLE * error:
        found.notes.append(
            "Whether the members are its own was not tested against shadow models: there are too few of these or of "
            "the records, or they know their own too little."
        )
        return []
    return [
        f"It knows its members no better than the others (its signals tell them with an AUC of {own:.3f}), where each "
        f"shadow model knows its own ({theirs:.3f}): nothing shows that these are the records that it was trained on."
    ]


def _known_areas(answers: Answers, peers: Peers | None) -> tuple[float | None, float | None]:
    """The AUCs by which signals tell the members of the target, as they are or less those of shadow models without the
    record, whichever is larger; and those of a shadow model, less those of the others (the median of some). None where
    there is too little of something."""
    if peers is None or len(peers.signal_KN) < _FEWEST_PEERS:
        return None, None
    level_N = answers.signal_N - peers.mean_out_N(peers.signal_KN)
    own = [_known_area(each_N, answers.member_N, answers.nonmember_N) for each_N in (answers.signal_N, level_N)]
    areas = []
    for k in range(min(8, len(peers.signal_KN))):
        peer_N = peers.signal_KN[k] - peers.mean_out_N(peers.signal_KN, without=k)
        area = _known_area(peer_N, ~peers.out_KN[k], peers.out_KN[k])
        areas += [] if area is None else [area]
    largest = max((each for each in own if each is not None), default=None)
    return largest, float(np.median(areas)) if areas else None


def _known_area(level_N: Array, member_N: Array, nonmember_N: Array) -> float | None:
    """The AUC of levels; None with fewer than five members or others."""
    usable_N = (member_N | nonmember_N) & np.isfinite(level_N)
    is_member_N = member_N[usable_N]
    if min(is_member_N.sum(), (~is_member_N).sum()) < 5:
        return None
    return area_under_curve(level_N[usable_N], is_member_N)


def _one_answer(answers: Answers) -> list[str]:
    """That all records of a class get one and the same answer, from which no model can be told."""
    label_N, signal_N, predicted_N = (
        each_N[answers.scored_N] for each_N in (answers.label_N, answers.signal_N, answers.predicted_N)
    )
    signals = np.stack([label_N, signal_N])
    if len(np.unique(predicted_N)) > 1 or np.unique(signals, axis=1).shape[1] > len(np.unique(label_N)):
        return []
    return ["Its answer is the same for all records, as where a server gives one that it has kept."]


def _no_better(answers: Answers) -> list[str]:
    sentences, masks = [], (answers.member_N, answers.nonmember_N)
    if not any(_beats_commonest(answers, mask) for mask in masks):
        n = int(answers.scored_N.sum())
        common = int(np.bincount(answers.label_N[answers.scored_N]).max())
        sentences.append(
            f"It classifies {share(int(answers.is_right_N[answers.scored_N].sum()), n)} of the records correctly, no "
            f"better than naming the commonest class each time ({share(common, n)})."
        )
    count_C = np.bincount(answers.predicted_N[answers.scored_N], minlength=len(answers.class_names))
    if count_C.max() > _ONE_CLASS * count_C.sum():
        sentences.append(
            f"It answers {answers.class_names[int(count_C.argmax())]} for {share(int(count_C.max()), count_C.sum())} "
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
