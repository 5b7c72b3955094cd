"""Intervals over records: against closed forms, a slow loop, and by simulation."""

import numpy as np
import pytest
from scipy.stats import beta

from mia_lightning.comparison.intervals import draws, limits, rates_to
from mia_lightning.comparison.schema import Variant


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
