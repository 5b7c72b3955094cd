"""Lower bounds of epsilon: against scipy, exact sums and mechanisms whose epsilon is known."""

import re
from fractions import Fraction
from functools import cache
from math import comb, exp, log

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership import Bernoulli, Halves, Membership, OneCanary, Wanted
from mia_lightning.metrics.privacy_bounds import (
    check_canaries,
    check_trials,
    correct_guesses,
    largest_certifiable_epsilon,
    most_telling_threshold,
    multi_run_epsilon,
    one_run_epsilon,
    one_run_p_value,
)
from mia_lightning.seeds import generator

RUNS = 2000
MOST_FAILURES = 131  # the 99.9 % binomial limit of 5 % of 2,000
multi_run, one_run = cache(multi_run_epsilon), cache(one_run_epsilon)


def test_the_stated_number_of_failures_is_the_binomial_limit() -> None:
    assert binom.ppf(0.999, RUNS, 0.05) == MOST_FAILURES


# --- several runs ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from([0.0, 1e-5, 0.05]), st.sampled_from([0.9, 0.95, 1 - 1e-6]))
def test_the_multi_run_bound_is_made_of_scipys_one_sided_exact_limits(
    data: st.DataObject, delta: float, confidence: float
) -> None:
    num_in, num_out = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    tp, fp = data.draw(st.integers(0, num_in)), data.draw(st.integers(0, num_out))

    def limit(count: int, total: int, side: str) -> float:
        # One-sided: "greater" has a lower limit, "less" an upper one.
        interval = binomtest(count, total, alternative=side).proportion_ci((1 + confidence) / 2, method="exact")
        return float(interval.low if side == "greater" else interval.high)

    tpr_low, fpr_high = limit(tp, num_in, "greater"), limit(fp, num_out, "less")
    tnr_low, fnr_high = limit(num_out - fp, num_out, "greater"), limit(num_in - tp, num_in, "less")
    expected = max(
        0.0,
        log((tpr_low - delta) / fpr_high) if tpr_low > delta else 0.0,
        log((tnr_low - delta) / fnr_high) if tnr_low > delta else 0.0,
    )
    observed = multi_run_epsilon(tp, num_in, fp, num_out, delta=delta, confidence=confidence)
    assert observed == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert observed <= largest_certifiable_epsilon(num_in, num_out, delta=delta, confidence=confidence) + 1e-12


def test_the_largest_certifiable_epsilon_of_perfect_attacks() -> None:
    alpha, n, delta = 0.05, 200, 1e-3
    right, wrong = (alpha / 2) ** (1 / n), 1 - (alpha / 2) ** (1 / n)
    assert largest_certifiable_epsilon(n, n, delta=delta) == pytest.approx(log((right - delta) / wrong))
    assert largest_certifiable_epsilon(4, 4, delta=0.5) == 0.0


def test_no_attack_shows_nothing() -> None:
    assert multi_run_epsilon(50, 100, 50, 100, delta=0.0) == 0.0
    assert multi_run_epsilon(0, 100, 0, 100, delta=0.0) == 0.0
    assert multi_run_epsilon(100, 100, 100, 100, delta=0.0) == 0.0


def test_an_attack_that_is_right_the_wrong_way_round_needs_its_sign_turned() -> None:
    """Flags fewer members than non-members: neither direction of the definition shows anything."""
    assert multi_run_epsilon(10, 100, 90, 100, delta=0.0) == 0.0
    assert multi_run_epsilon(90, 100, 10, 100, delta=0.0) > 1.0


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_the_exact_law_of_the_multi_run_bound_under_randomised_response(epsilon: float) -> None:
    """Summed over all outcomes of 60 trials of each kind: it passes the truth in at most 5 % of them."""
    n, rate = 60, oracles.accuracy_of_randomised_response(epsilon)
    tp_pmf, fp_pmf = binom.pmf(np.arange(n + 1), n, rate), binom.pmf(np.arange(n + 1), n, 1 - rate)
    passes = np.array([[multi_run(tp, n, fp, n, delta=0.0) > epsilon for fp in range(n + 1)] for tp in range(n + 1)])
    assert float(tp_pmf @ passes @ fp_pmf) <= 0.05


@pytest.mark.costly
@pytest.mark.parametrize(("epsilon", "median"), [(1.0, 0.80), (3.0, 2.62)])
def test_multi_run_bounds_of_randomised_response(epsilon: float, median: float) -> None:
    bit_RN, released_RN = oracles.simulate_randomised_response(epsilon, 1000, 1, num_runs=RUNS)
    bounds = _multi_run_bounds(bit_RN, released_RN, delta=0.0)
    assert int((bounds > epsilon).sum()) <= MOST_FAILURES
    assert float(np.median(bounds)) > median


