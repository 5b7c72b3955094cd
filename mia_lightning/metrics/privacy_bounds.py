"""Lower bounds of ε from an attack: with so many right guesses, a smaller ε is ruled out at a stated confidence.

Both speak of ε at the given δ under adding or removing one record. They bound the mechanism as it was run, whatever
was claimed of it: a bound above the claim says that the claim is wrong.
"""

from math import exp

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta, binom
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.membership import Membership

CONFIDENCE = 0.95  # of reports, for all attacks together
_BISECTIONS = 50
_UNLUCKY = 1e-3  # probability with which coins may give fewer trials of one kind than were wanted


def multi_run_epsilon(
    true_positives: int, num_in: int, false_positives: int, num_out: int, *, delta: float, confidence: float = 0.95
) -> float:
    """The largest ε ruled out by independent trials, each of one model trained with or without one canary.

    An (ε, δ)-private mechanism has TPR ≤ e^ε FPR + δ and TNR ≤ e^ε FNR + δ, so that with probability `confidence`

        ε ≥ max(0, ln((TPR_lo − δ) / FPR_hi), ln((TNR_lo − δ) / FNR_hi)),

    where each limit is the one-sided Clopper-Pearson limit at 1 − α/2, α = 1 − `confidence`. (TNR_lo = 1 − FPR_hi and
    FNR_hi = 1 − TPR_lo: two limits in all.) The threshold that makes the counts must be fixed beforehand, on other
    trials. Counts over the records of one model are no trials: such a figure describes, and bounds nothing.

    Args:
        true_positives: flagged among the `num_in` models that were trained with the canary.
        false_positives: flagged among the `num_out` models that were trained without it.
        delta: δ in [0, 1).
        confidence: in (0, 1).

    Raises:
        InputError: a count that is none, or δ or the confidence out of range.

    Source: the two inequalities are of Kairouz, Oh and Viswanath, "The composition theorem for differential privacy"
    (2015), the bound is of Jagielski, Ullman and Oprea, "Auditing differentially private machine learning" (2020).

    >>> round(multi_run_epsilon(900, 1000, 100, 1000, delta=1e-5), 3)
    1.99
    """
    _check_count("true_positives", true_positives, num_in, "num_in")
    _check_count("false_positives", false_positives, num_out, "num_out")
    _check_level(delta, confidence)
    counts = (np.array([count]) for count in (true_positives, false_positives))
    true_F, false_F = counts
    return float(_multi_run_epsilons(true_F, num_in, false_F, num_out, delta, confidence)[0])


def _multi_run_epsilons(
    true_positives_F: NDArray[np.int64],
    num_in: int,
    false_positives_F: NDArray[np.int64],
    num_out: int,
    delta: float,
    confidence: float,
) -> NDArray[np.float64]:
    """`multi_run_epsilon` of the counts of many thresholds."""
    level = (1 - confidence) / 2
    # At 0, and at all, the formula's shape parameter is 0 and the limit that of the range.
    tpr_low_F = beta.ppf(level, np.maximum(true_positives_F, 1), num_in - true_positives_F + 1)
    tpr_low_F = np.where(true_positives_F == 0, 0.0, tpr_low_F)
    fpr_high_F = beta.ppf(1 - level, false_positives_F + 1, np.maximum(num_out - false_positives_F, 1))
    fpr_high_F = np.where(false_positives_F == num_out, 1.0, fpr_high_F)
    ratios = [
        np.maximum(right_F - delta, 0.0) / wrong_F
        for right_F, wrong_F in ((tpr_low_F, fpr_high_F), (1 - fpr_high_F, 1 - tpr_low_F))
    ]
    epsilon_F: NDArray[np.float64] = np.log(np.maximum(1.0, np.maximum(*ratios)))
    return epsilon_F


