"""Intervals over records: against closed forms, a slow loop, and by simulation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm, spearmanr

from mia_lightning.comparison.assemble import variant_of
from mia_lightning.comparison.findings import Above
from mia_lightning.comparison.intervals import draws, limits, matched, rates_to
from mia_lightning.comparison.schema import Variant, VariantAttack
from mia_lightning.metrics.intervals.areas import auc_interval, delong
from mia_lightning.metrics.intervals.influence import Observed, correlation, influence
from mia_lightning.metrics.leakage import attack_figures
from mia_lightning.metrics.over_targets import mean_figures
from mia_lightning.metrics.roc import roc
from mia_lightning.reports.schema import AuditReport
from mia_lightning.reports.scores import Scores


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


def _variant_of(report: AuditReport, *, num_targets: int, **columns: np.ndarray) -> VariantAttack:
    """The attack `loss` of a report whose scores are these, on so many targets."""
    n = len(columns["score"])
    target = np.sort(np.arange(n) % num_targets)
    columns = {"is_flagged": columns["score"] > 0, "target": target, **columns}
    scores = Scores(attack=np.full(n, "loss"), record=np.arange(n), label=np.zeros(n, np.int64), **columns)
    tensors = [torch.from_numpy(columns[name]) for name in ("score", "is_flagged", "is_member")]
    of_each = [attack_figures(*(each[torch.from_numpy(columns["target"] == t)] for each in tensors))
               for t in range(num_targets)]  # fmt: skip
    section = report.attacks[1].model_copy(update={"num_targets": num_targets, "overall": mean_figures(of_each)})
    return variant_of("a", report.model_copy(update={"attacks": (section,), "scores": scores}), Path("a")).attacks[0]


def test_rates_of_targets_with_different_numbers_of_members_are_those_of_all_their_records(
    report: AuditReport,
) -> None:
    is_member = np.array([True, True, True, False, False] + [True] * 4 + [False])
    attack = _variant_of(report, num_targets=2, score=np.ones(10), is_member=is_member)
    assert (attack.recall.value, attack.accuracy.value) == (1.0, pytest.approx(0.75, abs=0.01))
    assert (attack.true_positives, attack.num_members) == (3.0, 3)
    assert 0 < attack.recall.low < attack.recall.high < 1
    missed = _variant_of(report, num_targets=2, score=np.array([-1.0, *[1.0] * 9]), is_member=is_member)
    assert missed.recall.value == pytest.approx(6 / 7)


@pytest.mark.parametrize("sign", [1, -1])
def test_perfect_separation_has_the_bound_of_the_report(report: AuditReport, sign: int) -> None:
    is_member = np.arange(11) < 5
    attack = _variant_of(report, num_targets=1, score=np.where(is_member, sign, -sign) * 1.0, is_member=is_member)
    exact = auc_interval(roc(torch.from_numpy(np.where(is_member, sign, -sign) * 1.0), torch.from_numpy(is_member)))
    assert (attack.auc.low, attack.auc.high) == pytest.approx(exact[:2], abs=0.02)
    found = limits(draws(attack, "auc", "x"))
    assert found[0 if sign > 0 else 1] == pytest.approx(exact[0 if sign > 0 else 1], abs=0.02)


def test_one_separated_or_tied_target_leaves_the_mean_its_interval(report: AuditReport) -> None:
    is_member = np.tile(np.arange(10) < 5, 2)
    random = np.random.default_rng(0)
    mixed = np.concatenate([np.where(is_member[:10], 1.0, -1.0), random.normal(size=10)])
    tied = np.zeros(10)
    for score, count in ((mixed, 2), (tied, 1)):
        attack = _variant_of(report, num_targets=count, score=score, is_member=is_member[: len(score)])
        assert 0 < attack.auc.low < attack.auc.value < attack.auc.high < 1
    exact = auc_interval(roc(torch.zeros(10), torch.from_numpy(is_member[:10])))
    assert (attack.auc.low, attack.auc.high) == pytest.approx(exact[:2], abs=0.01)


def test_an_auc_that_has_no_interval_decides_no_finding(report: AuditReport, make_variant) -> None:  # type: ignore[no-untyped-def]
    is_member = np.arange(8) < 1
    attack = _variant_of(report, num_targets=1, score=np.where(is_member, 0.5, np.arange(8) / 8), is_member=is_member)
    assert (attack.auc.low, attack.auc.high) == (None, None)
    variant = make_variant("a").model_copy(update={"attacks": (attack,)})
    statement = Above(text="x", attack="loss", figure="auc", value=0.1).check([variant])
    assert statement.verdict == "not run"
    assert "two members" in statement.detail