@pytest.mark.costly
@pytest.mark.parametrize(("epsilon", "mu", "share"), [(0.5, 1.0, 0.4), (1.0, 1.0, 0.55), (2.0, 2.0, 0.65)])
def test_multi_run_bounds_of_the_gaussian_mechanism_at_the_threshold_where_they_are_tight(
    epsilon: float, mu: float, share: float
) -> None:
    """At the threshold whose likelihood ratio is e^ε, (TPR − δ) / FPR is e^ε exactly."""
    bit_RN, score_RN = oracles.simulate_gaussian_mechanism(mu, 2000, 2, num_runs=RUNS)
    flagged_RN = score_RN > epsilon / mu + mu / 2
    bounds = _multi_run_bounds(bit_RN, flagged_RN, delta=oracles.delta_of_gaussian(epsilon, mu))
    assert int((bounds > epsilon).sum()) <= MOST_FAILURES
    assert float(np.median(bounds)) > share * epsilon


def test_multi_run_bounds_of_the_gaussian_mechanism_at_a_small_delta() -> None:
    bit_RN, score_RN = oracles.simulate_gaussian_mechanism(1.0, 1000, 3, num_runs=RUNS)
    bounds = _multi_run_bounds(bit_RN, score_RN > 2.0, delta=1e-5)
    truth = oracles.epsilon_of_gaussian(1e-5, 1.0)
    assert truth == pytest.approx(4.377, abs=5e-4)
    assert int((bounds > truth).sum()) <= MOST_FAILURES
    assert float(np.median(bounds)) > 0.25 * truth


def test_a_claim_that_is_too_small_is_found_out() -> None:
    """Noise too small by half: claimed is the epsilon of μ = 1, run is μ = 2."""
    bit_RN, score_RN = oracles.simulate_gaussian_mechanism(2.0, 2000, 4, num_runs=200)
    claimed, delta = 1.0, oracles.delta_of_gaussian(1.0, 1.0)
    assert int((_multi_run_bounds(bit_RN, score_RN > 1.5, delta=delta) > claimed).sum()) >= 198
    correct = _correct_R(bit_RN, score_RN, 100)
    claimed, delta = oracles.epsilon_of_gaussian(1e-6, 0.25), 1e-6
    bounds = np.array([one_run(2000, 200, v, delta=delta) for v in correct])
    assert int((bounds > claimed).sum()) >= 198


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from([0.0, 1e-3]))
def test_the_most_telling_threshold_is_that_of_a_slow_search(data: st.DataObject, delta: float) -> None:
    """Over every score: the largest bound, then the largest TPR - FPR, then the highest score; half-way down."""
    size = data.draw(st.integers(2, 40))
    score = data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    is_in = [True, False, *data.draw(st.lists(st.booleans(), min_size=size - 2, max_size=size - 2))]
    n1, n0 = sum(is_in), size - sum(is_in)

    def worth(t: int) -> tuple[float, int, int]:
        tp = sum(s >= t and m for s, m in zip(score, is_in, strict=True))
        fp = sum(s >= t and not m for s, m in zip(score, is_in, strict=True))
        return round(multi_run(tp, n1, fp, n0, delta=delta), 9), tp * n0 - fp * n1, t

    found = most_telling_threshold(torch.tensor(score), torch.tensor(is_in), delta=delta)
    best = max(set(score), key=worth)
    below = [s for s in score if s < best] or [best]
    assert found == (max(below) + best) / 2


def test_the_most_telling_threshold_of_scores_that_have_no_middle() -> None:
    is_in_K = torch.tensor([True, True, False, False])
    for score, found in (([1.0, 1.0, -torch.inf, -torch.inf], 1.0), ([torch.inf, torch.inf, 0.0, 0.0], torch.inf)):
        assert most_telling_threshold(torch.tensor(score), is_in_K, delta=0.0) == found


@pytest.mark.slow
def test_a_threshold_from_other_trials_keeps_the_confidence_of_the_bound() -> None:
    """The Gaussian mechanism with μ = 1: 200 trials choose, 1,000 others count; on the same ones the bound fails."""
    delta = oracles.delta_of_gaussian(1.0, 1.0)
    bit_RN, score_RN = oracles.simulate_gaussian_mechanism(1.0, 1200, 7, num_runs=RUNS)
    ours, others = slice(0, 200), slice(200, 1200)
    threshold_R1 = torch.tensor(
        [
            [most_telling_threshold(score_N[ours], bit_N[ours], delta=delta)]
            for bit_N, score_N in zip(bit_RN, score_RN, strict=True)
        ]
    )
    bounds = _multi_run_bounds(bit_RN[:, others], score_RN[:, others] >= threshold_R1, delta=delta)
    assert int((bounds > 1.0).sum()) <= MOST_FAILURES
    assert float(np.median(bounds)) > 0.35