def most_telling_threshold(score_K: Tensor, is_in_K: Tensor, *, delta: float, confidence: float = CONFIDENCE) -> float:
    """The t whose flags "score >= t" rule out the largest ε on these trials; learnt here, to be used on others.

    Of thresholds that rule out equally much, such as nothing, the one of the largest TPR − FPR is taken, and of equals
    the highest. It lies half-way between the lowest flagged score and the next below it.

    Args:
        score_K: higher means more likely trained with the canary; no NaN.
        is_in_K: bool; with both kinds.

    Raises:
        InputError: one kind of trials alone.
    """
    num_in, num_out = int(is_in_K.sum()), int((~is_in_K).sum())
    if not num_in or not num_out:
        raise InputError(
            f"{num_in} trials have the canary and {num_out} do not; a threshold is learnt from both kinds: raise "
            "`shadow.count`."
        )
    score_F = np.unique(score_K.double().numpy())[::-1]
    sides = [np.sort(score_K[side_K].double().numpy()) for side_K in (is_in_K, ~is_in_K)]
    true_F, false_F = (len(side) - np.searchsorted(side, score_F) for side in sides)
    epsilon_F = _multi_run_epsilons(true_F, num_in, false_F, num_out, delta, confidence)
    best = int(np.lexsort((np.arange(len(score_F)), false_F * num_in - true_F * num_out, -epsilon_F))[0])
    flagged, below = float(score_F[best]), float(score_F[min(best + 1, len(score_F) - 1)])
    middle = flagged / 2 + below / 2
    return middle if below < middle <= flagged else flagged  # as it stands where there is none below, or none finite


def largest_certifiable_epsilon(num_in: int, num_out: int, *, delta: float, confidence: float = 0.95) -> float:
    """`multi_run_epsilon` of an attack without a mistake: no ε above it can be shown with so many trials.

    >>> round(largest_certifiable_epsilon(1000, 1000, delta=1e-5), 3)
    5.601
    """
    return multi_run_epsilon(num_in, num_in, 0, num_out, delta=delta, confidence=confidence)


def one_run_epsilon(
    num_canaries: int, num_guesses: int, num_correct: int, *, delta: float, confidence: float = 0.95
) -> float:
    """The largest ε ruled out by one model, m of whose records were each in by a fair coin that the guesser never saw.

    All other records are always in, and the number r of guesses, the rest being abstentions, is fixed beforehand
    (`correct_guesses`). Ruled out is an ε at which so many correct guesses have a p-value (`one_run_p_value`) of at
    most 1 − `confidence`; the largest is found by bisection.

    Args:
        num_canaries, num_guesses, num_correct: m, r and v; v ≤ r ≤ m.
        delta: δ in [0, 1).
        confidence: in (0, 1).

    Raises:
        InputError: numbers that are no such counts, or δ or the confidence out of range.

    Source: Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run" (2023), the theorem for (ε, δ) and
    appendix D, whose example this is:

    >>> round(one_run_epsilon(1000, 100, 75, delta=1e-4), 3)
    0.673
    """
    _check_count("num_guesses", num_guesses, num_canaries, "num_canaries")
    _check_count("num_correct", num_correct, num_guesses, "num_guesses")
    _check_level(delta, confidence)

    def is_ruled_out(epsilon: float) -> bool:
        return one_run_p_value(num_canaries, num_guesses, num_correct, epsilon=epsilon, delta=delta) <= 1 - confidence

    low, high = 0.0, 1.0
    if not is_ruled_out(low):
        return 0.0
    while is_ruled_out(high):
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_ruled_out(middle) else (low, middle)
    return low


def one_run_p_value(num_canaries: int, num_guesses: int, num_correct: int, *, epsilon: float, delta: float) -> float:
    """A bound of the probability of at least v correct guesses out of r where the training is (ε, δ)-private.

    With W ~ Binomial(r, e^ε / (1 + e^ε)), the correct guesses about r bits released by randomised response,

        p = P[W ≥ v] + 2 m δ max over 1 ≤ i ≤ v of P[v > W ≥ v − i] / i,     at most 1.

    δ counts with all m canaries, since each may be the one whose bit slips out.

    Source: as for `one_run_epsilon`.
    """
    v, r = num_correct, num_guesses
    rate = 1 / (1 + exp(-epsilon))
    probability = float(binom.sf(v - 1, r, rate))
    if delta > 0 and v > 0:
        slips = np.arange(1, v + 1)
        probability += 2 * num_canaries * delta * float((binom.pmf(v - slips, r, rate).cumsum() / slips).max())
    return min(1.0, probability)


