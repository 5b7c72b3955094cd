"""The picture of a trace."""

import pytest

from mia_lightning.callbacks.look import Look
from mia_lightning.callbacks.picture import leakage_plot
from mia_lightning.errors import InputError


def looks(count: int) -> list[Look]:
    return [
        Look(
            epoch=epoch, step=epoch, num_members=50, num_nonmembers=50,
            gap=0.01 * epoch, auc=0.5 + 0.01 * epoch, auc_low=0.48 + 0.01 * epoch, auc_high=0.53 + 0.01 * epoch,
        )
        for epoch in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 30])
def test_every_look_is_a_point_with_its_limits_and_the_ends_are_named(count: int) -> None:
    plot = leakage_plot(looks(count), limit=0.6)
    _, points, barred, *_ = plot["data"]
    assert points["x"] == pytest.approx([0.01 * epoch for epoch in range(count)])
    assert points["y"] == pytest.approx([0.5 + 0.01 * epoch for epoch in range(count)])
    assert len(barred["x"]) == min(count, 15)  # of thirty every other, the last among them
    assert barred["x"][0] == points["x"][-1]
    assert barred["error_y"]["array"] == pytest.approx(len(barred["x"]) * [0.03])
    assert barred["error_y"]["arrayminus"] == pytest.approx(len(barred["x"]) * [0.02])
    named = [text for trace in plot["data"] for text in trace.get("text", []) if text]
    assert {"epoch 0", f"epoch {count - 1}"} <= set(named)
    assert len(named) <= 12
    assert "overfitting" in plot["layout"]["xaxis"]["title"]["text"]


def test_looks_without_figures_are_left_out() -> None:
    nothing = Look(epoch=3, step=3, num_members=50, num_nonmembers=50, reason="not finite")
    assert len(leakage_plot([*looks(3), nothing])["data"][1]["x"]) == 3
    with pytest.raises(InputError, match="no look with figures"):
        leakage_plot([nothing])
