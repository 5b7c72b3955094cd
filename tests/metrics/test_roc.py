"""The ROC against scikit-learn, against a loop over every threshold, and its laws."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from mia_lightning.errors import InputError
from mia_lightning.metrics.intervals.bootstrap import Bootstrap
from mia_lightning.metrics.leakage import attack_figures
from mia_lightning.metrics.roc import auc, roc, tpr_at_fpr
from mia_lightning.seeds import generator

quick = settings(deadline=None, max_examples=150)
tied = st.integers(-3, 3).map(float)
wild = st.floats(allow_nan=False, allow_infinity=False, width=64)
finite = st.one_of(tied, wild)
infinite = st.sampled_from([-math.inf, -1e300, 0.0, 1.0, math.inf])


@st.composite
def cases(draw, scores=finite):
    """Scores and memberships with at least one of each class."""
    score = draw(st.lists(scores, min_size=2, max_size=40))
    member = draw(st.lists(st.booleans(), min_size=len(score), max_size=len(score)))
    member[draw(st.integers(0, len(score) - 1))] = True
    if all(member):
        member[draw(st.integers(0, len(score) - 1))] = False
    if not any(member):
        member[0] = True
        member[1] = False
    return torch.tensor(score, dtype=torch.float64), torch.tensor(member)


@quick
@given(cases())
def test_curve_equals_sklearn(case):
    score_N, is_member_N = case
    fpr, tpr, threshold = sklearn_metrics.roc_curve(is_member_N.numpy(), score_N.numpy(), drop_intermediate=False)
    curve = roc(score_N, is_member_N)
    np.testing.assert_array_equal(curve.threshold_F.numpy(), threshold)
    np.testing.assert_array_equal(curve.tpr_F.numpy(), tpr)
    np.testing.assert_array_equal(curve.fpr_F.numpy(), fpr)


@quick
@given(cases())
def test_areas_equal_sklearn(case):
    score_N, is_member_N = case
    truth, score = is_member_N.numpy(), score_N.numpy()
    assert auc(score_N, is_member_N) == pytest.approx(sklearn_metrics.roc_auc_score(truth, score), abs=1e-12)
    expected = sklearn_metrics.average_precision_score(truth, score)
    assert roc(score_N, is_member_N).average_precision == pytest.approx(expected, abs=1e-12)


@quick
@given(cases())
def test_precision_recall_equals_sklearn(case):
    score_N, is_member_N = case
    precision, recall, threshold = sklearn_metrics.precision_recall_curve(is_member_N.numpy(), score_N.numpy())
    curve = roc(score_N, is_member_N).precision_recall
    # scikit-learn's order is ascending, and its point at recall 0 has no threshold.
    np.testing.assert_allclose(curve.precision_F.flip(0).numpy(), precision, atol=1e-15)
    np.testing.assert_array_equal(curve.recall_F.flip(0).numpy(), recall)
    np.testing.assert_array_equal(curve.threshold_F[1:].flip(0).numpy(), threshold)
    assert curve.threshold_F[0] == math.inf


@quick
@given(cases(scores=st.one_of(tied, infinite)), st.data())
def test_tpr_at_fpr_equals_a_loop_over_every_threshold(case, data):
    score_N, is_member_N = case
    score, member = score_N.tolist(), is_member_N.tolist()
    n1, n0 = sum(member), len(member) - sum(member)
    limits = st.one_of(st.floats(0, 1), st.integers(0, n0).map(lambda count: count / n0))
    max_fpr = data.draw(limits)
    best = (0.0, 0)
    for threshold in set(score):
        flagged = [value >= threshold for value in score]
        true = sum(f and m for f, m in zip(flagged, member, strict=True))
        false = sum(flagged) - true
        if false / n0 <= max_fpr:
            best = max(best, (true / n1, -false))
    point = tpr_at_fpr(score_N, is_member_N, max_fpr=max_fpr)
    assert (point.tpr, -point.false_positives) == best
    assert point.fpr == point.false_positives / n0
    if point.tpr > 0:
        flagged_N = score_N >= point.threshold
        assert int((flagged_N & ~is_member_N).sum()) == point.false_positives
        assert int((flagged_N & is_member_N).sum()) / n1 == point.tpr
    else:
        assert (point.threshold, point.false_positives) == (math.inf, 0)


@quick
@given(cases(scores=infinite))
def test_auc_equals_a_loop_over_pairs(case):
    score_N, is_member_N = case
    wins = Fraction(0)
    inside, outside = score_N[is_member_N].tolist(), score_N[~is_member_N].tolist()
    for member in inside:
        for nonmember in outside:
            wins += Fraction(int(member > nonmember)) + Fraction(int(member == nonmember), 2)
    assert auc(score_N, is_member_N) == float(wins / (len(inside) * len(outside)))


@quick
@given(cases(scores=tied), st.integers(0, 2**30))
def test_laws(case, seed):
    score_N, is_member_N = case
    original = roc(score_N, is_member_N)
    order_N = torch.randperm(len(score_N), generator=generator(seed, "permutation"))
    others = [
        (score_N.exp() * 1e6 - 17, is_member_N),
        (1 / (1 + (-score_N).exp()), is_member_N),
        (score_N.float(), is_member_N),
        (score_N.long(), is_member_N),
        (score_N[order_N], is_member_N[order_N]),
    ]
    for other in others:
        curve = roc(*other)
        assert torch.equal(curve.true_positives_F, original.true_positives_F)
        assert torch.equal(curve.false_positives_F, original.false_positives_F)
        assert curve.auc == original.auc
        assert curve.average_precision == original.average_precision
        for max_fpr in (0.0, 0.1, 0.5, 1.0):
            assert curve.tpr_at_fpr(max_fpr).tpr == original.tpr_at_fpr(max_fpr).tpr
    assert auc(-score_N, is_member_N) == pytest.approx(1 - original.auc, abs=1e-15)
    assert auc(score_N, ~is_member_N) == pytest.approx(1 - original.auc, abs=1e-15)


@pytest.mark.parametrize("value", [-1e9, 0.0, 0.3, math.inf, -math.inf])
def test_constant_scores_are_at_chance(value):
    score_N = torch.full((30,), value)
    is_member_N = torch.arange(30) < 11
    assert auc(score_N, is_member_N) == 0.5
    assert roc(score_N, is_member_N).average_precision == pytest.approx(11 / 30)
    assert tpr_at_fpr(score_N, is_member_N, max_fpr=0.99).tpr == 0.0
    assert tpr_at_fpr(score_N, is_member_N, max_fpr=1.0).tpr == 1.0


def test_first_point_flags_nothing_even_where_scores_are_infinite():
    curve = roc(torch.tensor([math.inf, math.inf, 0.0]), torch.tensor([True, False, False]))
    assert curve.threshold_F.tolist() == [math.inf, math.inf, 0.0]
    assert curve.true_positives_F.tolist() == [0, 1, 1]
    assert curve.false_positives_F.tolist() == [0, 1, 2]
    assert curve.true_positives_F.dtype == curve.false_positives_F.dtype == torch.int64
    assert (curve.num_members, curve.num_nonmembers) == (1, 2)


@pytest.mark.parametrize(
    ("max_fpr", "n0", "expected"),
    [
        (0.01, 300, 3),
        (0.07, 100, 7),
        (0.29, 100, 29),
        (1 / 49, 49, 1),
        (0.0, 10, 0),
        (1.0, 10, 10),
        (0.00999, 300, 2),
        (0.001, 999, 0),
        (0.001, 1000, 1),
    ],
)
def test_rates_that_rounding_would_miss(max_fpr, n0, expected):
    # Every member ties with one non-member, and so flagging one more non-member always gains a member.
    score_N = torch.arange(n0).repeat(2)
    point = tpr_at_fpr(score_N, torch.arange(2 * n0) < n0, max_fpr=max_fpr)
    assert point.false_positives == expected
    assert point.fpr <= max_fpr


def test_every_count_qualifies_at_its_own_rate():
    for n0 in (3, 7, 49, 100, 123):
        score_N = torch.arange(n0).repeat(2)
        curve = roc(score_N, torch.arange(2 * n0) < n0)
        found = [curve.tpr_at_fpr(count / n0).false_positives for count in range(n0 + 1)]
        assert found == list(range(n0 + 1))


def test_scores_far_from_the_unit_interval_are_not_squashed():
    random = generator(0, "squashing")
    members_N = 24 + 8 * torch.randn(20_000, generator=random)
    nonmembers_N = 18 + 8 * torch.randn(20_000, generator=random)
    score_N = torch.cat([members_N, nonmembers_N])
    is_member_N = torch.arange(40_000) < 20_000
    point = tpr_at_fpr(score_N, is_member_N, max_fpr=0.001)
    fpr, tpr, _ = sklearn_metrics.roc_curve(is_member_N.numpy(), score_N.numpy(), drop_intermediate=False)
    assert point.tpr == tpr[fpr <= 0.001].max()
    assert point.tpr == pytest.approx(0.0097, abs=0.004)  # Φ(Φ⁻¹(0.001) + 6/8) = 0.0096
    assert point.false_positives == 20


@pytest.mark.slow
def test_a_million_records_equal_sklearn_and_ten_million_run():
    random = generator(0, "ten million")
    score_N = torch.randn(10_000_000, generator=random, dtype=torch.float64)
    is_member_N = torch.rand(10_000_000, generator=random) < 0.3
    score_N += is_member_N * 1.0
    part_N, truth_N = (score_N[:1_000_000] * 1e5).round(), is_member_N[:1_000_000]  # ties
    fpr, tpr, threshold = sklearn_metrics.roc_curve(truth_N.numpy(), part_N.numpy(), drop_intermediate=False)
    curve = roc(part_N, truth_N)
    np.testing.assert_array_equal(curve.threshold_F.numpy(), threshold)
    np.testing.assert_array_equal(curve.tpr_F.numpy(), tpr)
    np.testing.assert_array_equal(curve.fpr_F.numpy(), fpr)
    assert curve.auc == pytest.approx(sklearn_metrics.roc_auc_score(truth_N.numpy(), part_N.numpy()), abs=1e-12)
    figures = attack_figures(score_N, score_N > 1, is_member_N, bootstrap=Bootstrap(seed=0, attack="a"))
    assert figures.auc.low < 0.76025 < figures.auc.high  # Φ(1 / √2)
    figure = figures.tpr_at_fpr["0.0001"]
    assert figure.low < 0.00329 < figure.high  # Φ(Φ⁻¹(0.0001) + 1)
    assert figure.false_positives <= 700 < figure.false_positives + 5
    assert figures.average_precision.high - figures.average_precision.low < 0.002


def test_gradients_are_left_behind():
    score_N = torch.tensor([1.0, 0.0], requires_grad=True)
    assert not roc(score_N, torch.tensor([True, False])).threshold_F.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_counts():
    score_N = torch.randint(50, (10_000,), generator=generator(0, "cuda")).double()
    is_member_N = torch.arange(10_000) % 3 == 0
    here, there = roc(score_N, is_member_N), roc(score_N.cuda(), is_member_N.cuda())
    assert there.threshold_F.is_cuda
    assert torch.equal(there.true_positives_F.cpu(), here.true_positives_F)
    assert torch.equal(there.false_positives_F.cpu(), here.false_positives_F)
    assert there.auc == here.auc
    assert there.tpr_at_fpr(0.1) == here.tpr_at_fpr(0.1)


GOOD = torch.tensor([0.5, 0.1, 0.3])
BOTH = torch.tensor([True, False, True])


@pytest.mark.parametrize("function", [roc, auc])
@pytest.mark.parametrize(
    ("score_N", "is_member_N", "message"),
    [
        (torch.tensor([0.5, math.nan, 0.3]), BOTH, "1 NaN of 3"),
        (GOOD, BOTH[:2], r"shape \(3,\)"),
        (GOOD.unsqueeze(0), BOTH.unsqueeze(0), r"shape \(1, 3\)"),
        (GOOD, torch.ones(3, dtype=torch.bool), "3 members and 0 non-members"),
        (GOOD, torch.zeros(3, dtype=torch.bool), "0 members and 3 non-members"),
        (GOOD[:0], BOTH[:0], "0 members and 0 non-members"),
        (GOOD, BOTH.long(), r"torch\.int64"),
        (GOOD + 1j, BOTH, "real numbers"),
    ],
)
def test_refusals(function, score_N, is_member_N, message):
    with pytest.raises(InputError, match=message):
        function(score_N, is_member_N)


@pytest.mark.parametrize("max_fpr", [-0.1, 1.1, math.nan])
def test_a_rate_outside_the_unit_interval_is_refused(max_fpr):
    with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
        tpr_at_fpr(GOOD, BOTH, max_fpr=max_fpr)