def correct_guesses(score_N: Tensor, is_member_N: Tensor, *, guesses_in: int, guesses_out: int) -> int:
    """How many are right of the guesses "in" for the highest scores and "out" for the lowest, of canaries.

    Tied scores are taken in the order of the records, which says nothing of the coins.

    Args:
        score_N: higher means more likely a member.
        is_member_N: bool.
        guesses_in, guesses_out: fixed before any score is seen; the others abstain.

    Raises:
        InputError: shapes that differ, a mask that is not bool, NaN scores, or more guesses than canaries.
    """
    if score_N.shape != is_member_N.shape or score_N.ndim != 1 or is_member_N.dtype != torch.bool:
        raise InputError(
            f"`score_N` has shape {tuple(score_N.shape)}, `is_member_N` {tuple(is_member_N.shape)} and dtype "
            f"{is_member_N.dtype}; they must be one number and one bool for each canary."
        )
    if bool(score_N.isnan().any()):
        raise InputError(f"`score_N` holds {int(score_N.isnan().sum())} NaN; a canary without a score has no rank.")
    N = len(score_N)
    if min(guesses_in, guesses_out) < 0 or guesses_in + guesses_out > N:
        raise InputError(
            f"`guesses_in` is {guesses_in} and `guesses_out` {guesses_out}; they must be at least 0 and together at "
            f"most the {N} canaries."
        )
    is_member_N = is_member_N[score_N.argsort(descending=True, stable=True)]
    return int(is_member_N[:guesses_in].sum()) + int((~is_member_N[N - guesses_out :]).sum())


def check_canaries(membership: Membership) -> None:
    """Refuse a single canary, of which nothing can be guessed by its rank among others.

    Args:
        membership: with coins.

    Raises:
        InputError: there is one.
    """
    if int(membership.scored_KN[0].sum()) < 2:
        raise InputError(
            f"`membership.canaries` is 1, and under membership={membership.plan_name} the attacker guesses by ranks "
            "which canaries are in; give at least 2, and a hundred or more for a bound that says something."
        )


def check_trials(membership: Membership, delta: float, *, num_attacks: int = 1, confidence: float = CONFIDENCE) -> None:
    """Refuse trials so few that not even an attack without a mistake would rule out any ε.

    Args:
        membership: `one_canary`, each of whose targets is a trial.
        num_attacks: among which `confidence` is divided.

    Raises:
        InputError: the plan is another, or has too few targets; the sentence says how many would do.
    """
    if not membership.is_trials:
        raise InputError(
            f"A privacy bound from many runs needs models that are trained with one canary or without it, all else "
            f"equal, and under membership={membership.plan_name} they differ in more; use membership=one_canary."
        )
    is_in_T = membership.member_KN[membership.targets][membership.scored_KN[membership.targets]]
    num_in, num_out = int(is_in_T.sum()), int((~is_in_T).sum())
    of_each = 1 - (1 - confidence) / num_attacks
    if num_in and num_out and largest_certifiable_epsilon(num_in, num_out, delta=delta, confidence=of_each) > 0:
        return
    fewest = 1
    while not largest_certifiable_epsilon(fewest, fewest, delta=delta, confidence=of_each) > 0:
        fewest += max(1, fewest // 20)
    enough = 2 * fewest
    while 2 * binom.cdf(fewest - 1, enough, 0.5) > _UNLUCKY:
        enough += 1
    raise InputError(
        f"`target.count` is {num_in + num_out}, of which {num_in} have the canary and {num_out} do not: so few trials "
        f"show no epsilon above 0, whatever the attack. {fewest} of each kind could, for which target.count={enough} "
        f"is enough; target.count=1000 can show one of "
        f"{largest_certifiable_epsilon(500, 500, delta=delta, confidence=of_each):.2g}."
    )


def _check_count(name: str, count: int, total: int, of: str) -> None:
    if not 0 <= count <= total or total < 1:
        raise InputError(f"`{name}` is {count} and `{of}` {total}; they must be 0 <= {name} <= {of} and {of} >= 1.")


def _check_level(delta: float, confidence: float) -> None:
    if not 0 <= delta < 1:
        raise InputError(f"`delta` is {delta}; it must be in [0, 1).")
    if not 0 < confidence < 1:
        raise InputError(f"`confidence` is {confidence}; it must be in (0, 1), such as 0.95.")
