"""Curves equal the metrics' own, and thinning does not move what is drawn."""

import numpy as np
import pytest
import torch

from mia_lightning.metrics.roc import roc
from mia_lightning.reports.curves import (
    attack_curves,
    bands,
    lowest_precision,
    precision_at_recalls,
    precision_line,
    roc_line,
    simplify,
)
from mia_lightning.reports.labels import label_places
from mia_lightning.reports.plots import NUM_SERIES, line
from mia_lightning.reports.schema import AuditReport
from mia_lightning.reports.scores import TrainingCurves


def _rows(report, name):
    rows = report.scores.attack == name
    return torch.from_numpy(report.scores.score[rows]), torch.from_numpy(report.scores.is_member[rows])


def test_roc_is_that_of_the_metrics(report: AuditReport) -> None:
    curves, exact = attack_curves(report.scores, "loss"), roc(*_rows(report, "loss"))

    np.testing.assert_array_equal(curves.false_positive_rate, exact.fpr_F)
    np.testing.assert_array_equal(curves.true_positive_rate, exact.tpr_F)
    assert curves.num_nonmembers == exact.num_nonmembers


def test_every_point_is_a_point_of_the_metrics_curve(report: AuditReport) -> None:
    curve = attack_curves(report.scores, "shokri").overall
    exact = roc(*_rows(report, "shokri")).precision_recall
    known = set(zip(exact.recall_F.tolist(), exact.precision_F.tolist(), strict=True))

    assert set(zip(curve.recall.tolist(), curve.precision.tolist(), strict=True)) <= known
    assert curve.recall[-1] == 1


def test_area_under_the_points_is_the_average_precision_of_the_report(report: AuditReport) -> None:
    for attack in report.attacks:
        curves = attack_curves(report.scores, attack.name)
        area = np.sum(np.diff(curves.overall.recall, prepend=0) * curves.overall.precision)
        assert area == pytest.approx(attack.overall.average_precision.value, abs=1e-12)
        for group in attack.per_class[:3]:
            curve = curves.per_class[group.class_index]
            area = np.sum(np.diff(curve.recall, prepend=0) * curve.precision)
            assert area == pytest.approx(group.average_precision.value, abs=1e-12)


def test_balanced_precision_is_re_weighted_to_one_member_per_nonmember(report: AuditReport) -> None:
    curve = attack_curves(report.scores, "shokri").overall
    rate = report.attacks[0].overall.base_rate
    odds = curve.precision / np.maximum(1 - curve.precision, 1e-300) * (1 - rate) / rate

    np.testing.assert_allclose(curve.precision_balanced, odds / (1 + odds))


def test_a_class_of_one_kind_has_no_curve(report: AuditReport) -> None:
    assert sorted(attack_curves(report.scores, "shokri").per_class) == [0, 1, 2]


def test_an_attack_without_rows_has_no_curves(report: AuditReport) -> None:
    curves = attack_curves(report.scores, "absent")

    assert (curves.overall, curves.true_positive_rate, curves.per_class) == (None, None, {})
    assert lowest_precision(curves) == 0.4


def test_lines_keep_the_ends_and_the_shape(make_report) -> None:
    curves = attack_curves(make_report(per_class=3000).scores, "shokri")
    x, y = precision_line(curves.overall)

    assert len(x) <= 200 < len(curves.overall.recall)
    assert (x[0], x[-1]) == (0, 1)
    assert (y[0], y[-1]) == (curves.overall.precision_balanced[0], curves.overall.precision_balanced[-1])
    grid = np.linspace(0.05, 1, 300)
    shown = np.interp(grid, x, y)
    np.testing.assert_allclose(shown, precision_at_recalls(curves.overall, grid), atol=0.01)


def test_roc_line_reads_as_the_largest_tpr_at_an_fpr_of_at_most_x(report: AuditReport) -> None:
    curves = attack_curves(report.scores, "shokri")
    x, y = roc_line(curves, 1e-3)

    assert x.min() == y.min() == 1e-3
    assert len(x) <= 300
    for fpr in (0.0123, 0.101, 0.52):
        allowed = curves.true_positive_rate[curves.false_positive_rate <= fpr].max()
        assert y[x <= fpr].max() == pytest.approx(allowed, abs=0.01)


def test_simplify_drops_points_on_a_line_and_keeps_corners() -> None:
    x = np.arange(101.0)
    y = np.where(x < 50, x, 100 - x)

    assert simplify(x, y, 50).tolist() == [0, 50, 100]
    assert simplify(x, y, 2).tolist() == [0, 100]
    assert simplify(x[:1], y[:1], 2).tolist() == [0]
    assert simplify(np.zeros(9), np.zeros(9), 5).tolist() == [0, 8]


def test_labels_do_not_lie_on_one_another() -> None:
    assert label_places([(0.5, 0.5), (0.5, 0.5), (0.5, 0.5), (0.0, 1.0)], ["a", "b", "c", "d"]) == {
        0: "right",
        1: "left",
        3: "right",
    }
    assert label_places([], []) == {}


def test_labels_stay_within_the_plot() -> None:
    long = "a name of twenty signs"
    assert label_places([(0.0, 0.0), (1.0, 1.0)], [long, long]) == {0: "right", 1: "left"}


def test_series_beyond_the_colours_differ_by_their_dash() -> None:
    looks = [line([0, 1], [0, 1], "a", place)["line"] for place in range(4 * NUM_SERIES)]
    assert len({(look["color"], look.get("dash")) for look in looks}) == len(looks)


def test_bands_are_quantiles_over_the_models_still_training() -> None:
    loss_EK = np.array([[1.0, 2, 3, 4, 5], [2, 2, 2, np.nan, np.inf], [np.nan] * 5])
    band = bands(TrainingCurves(train_loss_EK=loss_EK))["train_loss"]

    assert band.epoch.tolist() == [0, 1]
    assert (band.median.tolist(), band.low.tolist(), band.high.tolist()) == ([3, 2], [1.4, 2], [4.6, 2])
    assert bands(TrainingCurves(train_loss_EK=np.full((2, 3), np.nan))) == {}
