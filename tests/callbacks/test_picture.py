"""The picture of a trace."""

import pytest

from mia_lightning.callbacks.look import Look
from mia_lightning.callbacks.picture import leakage_figure
from mia_lightning.errors import InputError


def looks(count: int) -> list[Look]:
    return [
        Look(
            epoch=epoch, step=epoch, num_members=50, num_nonmembers=50,
            gap=0.02 * epoch, auc=0.5 + 0.01 * epoch, auc_low=0.48 + 0.01 * epoch, auc_high=0.53 + 0.01 * epoch,
        )
        for epoch in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 40])
def test_every_look_has_its_leakage_with_limits_above_its_gap(count: int) -> None:
    leakage, gap = leakage_figure(looks(count), limit=0.6).axes
    epochs = list(range(count))
    lines = {line.get_label(): line for axes in (leakage, gap) for line in axes.lines}
    assert list(lines["AUC of the loss attack"].get_xdata()) == epochs
    assert lines["AUC of the loss attack"].get_ydata() == pytest.approx([0.5 + 0.01 * epoch for epoch in epochs])
    assert lines["generalisation gap"].get_ydata() == pytest.approx([0.02 * epoch for epoch in epochs])
    assert set(lines["limit 0.6"].get_ydata()) == {0.6}
    assert set(lines["chance"].get_ydata()) == {0.5}
    (band,) = leakage.collections
    corners = {(x, round(y, 6)) for x, y in band.get_paths()[0].vertices.tolist()}
    assert {(epoch, round(edge + 0.01 * epoch, 6)) for epoch in epochs for edge in (0.48, 0.53)} <= corners
    assert (leakage.get_title("left"), gap.get_title("left")) == ("Leakage", "Overfitting")


def test_looks_without_figures_are_left_out() -> None:
    nothing = Look(epoch=3, step=3, num_members=50, num_nonmembers=50, reason="not finite")
    leakage, _ = leakage_figure([*looks(3), nothing]).axes
    assert list(leakage.lines[0].get_xdata()) == [0, 1, 2]
    with pytest.raises(InputError, match="no look with figures"):
        leakage_figure([nothing])
