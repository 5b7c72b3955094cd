"""The picture of a trace: leakage, and overfitting below it, over the epochs."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mia_lightning.callbacks.look import Look
from mia_lightning.errors import InputError, usable_files
from mia_lightning.reports.pictures import styled
from mia_lightning.reports.plots import LIGHT

_SIZE = (8.4, 5.6)  # inches
_MARKED = 30  # looks that are marked one by one


@dataclass(frozen=True)
class Picture:
    """A PNG; a notebook shows it."""

    content: bytes

    def save(self, path: str | Path) -> None:
        """Write it to a file."""
        with usable_files():
            Path(path).write_bytes(self.content)

    def _repr_png_(self) -> bytes:
        return self.content


def leakage_picture(looks: Sequence[Look], limit: float | None = None, utility: str = "accuracy") -> Picture:
    """AUC of the loss attack with its 95 % interval, and the generalisation gap, over the epochs.

    Args:
        limit: an AUC that is drawn as a line.
        utility: whose gap it is.

    Raises:
        InputError: no look has figures.
    """
    figure = leakage_figure(looks, limit, utility)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return Picture(buffer.getvalue())


def leakage_figure(looks: Sequence[Look], limit: float | None = None, utility: str = "accuracy") -> Figure:
    """As `leakage_picture`, of matplotlib."""
    seen = [look for look in looks if look.auc is not None and look.gap is not None]
    if not seen:
        raise InputError(
            "The monitor has no look with figures to draw; fit with it for an epoch, in this process (a Trainer with "
            "strategy=ddp_spawn keeps the trace in another)."
        )
    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    epochs = [look.epoch for look in seen]
    style = {"marker": "o" if len(seen) <= _MARKED else "", "markersize": 4, "linewidth": 1.8}
    first, second = LIGHT["--series-1"], LIGHT["--series-2"]
    limits = [[look.auc_low for look in seen], [look.auc_high for look in seen]]
    top.fill_between(epochs, *limits, color=first, alpha=0.18, linewidth=0, label="95 % interval")
    top.plot(epochs, [look.auc for look in seen], color=first, label="AUC of the loss attack", **style)
    _across(top, 0.5, "chance", LIGHT["--ink"], "--")
    if limit is not None:
        _across(top, limit, f"limit {limit:g}", LIGHT["--series-4"], "-.")
    bottom.plot(epochs, [look.gap for look in seen], color=second, label="generalisation gap", **style)
    _across(bottom, 0.0, "", LIGHT["--muted"], ":")
    for axes, title, side in ((top, "Leakage", "AUC"), (bottom, "Overfitting", f"train − test {utility}")):
        styled(axes, title)
        axes.set_ylabel(side, color=LIGHT["--muted"], fontsize=10)
        axes.legend(frameon=False, fontsize=9, labelcolor=LIGHT["--ink"], loc="upper left", bbox_to_anchor=(1.01, 1.0))
    bottom.set_xlabel("epoch", color=LIGHT["--muted"], fontsize=10)
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _across(axes: Axes, at: float, name: str, color: str, dashes: str) -> None:
    axes.axhline(at, color=color, linewidth=1, linestyle=dashes, label=name or "_nolegend_")
