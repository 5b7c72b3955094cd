"""Intervals over records: against closed forms, a slow loop, and by simulation."""

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm, spearmanr

from mia_lightning.comparison.intervals import draws, limits, matched, rates_to
from mia_lightning.comparison.schema import Variant
from mia_lightning.metrics.intervals.areas import delong
from mia_lightning.metrics.intervals.influence import Observed, correlation, influence
from mia_lightning.metrics.roc import roc


def test_rates_become_the_figures_of_counted_records() -> None:
    tpr, fpr = np.array([0.8]), np.array([0.2])
    found, alarms = 0.8 * 50, 0.2 * 200
    assert rates_to("precision", tpr, fpr, 50, 200)[0] == pytest.approx(found / (found + alarms))
    assert rates_to("recall", tpr, fpr, 50, 200)[0] == 0.8
    assert rates_to("accuracy", tpr, fpr, 50, 200)[0] == pytest.approx((40 + 160) / 250)


def test_the_interval_of_a_recall_is_that_of_jeffreys(make_variant) -> None:  # type: ignore[no-untyped-def]
    attack = make_variant("a", 0.9, 0.3, n=200).attacks[0]
    expected = beta.ppf([0.025, 0.975], 180.5, 20.5)
    assert limits(draws(attack, "recall", "x")) == pytest.approx(expected, abs=0.003)
    assert limits(draws(attack, "recall", "x")) == limits(draws(attack, "recall", "x"))


@pytest.mark.parametrize("tpr", [0.0, 1.0])
def test_no_interval_has_zero_width(make_variant, tpr: float) -> None:  # type: ignore[no-untyped-def]
    low, high = limits(draws(make_variant("a", tpr, 0.3).attacks[0], "recall", "x"))
    assert high - low > 0.001


@pytest.mark.statistics
@pytest.mark.parametrize(
    ("figure", "tpr", "fpr", "n"),
    [
        ("precision", 0.6, 0.5, 150),
        *(
            pytest.param(figure, *rates, marks=pytest.mark.slow)
            for figure in ("precision", "recall", "accuracy")
            for rates in ((0.9, 0.4, 300), (0.6, 0.5, 150))
            if (figure, *rates) != ("precision", 0.6, 0.5, 150)
        ),
    ],
)
def test_intervals_cover_the_truth_in_95_of_100_cases(
    make_variant,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    figure: str,
    tpr: float,
    fpr: float,
    n: int,
) -> None:
    """2,000 simulations: a Monte-Carlo standard error of half a point."""
    monkeypatch.setattr("mia_lightning.comparison.intervals.NUM_DRAWS", 2000)
    truth = float(rates_to(figure, np.array([tpr]), np.array([fpr]), n, n)[0])
    random = np.random.default_rng(0)
    covered = 0
    for case in range(2000):
        counts = random.binomial(n, [tpr, fpr]) / n
        low, high = limits(draws(make_variant("a", *counts, n=n).attacks[0], figure, case))
        covered += low <= truth <= high
    assert 0.93 <= covered / 2000 <= 0.97


def test_draws_of_an_auc_are_normal_on_the_logit_scale(make_variant) -> None:  # type: ignore[no-untyped-def]
    variant: Variant = make_variant("a", auc=0.8)
    drawn = draws(variant.attacks[0], "auc", "x")
    logits = np.log(drawn / (1 - drawn))
    assert logits.mean() == pytest.approx(np.log(4), abs=0.003)
    assert logits.std() == pytest.approx(0.05, abs=0.002)
    unknown = variant.attacks[0].model_copy(update={"auc_logit_error": None})
    assert set(draws(unknown, "auc", "x")) == {0.8}


@pytest.mark.parametrize("correlation", [0.9, 0.3, -0.7])
def test_matched_draws_keep_their_distribution_and_have_the_correlation(correlation: float) -> None:
    random = np.random.default_rng(1)
    first, second = random.beta(20, 5, 10_000), random.normal(size=10_000)
    found = matched(first, second, correlation)
    assert np.array_equal(np.sort(found), np.sort(second))
    expected = 6 / np.pi * np.arcsin(correlation / 2)  # of the ranks of normal numbers
    assert spearmanr(first, found).statistic == pytest.approx(expected, abs=0.03)
    assert matched(first, second, 0.0) is second


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["precision", "accuracy", "auc"])
@pytest.mark.parametrize("shifts", [(1.0, 1.0), (1.2, 0.6)])
def test_paired_changes_cover_the_truth_and_are_shorter(
    make_variant,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    figure: str,
    shifts: tuple[float, float],
) -> None:
    """Two models of which a record has three quarters of the variance of its score in common; 400 simulations."""
    monkeypatch.setattr("mia_lightning.comparison.intervals.NUM_DRAWS", 2000)
    member, random, covered, lengths = np.arange(400) % 2 == 0, np.random.default_rng(len(figure)), 0, []
    rates = [(np.array([norm.sf(0.5 - shift)]), np.array([norm.sf(0.5)])) for shift in shifts]
    areas = [norm.cdf(shift / np.sqrt(2)) for shift in shifts]
    truth = areas[0] - areas[1] if figure == "auc" else np.subtract(*(rates_to(figure, *of, 200, 200) for of in rates))
    for _ in range(400):
        hard, found, seen = random.normal(size=400) * np.sqrt(0.75), [], []
        for shift in shifts:
            score = hard + random.normal(size=400) / 2 + shift * member
            seen.append(
                Observed(*(torch.from_numpy(each[None]) for each in (score, score > 0.5, member, np.ones(400, bool))))
            )
            area, error = _auc(score, member)
            attack = make_variant("a", (score > 0.5)[member].mean(), (score > 0.5)[~member].mean(), n=200, auc=area)
            found.append(attack.attacks[0].model_copy(update={"auc_logit_error": error}))
        one, other = (draws(attack, figure, place) for place, attack in enumerate(found))
        r = correlation(*(influence(figure, each) for each in seen))
        low, high = limits(one - matched(one, other, r))
        covered += bool(low <= truth <= high)
        lengths.append((high - low) / np.subtract(*limits(one - other)[::-1]))
    assert covered / 400 >= 0.95 - 4 * 0.011
    assert np.mean(lengths) < 0.85


def _auc(score: np.ndarray, member: np.ndarray) -> tuple[float, float]:
    curve = roc(torch.from_numpy(score), torch.from_numpy(member))
    return curve.auc, float(np.sqrt(delong(curve)) / (curve.auc * (1 - curve.auc)))