def test_a_threshold_needs_trials_of_both_kinds() -> None:
    for is_in_K in (torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)):
        with pytest.raises(InputError, match=r"a threshold is learnt from both kinds: raise `shadow.count`"):
            most_telling_threshold(torch.zeros(3), is_in_K, delta=0.0)


def _trials(count: int) -> Membership:
    population = Population(name="plain", x_N=torch.zeros(20, 1), label_N=torch.arange(20) % 2, class_names=("a", "b"))
    return OneCanary(train_size=5).fill(population, Wanted(num_targets=count, num_shadows=2, seed=0))


@pytest.mark.parametrize("num_attacks", [1, 4])
def test_too_few_trials_are_refused_with_a_number_that_would_do(num_attacks: int) -> None:
    with pytest.raises(InputError, match=r"`target.count` is 1, of which [01] have the canary") as refused:
        check_trials(_trials(1), 1e-3, num_attacks=num_attacks)
    fewest, enough = (
        int(re.search(pattern, str(refused.value)).group(1))  # type: ignore[union-attr]
        for pattern in (r"(\d+) of each kind could", r"target.count=(\d+) is enough")
    )
    level = 1 - 0.05 / num_attacks
    assert largest_certifiable_epsilon(fewest, fewest, delta=1e-3, confidence=level) > 0
    assert largest_certifiable_epsilon(fewest - 1, fewest - 1, delta=1e-3, confidence=level) == 0
    shares = [binom.cdf(fewest - 1, m, 0.5) + binom.sf(m - fewest, m, 0.5) for m in (enough, enough - 1)]
    assert shares[0] <= 1e-3 < shares[1]
    check_trials(_trials(enough), 1e-3, num_attacks=num_attacks)


def test_a_single_canary_is_refused() -> None:
    population = Population(name="plain", x_N=torch.zeros(20, 1), label_N=torch.arange(20) % 2, class_names=("a", "b"))
    one, two = (Bernoulli(canaries=m).fill(population, Wanted(num_targets=1, num_shadows=2, seed=0)) for m in (1, 2))
    with pytest.raises(InputError, match=r"`membership.canaries` is 1, .* give at least 2"):
        check_canaries(one)
    check_canaries(two)


def test_trials_of_another_plan_are_refused() -> None:
    population = Population(name="plain", x_N=torch.zeros(20, 1), label_N=torch.arange(20) % 2, class_names=("a", "b"))
    plan = Halves().fill(population, Wanted(num_targets=40, num_shadows=2, seed=0))
    with pytest.raises(InputError, match="under membership=halves they differ in more; use membership=one_canary"):
        check_trials(plan, 1e-3)


def _multi_run_bounds(bit_RN: torch.Tensor, flagged_RN: torch.Tensor, *, delta: float) -> np.ndarray:
    counts = [(bit_RN & flagged_RN), bit_RN, (~bit_RN & flagged_RN), ~bit_RN]
    return np.array([multi_run(*row, delta=delta) for row in torch.stack([c.sum(1) for c in counts], 1).tolist()])


def _correct_R(bit_RN: torch.Tensor, score_RN: torch.Tensor, guesses: int) -> list[int]:
    """Right guesses of each run, `guesses` of each kind."""
    ordered_RN = bit_RN.gather(1, score_RN.argsort(1, descending=True))
    return (ordered_RN[:, :guesses].sum(1) + (~ordered_RN[:, -guesses:]).sum(1)).tolist()


# --- one run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "r", "v"), [(10, 6, 5), (12, 12, 7), (8, 5, 0), (9, 9, 9), (30, 20, 13)])
@pytest.mark.parametrize("odds", [1, 2, 5])
@pytest.mark.parametrize("delta", [Fraction(0), Fraction(1, 1000), Fraction(1, 20)])
def test_the_p_value_is_that_of_a_slow_exact_sum(m: int, r: int, v: int, odds: int, delta: Fraction) -> None:
    """In fractions, at e^ε = `odds`: f(v) + 2 m δ max over i of (f(v − i) − f(v)) / i, f(u) = P[W ≥ u]."""
    rate = Fraction(odds, odds + 1)

    def at_least(u: int) -> Fraction:
        return sum((comb(r, w) * rate**w * (1 - rate) ** (r - w) for w in range(max(u, 0), r + 1)), Fraction(0))

    slip = max((at_least(v - i) - at_least(v)) / i for i in range(1, m + 1))
    expected = min(Fraction(1), at_least(v) + 2 * m * delta * slip)
    observed = one_run_p_value(m, r, v, epsilon=log(odds), delta=float(delta))
    assert observed == pytest.approx(float(expected), rel=1e-9)


