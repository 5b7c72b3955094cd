"""Findings as statements: the arithmetic, and every verdict."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import spearmanr

from mia_lightning.comparison.findings import (
    Above,
    ClassesFail,
    CostsLittle,
    Falls,
    FollowsGap,
    NearChance,
    Rises,
    rank_correlation,
)
from mia_lightning.comparison.schema import Variant
from mia_lightning.errors import InputError


@pytest.fixture
def three(make_variant) -> list[Variant]:  # type: ignore[no-untyped-def]
    """Precisions 0.600, 0.602 and 0.818."""
    return [make_variant("low", 0.9, 0.6), make_variant("same", 0.9, 0.595), make_variant("high", 0.9, 0.2)]


@pytest.mark.parametrize(
    ("first", "last", "rises", "falls"),
    [
        ("low", "high", "holds", "does not hold"),
        ("high", "low", "does not hold", "holds"),
        ("low", "same", "undecided", "undecided"),
    ],
)
def test_rises_and_falls(three: list[Variant], first: str, last: str, rises: str, falls: str) -> None:
    up = Rises(text="up", first=first, last=last).check(three)
    down = Falls(text="down", first=first, last=last).check(three)
    assert (up.verdict, down.verdict) == (rises, falls)
    values = {each.name: each.attacks[0].precision.value for each in three}
    assert up.estimate == pytest.approx(values[last] - values[first])
    assert up.low < up.estimate < up.high
    assert up.text == "up"


def test_rises_takes_the_first_and_last_that_were_run(three: list[Variant]) -> None:
    variants = [Variant(name="gone", skipped="no data"), *three, Variant(name="gone too", skipped="no data")]
    statement = Rises(text="up").check(variants)
    assert statement.verdict == "holds"
    assert statement.detail.startswith("low 0.600, same 0.602, high 0.818; change +0.218 [")


@pytest.mark.parametrize(
    ("baseline", "variant", "at_most", "verdict"),
    [
        ("low", "same", 0.1, "holds"),
        ("low", "high", 0.1, "holds"),  # a gain is no cost
        ("high", "low", 0.1, "does not hold"),
        ("high", "low", 0.218, "undecided"),
        ("high", "low", 0.4, "holds"),
    ],
)
def test_costs_little(three: list[Variant], baseline: str, variant: str, at_most: float, verdict: str) -> None:
    finding = CostsLittle(text="little", baseline=baseline, variant=variant, at_most=at_most)
    assert finding.check(three).verdict == verdict


@pytest.mark.parametrize(("value", "verdict"), [(0.5, "holds"), (0.6, "undecided"), (0.7, "does not hold")])
def test_above_on_every_variant(three: list[Variant], value: float, verdict: str) -> None:
    assert Above(text="above", value=value).check(three).verdict == verdict
    assert Above(text="above", variants=["high"], value=0.7).check(three).verdict == "holds"


@pytest.mark.parametrize(
    ("fpr", "within", "verdict"), [(0.88, 0.05, "holds"), (0.75, 0.05, "undecided"), (0.3, 0.05, "does not hold")]
)
def test_near_chance(make_variant, fpr: float, within: float, verdict: str) -> None:  # type: ignore[no-untyped-def]
    finding = NearChance(text="near", variants=["a"], within=within)
    assert finding.check([make_variant("a", 0.9, fpr)]).verdict == verdict


@pytest.mark.parametrize(
    ("order", "verdict"), [([0, 1, 2, 3], "holds"), ([3, 2, 1, 0], "does not hold"), ([1, 3, 0, 2], "undecided")]
)
def test_follows_gap(make_variant, order: list[int], verdict: str) -> None:  # type: ignore[no-untyped-def]
    variants = [
        make_variant(str(i), 0.9, 0.6 - 0.1 * i, generalization_gap=0.1 * place) for i, place in enumerate(order)
    ]
    statement = FollowsGap(text="gap").check(variants)
    assert statement.verdict == verdict
    assert statement.estimate == pytest.approx(spearmanr(range(4), order).statistic)


@pytest.mark.parametrize("x", [[1.0, 2, 3, 4, 5], [1.0, 2, 2, 4, 5]])
def test_small_rank_correlations_are_permuted_exactly(x: list[float]) -> None:
    y = np.array([1.0, 3, 2, 5, 4])
    observed = spearmanr(x, y).statistic
    others = [spearmanr(x, y[list(order)]).statistic for order in permutations(range(5))]
    correlation, above, below = rank_correlation(np.array(x), y)
    assert correlation == pytest.approx(observed)
    assert above == pytest.approx(np.mean([other >= observed - 1e-9 for other in others]))
    assert below == pytest.approx(np.mean([other <= observed + 1e-9 for other in others]))


def test_large_rank_correlations_are_scipys_and_constants_have_none() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 12))
    expected = spearmanr(x, y, alternative="greater")
    assert rank_correlation(x, y)[:2] == pytest.approx((expected.statistic, expected.pvalue))
    assert rank_correlation(np.ones(5), y[:5]) == (0.0, 1.0, 1.0)


def test_failed_classes_are_named(make_variant) -> None:  # type: ignore[no-untyped-def]
    finding = ClassesFail(text="fails", variant="m")
    some = make_variant("m", failed_classes=("bar", "zoo"), queries_per_record=38.6)
    statement = finding.check([some])
    assert (statement.verdict, statement.detail) == ("holds", "2 of 3 classes: bar, zoo; 39 queries for each record")
    assert finding.check([make_variant("m")]).verdict == "does not hold"
    assert finding.check([Variant(name="m", skipped="no data")]).verdict == "not run"


def test_what_was_not_run_or_has_no_figure_is_said(make_variant, three: list[Variant]) -> None:  # type: ignore[no-untyped-def]
    gone = Variant(name="gone", skipped="no data")
    statement = CostsLittle(text="c", baseline="low", variant="gone").check([*three, gone])
    assert (statement.verdict, statement.detail) == ("not run", "gone was not run: no data")
    statement = FollowsGap(text="f").check([gone, *three[:2]])
    assert statement.verdict == "not run"
    assert "2 of 3 variants were run, and it takes 4: gone was not run (no data)" in statement.detail
    silent = make_variant("silent", 0.0, 0.0)
    assert "silent has no precision: nobody flagged" in Above(text="a").check([silent]).detail
    assert "attack=lira was not among the attacks on low" in Above(text="a", attack="lira").check(three).detail


def test_unknown_variants_and_figures_are_refused(three: list[Variant]) -> None:
    with pytest.raises(InputError, match="names the variant 'hihg'; the variants are low, same, high"):
        Rises(text="r", first="low", last="hihg").check(three)
    with pytest.raises(InputError, match="names the figure 'f1'"):
        Rises(text="r", figure="f1")


def test_a_clear_step_against_it_is_no_rise(make_variant) -> None:  # type: ignore[no-untyped-def]
    hill = [make_variant(str(fpr), 0.9, fpr) for fpr in (0.8, 0.2, 0.1, 0.5)]
    statement = Rises(text="up").check(hill)
    assert statement.low > 0
    assert statement.verdict == "does not hold"
    assert statement.detail.endswith("but from 0.1 to 0.5 it goes the other way")
    assert Rises(text="up", first="0.8", last="0.5").check(hill).verdict == "holds"  # the two that it names
    flat = [make_variant(str(fpr), 0.9, fpr) for fpr in (0.8, 0.2, 0.205)]
    assert Rises(text="up").check(flat).verdict == "holds"


def test_three_variants_are_too_few_for_a_rank_correlation(three: list[Variant]) -> None:
    statement = FollowsGap(text="gap").check(three)
    assert statement.verdict == "not run"
    assert "3 of 3 variants were run, and it takes 4" in statement.detail


UNDERSTATED, VOID = "leakage may be understated", "cannot be trusted"


@pytest.mark.parametrize(
    ("finding", "doubted", "doubt", "verdict"),
    [
        # Of a run whose leakage may be understated a low figure is no evidence, and a high one is.
        (Rises(text="x", first="low", last="high"), "low", UNDERSTATED, "undecided"),
        (Rises(text="x", first="low", last="high"), "high", UNDERSTATED, "holds"),
        (Rises(text="x", first="high", last="low"), "low", UNDERSTATED, "undecided"),
        (Rises(text="x", first="high", last="low"), "high", UNDERSTATED, "does not hold"),
        (Falls(text="x", first="high", last="low"), "low", UNDERSTATED, "undecided"),
        (Falls(text="x", first="high", last="low"), "high", UNDERSTATED, "holds"),
        (Falls(text="x", first="low", last="high"), "low", UNDERSTATED, "undecided"),
        (CostsLittle(text="x", baseline="low", variant="same"), "low", UNDERSTATED, "undecided"),
        (CostsLittle(text="x", baseline="low", variant="same"), "same", UNDERSTATED, "holds"),
        (CostsLittle(text="x", baseline="high", variant="low"), "low", UNDERSTATED, "undecided"),
        (CostsLittle(text="x", baseline="high", variant="low"), "high", UNDERSTATED, "does not hold"),
        (Above(text="x", value=0.5), "low", UNDERSTATED, "holds"),
        (Above(text="x", value=0.7), "low", UNDERSTATED, "undecided"),
        (NearChance(text="x", variants=["low"], value=0.6), "low", UNDERSTATED, "undecided"),
        (NearChance(text="x", variants=["high"], value=0.6), "high", UNDERSTATED, "does not hold"),
        (NearChance(text="x", variants=["low"], value=0.8), "low", UNDERSTATED, "undecided"),
        # Of one that cannot be trusted no figure is.
        (Rises(text="x", first="low", last="high"), "high", VOID, "undecided"),
        (Above(text="x", value=0.5), "same", VOID, "undecided"),
        (NearChance(text="x", variants=["high"], value=0.6), "high", VOID, "undecided"),
        (CostsLittle(text="x", baseline="high", variant="low", at_most=0.4), "low", VOID, "undecided"),
        # Other variants do not matter.
        (Rises(text="x", first="low", last="high"), "same", VOID, "holds"),
        (NearChance(text="x", variants=["low"], value=0.6), "high", VOID, "holds"),
    ],
)
def test_no_verdict_rests_on_figures_that_are_no_evidence(
    three: list[Variant], finding: Rises, doubted: str, doubt: str, verdict: str
) -> None:
    plain = finding.check(three)
    said = finding.check([each.model_copy(update={"doubt": doubt if each.name == doubted else None}) for each in three])
    assert plain.verdict != "undecided"
    assert said.verdict == verdict
    assert (said.estimate, said.low, said.high) == (plain.estimate, plain.low, plain.high)
    if verdict == "undecided":
        assert said.detail.startswith(plain.detail)
        assert said.detail.endswith(f"but of {doubted} that is no evidence: {doubt}")
    else:
        assert said == plain


def test_an_order_of_variants_rests_on_all_of_them(make_variant) -> None:  # type: ignore[no-untyped-def]
    variants = [make_variant(str(k), 0.9, 0.8 - 0.1 * k, generalization_gap=0.1 * k) for k in range(5)]
    assert FollowsGap(text="x").check(variants).verdict == "holds"
    doubted = [*variants[:-1], variants[-1].model_copy(update={"doubt": UNDERSTATED})]
    assert FollowsGap(text="x").check(doubted).verdict == "undecided"
