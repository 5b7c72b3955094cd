"""The figures of an attack: against scikit-learn, null with reasons, for each class, over targets."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from mia_lightning.errors import InputError
from mia_lightning.metrics.figures import Figure, Figures
from mia_lightning.metrics.intervals.bootstrap import Bootstrap
from mia_lightning.metrics.leakage import attack_figures
from mia_lightning.metrics.over_targets import mean_figures
from mia_lightning.metrics.roc import tpr_at_fpr
from mia_lightning.seeds import generator

NAMES = [name for name, field in Figures.model_fields.items() if field.annotation is Figure]
FAMILIES = ("tpr_at_fpr", "precision_at_recall", "ppv")


def group(n1, n0, seed=0):
    """Noisy scores, a threshold at 0 and memberships of a group."""
    is_member_N = torch.arange(n1 + n0) < n1
    score_N = torch.randn(n1 + n0, generator=generator(seed, "group")) + is_member_N
    return score_N, score_N > 0, is_member_N


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 1000))
def test_defined_figures_equal_sklearn(n1, n0, seed):
    score_N, is_flagged_N, is_member_N = group(n1, n0, seed)
    is_flagged_N = is_flagged_N.clone()
    is_flagged_N[0] = True
    figures = attack_figures(score_N, is_flagged_N, is_member_N, max_fprs=(1.0,))
    truth, flagged, score = is_member_N.numpy(), is_flagged_N.numpy(), score_N.numpy()
    weight = [1 / n1 if member else 1 / n0 for member in truth]
    expected = {
        "precision": sklearn_metrics.precision_score(truth, flagged),
        "precision_balanced": sklearn_metrics.precision_score(truth, flagged, sample_weight=weight),
        "recall": sklearn_metrics.recall_score(truth, flagged),
        "accuracy": sklearn_metrics.accuracy_score(truth, flagged),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(truth, flagged),
        "advantage": sklearn_metrics.balanced_accuracy_score(truth, flagged, adjusted=True),
        "auc": sklearn_metrics.roc_auc_score(truth, score),
        "average_precision": sklearn_metrics.average_precision_score(truth, score),
    }
    for name, value in expected.items():
        assert getattr(figures, name).value == pytest.approx(value, abs=1e-12), name
        assert getattr(figures, name).reason is None
    counts = [getattr(figures, name).n for name in NAMES]
    assert counts == [flagged.sum(), flagged.sum(), n1, n1 + n0, n1 + n0, n1 + n0, n1 + n0, n1 + n0]
    assert (figures.num_members, figures.num_nonmembers) == (n1, n0)
    assert figures.base_rate == n1 / (n1 + n0)
    assert figures.tpr_at_fpr["1"].value == 1.0
    precision, recall, _ = sklearn_metrics.precision_recall_curve(truth, score, sample_weight=weight)
    for level, figure in figures.precision_at_recall.items():
        reached = recall >= float(level) - 1e-12  # ascending thresholds: the last of these is the highest
        assert figure.value == pytest.approx(precision[reached][-1], abs=1e-12), level
    for prior, figure in figures.ppv.items():
        at_prior = [float(prior) / n1 if member else (1 - float(prior)) / n0 for member in truth]
        if figure.value is None:
            assert not (flagged & ~truth).any()
        else:
            assert figure.value == pytest.approx(
                sklearn_metrics.precision_score(truth, flagged, sample_weight=at_prior), abs=1e-12
            )


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 1000), st.booleans())
@example(2, 1, 552, True)  # all replicates are equal but for rounding
def test_every_interval_holds_its_figure_and_has_a_width(n1, n0, seed, is_tied):
    score_N, _, is_member_N = group(n1, n0, seed)
    score_N = score_N.round() if is_tied else score_N
    figures = attack_figures(score_N, score_N > 0.5, is_member_N, bootstrap=Bootstrap(seed=seed, attack="a"))
    shown = [getattr(figures, name) for name in NAMES]
    shown += [figure for family in FAMILIES for figure in getattr(figures, family).values()]
    for figure in shown:
        if figure.value is not None and figure.low is not None:
            assert figure.low - 1e-9 <= figure.value <= figure.high + 1e-9
            assert figure.high - figure.low > 1e-6
            assert not figure.interval.startswith("none")
        elif figure.value is not None:
            assert figure.high is None
            assert figure.interval.startswith("none")


def test_no_interval_without_being_asked_for():
    figures = attack_figures(*group(30, 300), intervals=False)
    with_intervals = attack_figures(*group(30, 300))
    for name in NAMES:
        bare, figure = getattr(figures, name), getattr(with_intervals, name)
        assert (bare.low, bare.high, bare.interval) == (None, None, None)
        assert (bare.value, bare.n) == (figure.value, figure.n)
    assert figures.ppv["0.1"].low is figures.tpr_at_fpr["0.01"].low is figures.precision_at_recall["0.5"].low is None


def test_ppv_without_false_positives_is_a_lower_limit():
    is_member_N = torch.arange(400) < 200
    flagged_N = torch.arange(400) < 50
    figure = attack_figures(flagged_N.double(), flagged_N, is_member_N).ppv["0.01"]
    assert (figure.value, figure.high) == (None, None)
    assert 0.05 < figure.low < 0.5  # 50 of 200 members against at most 3.7 of 200 non-members
    assert figure.reason == "no false positive among 200 non-members: it is at least the lower limit"


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 60), st.integers(2, 300), st.integers(0, 1000))
def test_figures_and_intervals_are_the_same_under_increasing_maps(n1, n0, seed):
    score_N, is_flagged_N, is_member_N = group(n1, n0, seed)
    score_N = (score_N * 4).round() / 4
    bootstrap = Bootstrap(seed=1, attack="a", replicates=100)
    expected = attack_figures(score_N, is_flagged_N, is_member_N, bootstrap=bootstrap)
    distinct, place_N = score_N.double().unique(return_inverse=True)  # functions of equal numbers may round apart
    for mapped in (distinct.exp() * 1e6 - 17, distinct**3 + distinct, torch.special.expit(distinct)):
        assert attack_figures(mapped[place_N], is_flagged_N, is_member_N, bootstrap=bootstrap) == expected


def test_balanced_precision_is_precision_in_a_balanced_group():
    figures = attack_figures(*group(37, 37))
    assert figures.precision_balanced == figures.precision


@pytest.mark.parametrize(
    ("n1", "n0", "reason"),
    [(0, 0, "the group has no records"), (0, 5, "the group has no members"), (5, 0, "the group has no non-members")],
)
def test_a_group_of_one_kind_has_null_figures(n1, n0, reason):
    figures = attack_figures(*group(n1, n0))
    shown = [getattr(figures, name) for name in NAMES if name != "recall"]
    shown += [figure for family in FAMILIES for figure in getattr(figures, family).values()]
    assert {(figure.value, figure.reason) for figure in shown} == {(None, reason)}
    assert list(figures.tpr_at_fpr) == ["0.01", "0.001", "0.0001"]
    assert list(figures.precision_at_recall) == ["0.1", "0.5", "0.9"]
    assert list(figures.ppv) == ["0.01", "0.1"]
    assert figures.auc.n == n1 + n0
    if n1:
        assert figures.recall.value is not None
        assert figures.recall.n == n1
    else:
        assert figures.recall == Figure(value=None, n=0, reason=reason)
    assert figures.base_rate == (n1 / (n1 + n0) if n1 + n0 else None)


def test_nothing_flagged_leaves_precision_undefined():
    score_N, is_flagged_N, is_member_N = group(10, 10)
    figures = attack_figures(score_N, torch.zeros_like(is_flagged_N), is_member_N)
    assert figures.precision == Figure(value=None, n=0, reason="the attack flagged no record")
    assert figures.precision_balanced == figures.precision == figures.ppv["0.1"]
    assert figures.recall.value == figures.advantage.value == 0.0
    assert figures.accuracy.value == 0.5
    assert figures.auc.value is not None


@pytest.mark.parametrize(
    ("n0", "defined", "cautious"),
    [(1, False, False), (99, False, False), (100, True, True), (999, True, True), (1000, True, False)],
)
def test_tpr_at_fpr_needs_non_members(n0, defined, cautious):
    score_N, is_flagged_N, is_member_N = group(50, n0)
    figure = attack_figures(score_N, is_flagged_N, is_member_N, max_fprs=(0.01,)).tpr_at_fpr["0.01"]
    assert figure.n == 50 + n0
    if not defined:
        assert figure.value is None
        assert figure.reason == (
            f"a false-positive rate of 0.01 needs at least 100 non-members, and the group has {n0}"
        )
        return
    point = tpr_at_fpr(score_N, is_member_N, max_fpr=0.01)
    assert figure.value == point.tpr
    assert figure.false_positives == point.false_positives
    if cautious:
        assert figure.reason.startswith(f"rests on {point.false_positives} false positive")
        assert f"among {n0} non-members, where at least 1,000" in figure.reason
    else:
        assert figure.reason is None


def test_thresholds_on_the_number_of_non_members_do_not_suffer_from_rounding():
    for n0 in (3, 7, 49, 107):  # 1 / 49 * 49 < 1 in floats
        figures = attack_figures(*group(4, n0), max_fprs=(1 / n0,))
        assert next(iter(figures.tpr_at_fpr.values())).value is not None
        figures = attack_figures(*group(4, n0 - 1), max_fprs=(1 / n0,))
        assert next(iter(figures.tpr_at_fpr.values())).value is None


def test_infinite_scores_are_allowed():
    score_N = torch.tensor([math.inf, 0.0, -math.inf, -math.inf])
    figures = attack_figures(score_N, score_N > -1, torch.tensor([True, True, False, False]))
    assert figures.auc.value == 1.0


def test_mean_of_one_target_is_that_target():
    figures = attack_figures(*group(20, 200))
    assert mean_figures([figures]) is figures


def test_mean_over_targets():
    targets = [attack_figures(*group(20, 2000, seed=1)), attack_figures(*group(30, 1000, seed=2))]
    mean = mean_figures(targets)
    assert (mean.num_members, mean.num_nonmembers, mean.base_rate) == (50, 3000, 50 / 3050)
    for name in NAMES:
        first, second = (getattr(target, name) for target in targets)
        figure = getattr(mean, name)
        assert figure.value == pytest.approx((first.value + second.value) / 2)
        assert figure.n == first.n + second.n
        assert (figure.reason, figure.low, figure.high) == (None, None, None)
        assert figure.spread == pytest.approx(abs(first.value - second.value) / 2**0.5)
    for family in ("tpr_at_fpr", "precision_at_recall"):
        for key, figure in getattr(mean, family).items():
            values = [getattr(target, family)[key].value for target in targets]
            assert (figure.value is None) == (None in values)
            assert figure.value is None or figure.value == pytest.approx(sum(values) / 2)
    tpr, advantage = mean.recall.value, mean.advantage.value
    assert mean.ppv["0.1"].value == pytest.approx(0.1 * tpr / (0.1 * tpr + 0.9 * (tpr - advantage)))
    assert list(mean.tpr_at_fpr) == ["0.01", "0.001", "0.0001"]
    assert mean.tpr_at_fpr["0.01"].reason is None
    # Both rest on few non-members, each on its own number of them.
    reason = mean.tpr_at_fpr["0.001"].reason
    assert reason == f"for 2 of 2 targets such as: {targets[0].tpr_at_fpr['0.001'].reason}"


def test_mean_says_for_how_many_targets_it_is_undefined():
    score_N, is_flagged_N, is_member_N = group(20, 200)
    with_flags = attack_figures(score_N, is_flagged_N, is_member_N)
    without = attack_figures(score_N, torch.zeros_like(is_flagged_N), is_member_N)
    mean = mean_figures([without, with_flags, with_flags])
    assert mean.precision.value == with_flags.precision.value
    assert mean.precision.n == 2 * with_flags.precision.n
    assert mean.precision.reason == (
        "the mean over the 2 of 3 targets for which it is defined (the attack flagged no record)"
    )
    assert mean.recall.value == pytest.approx(2 * with_flags.recall.value / 3)
    # One caution that all targets share is kept once; one reason that all share stays as it is.
    assert mean.tpr_at_fpr["0.01"].reason == with_flags.tpr_at_fpr["0.01"].reason
    assert mean.tpr_at_fpr["0.001"] == with_flags.tpr_at_fpr["0.001"].model_copy(update={"n": 660})


def test_mean_defined_for_no_target():
    targets = [attack_figures(*group(5, 0)), attack_figures(*group(0, 5)), attack_figures(*group(0, 0))]
    mean = mean_figures(targets)
    assert mean.auc.value is None
    assert mean.auc.n == 10
    assert mean.auc.reason == ("defined for none of 3 targets, for the first because the group has no non-members")
    assert mean_figures([targets[2], targets[2]]) == targets[2]


def test_mean_of_a_caution_and_a_null():
    sparse, sparser = attack_figures(*group(20, 200)), attack_figures(*group(20, 50))
    reason = mean_figures([sparse, sparser]).tpr_at_fpr["0.01"].reason
    assert "1 of 2 targets for which it is defined (a false-positive rate of 0.01 needs" in reason
    assert f"; for 1 of 2 targets such as: {sparse.tpr_at_fpr['0.01'].reason}" in reason


def test_figures_survive_json():
    figures = attack_figures(*group(5, 2000))
    assert Figures.model_validate_json(figures.model_dump_json()) == figures


def test_mean_refusals():
    with pytest.raises(InputError, match="`figures` is empty"):
        mean_figures([])
    one, other = attack_figures(*group(5, 5)), attack_figures(*group(5, 5), max_fprs=(0.1,))
    with pytest.raises(InputError, match="the same rates"):
        mean_figures([one, other])


@pytest.mark.parametrize("max_fprs", [(0.0,), (1.5,), (-0.1,), (math.nan,)])
def test_rates_that_no_report_can_hold_are_refused(max_fprs):
    with pytest.raises(InputError, match=r"lie in \(0, 1\]"):
        attack_figures(*group(5, 5), max_fprs=max_fprs)


def test_a_rate_given_twice_is_refused():
    with pytest.raises(InputError, match="holds a rate twice"):
        attack_figures(*group(5, 5), max_fprs=(0.01, 0.01000000001))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score_N": torch.tensor([math.nan, 1.0])}, "NaN"),
        ({"score_N": torch.zeros(3)}, "`score_N` has shape"),
        ({"is_flagged_N": torch.tensor([1, 0])}, "`is_flagged_N` has shape .* torch.int64"),
        ({"is_flagged_N": torch.tensor([True])}, "`is_flagged_N` has shape"),
        ({"is_member_N": torch.tensor([1, 0])}, "`is_member_N` has dtype"),
    ],
)
def test_refusals_of_figures(change, message):
    both = torch.tensor([True, False])
    arguments = {"score_N": torch.zeros(2), "is_flagged_N": both, "is_member_N": both} | change
    with pytest.raises(InputError, match=message):
        attack_figures(**arguments)