def test_the_one_run_bound_is_the_published_example() -> None:
    """The example of the paper's appendix D: 75 of 100 guesses about 1,000 canaries at δ = 1e-4."""
    assert one_run_epsilon(1000, 100, 75, delta=1e-4) == pytest.approx(0.673, abs=5e-4)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_without_delta_the_one_run_bound_is_the_lower_limit_of_the_share_of_right_guesses(data: st.DataObject) -> None:
    r = data.draw(st.integers(1, 200))
    v = data.draw(st.integers(0, r))
    low = float(binomtest(v, r, alternative="greater").proportion_ci(0.95, method="exact").low)
    expected = log(low / (1 - low)) if low > 0.5 else 0.0
    assert one_run_epsilon(500, r, v, delta=0.0) == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 200), st.data())
def test_the_one_run_bound_rises_with_what_is_right_and_falls_with_delta_canaries_and_confidence(
    r: int, data: st.DataObject
) -> None:
    v = data.draw(st.integers(r // 2, r - 1))
    bound = one_run_epsilon(300, r, v, delta=1e-4)
    assert one_run_epsilon(300, r, v + 1, delta=1e-4) >= bound
    assert one_run_epsilon(300, r, v, delta=1e-3) <= bound
    assert one_run_epsilon(3000, r, v, delta=1e-4) <= bound
    assert one_run_epsilon(300, r, v, delta=1e-4, confidence=0.999) <= bound
    assert (bound == 0.0) == (one_run_p_value(300, r, v, epsilon=0.0, delta=1e-4) > 0.05)
    if bound > 0.0:
        assert one_run_p_value(300, r, v, epsilon=bound, delta=1e-4) <= 0.05 + 1e-12
        assert one_run_p_value(300, r, v, epsilon=bound + 1e-6, delta=1e-4) > 0.05


@pytest.mark.costly
@pytest.mark.parametrize(("epsilon", "median"), [(1.0, 0.88), (3.0, 2.76)])
def test_one_run_bounds_of_randomised_response(epsilon: float, median: float) -> None:
    bit_RN, released_RN = oracles.simulate_randomised_response(epsilon, 1000, 5, num_runs=RUNS)
    bounds = np.array([one_run(1000, 1000, v, delta=0.0) for v in (bit_RN == released_RN).sum(1).tolist()])
    assert int((bounds > epsilon).sum()) <= MOST_FAILURES
    assert float(np.median(bounds)) == pytest.approx(median, abs=0.02)


@pytest.mark.costly
@pytest.mark.parametrize("mu", [0.5, 1.0])
def test_one_run_bounds_of_the_gaussian_mechanism(mu: float) -> None:
    bit_RN, score_RN = oracles.simulate_gaussian_mechanism(mu, 1000, 6, num_runs=RUNS)
    bounds = np.array([one_run(1000, 100, v, delta=1e-5) for v in _correct_R(bit_RN, score_RN, 50)])
    truth = oracles.epsilon_of_gaussian(1e-5, mu)
    assert int((bounds > truth).sum()) <= MOST_FAILURES
    assert float(np.median(bounds)) > 0.3 * truth


def test_delta_counts_with_every_canary_and_not_only_with_those_that_are_guessed() -> None:
    """(0, δ)-private: each of 1,000 bits slips out with probability δ = 0.01, and nothing else does.

    Ten guesses, slipped bits first, are nearly all right though ε = 0; δ times the ten guesses would not explain it.
    """
    m, r, delta = 1000, 10, 0.01
    random = generator(7, "slips")
    slipped_R = (torch.rand(RUNS, m, generator=random) < delta).sum(1, keepdim=True)
    is_right_RG = (torch.arange(r) < slipped_R) | (torch.rand(RUNS, r, generator=random) < 0.5)
    correct_R = is_right_RG.sum(1)
    bounds = np.array([one_run(m, r, v, delta=delta) for v in correct_R.tolist()])
    assert int((bounds > 0.0).sum()) <= MOST_FAILURES
    wrong = np.array([one_run(r, r, v, delta=delta) for v in correct_R.tolist()])
    assert int((wrong > 0.0).sum()) > MOST_FAILURES


def test_correct_guesses_against_a_plain_count() -> None:
    score_N = torch.tensor([0.1, 3.0, -1.0, 2.0, 0.1, 5.0])
    is_member_N = torch.tensor([True, True, False, False, False, True])
    assert correct_guesses(score_N, is_member_N, guesses_in=2, guesses_out=1) == 3  # 5.0, 3.0; -1.0
    assert correct_guesses(score_N, is_member_N, guesses_in=3, guesses_out=2) == 4  # 2.0 is out; the later 0.1 is out
    assert correct_guesses(score_N, is_member_N, guesses_in=0, guesses_out=0) == 0
    assert correct_guesses(score_N, is_member_N, guesses_in=0, guesses_out=6) == 3


def test_ties_are_guessed_without_looking_at_the_coins() -> None:
    is_member_N = torch.arange(400) % 2 == 0
    assert correct_guesses(torch.zeros(400), is_member_N, guesses_in=100, guesses_out=100) == 100


# --- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ((11, 10, 0, 10), "`true_positives` is 11 and `num_in` 10"),
        ((-1, 10, 0, 10), "`true_positives` is -1"),
        ((0, 0, 0, 10), "`true_positives` is 0 and `num_in` 0"),
        ((1, 10, 11, 10), "`false_positives` is 11 and `num_out` 10"),
    ],
)
def test_counts_that_are_none_are_refused(counts: tuple[int, int, int, int], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        multi_run_epsilon(*counts, delta=0.0)


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ((10, 11, 5), "`num_guesses` is 11 and `num_canaries` 10"),
        ((10, 5, 6), "`num_correct` is 6 and `num_guesses` 5"),
        ((10, 0, 0), "`num_correct` is 0 and `num_guesses` 0"),
    ],
)
def test_guesses_that_are_none_are_refused(counts: tuple[int, int, int], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        one_run_epsilon(*counts, delta=0.0)


@pytest.mark.parametrize(
    ("levels", "sentence"),
    [
        ({"delta": -0.1}, r"`delta` is -0\.1"),
        ({"delta": 1.0}, r"`delta` is 1\.0"),
        ({"delta": 0.0, "confidence": 1.0}, r"`confidence` is 1\.0"),
        ({"delta": 0.0, "confidence": 0.0}, r"`confidence` is 0\.0"),
    ],
)
def test_levels_out_of_range_are_refused(levels: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        multi_run_epsilon(1, 2, 1, 2, **levels)
    with pytest.raises(InputError, match=sentence):
        one_run_epsilon(3, 2, 1, **levels)


def test_scores_that_cannot_be_guessed_from_are_refused() -> None:
    score_N, is_member_N = torch.zeros(4), torch.ones(4, dtype=torch.bool)
    with pytest.raises(InputError, match=r"`score_N` has shape \(4,\), `is_member_N` \(3,\)"):
        correct_guesses(score_N, is_member_N[:3], guesses_in=1, guesses_out=1)
    with pytest.raises(InputError, match=r"dtype torch.float32"):
        correct_guesses(score_N, is_member_N.float(), guesses_in=1, guesses_out=1)
    with pytest.raises(InputError, match="`score_N` holds 4 NaN"):
        correct_guesses(score_N / 0, is_member_N, guesses_in=1, guesses_out=1)
    for guesses_in, guesses_out in ((3, 2), (-1, 2), (2, -1)):
        with pytest.raises(InputError, match=f"`guesses_in` is {guesses_in} and `guesses_out` {guesses_out}"):
            correct_guesses(score_N, is_member_N, guesses_in=guesses_in, guesses_out=guesses_out)


# --- the closed form -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mu", "epsilon"), [(0.5, 1.993), (1.0, 4.377)])
def test_the_closed_form_of_the_gaussian_mechanism(mu: float, epsilon: float) -> None:
    assert oracles.epsilon_of_gaussian(1e-5, mu) == pytest.approx(epsilon, abs=5e-4)
    x = np.linspace(-12, 14, 400_001)
    inside, outside = (np.exp(-((x - shift) ** 2) / 2) / np.sqrt(2 * np.pi) for shift in (mu, 0.0))
    numeric = float(np.trapezoid(np.clip(inside - exp(epsilon) * outside, 0, None), x))
    assert oracles.delta_of_gaussian(epsilon, mu) == pytest.approx(numeric, rel=1e-3)
