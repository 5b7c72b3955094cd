"""The picture of a trace: leakage against overfitting, epoch by epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mia_lightning.callbacks.look import Look
from mia_lightning.errors import InputError, usable_files
from mia_lightning.reports.pictures import png
from mia_lightning.reports.plots import Plot, across, labelled, layout, line, points

_NAMED = 8  # epochs that are named in the picture
_BARRED = 25  # looks whose intervals are drawn


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


def leakage_plot(looks: Sequence[Look], limit: float | None = None) -> Plot:
    """AUC of the loss attack, with its limits, over the generalisation gap, one point for each look; some are named.

    Args:
        limit: an AUC that is drawn as a line.

    Raises:
        InputError: no look has figures.
    """
    seen = [look for look in looks if look.auc is not None and look.gap is not None]
    if not seen:
        raise InputError(
            "The monitor has no look with figures to draw; fit with it for an epoch, in this process (a Trainer with "
            "strategy=ddp_spawn keeps the trace in another)."
        )
    x, y = [look.gap or 0.0 for look in seen], [look.auc or 0.0 for look in seen]
    every = max(1, -(-len(seen) // _NAMED))
    names = {place: f"epoch {seen[place].epoch}" for place in range(0, len(seen), every)}
    names[len(seen) - 1] = f"epoch {seen[-1].epoch}"
    order = sorted(names, key=lambda place: (place != len(seen) - 1, place != 0, place))  # the ends have room first
    barred = range(len(seen) - 1, -1, -max(1, -(-len(seen) // _BARRED)))  # from the last look on backwards
    marked: Plot = points([x[i] for i in barred], [y[i] for i in barred], "after an epoch, 95 % interval", 0)
    marked["error_y"] = {
        "type": "data",
        "symmetric": False,
        "array": [float(f"{(seen[i].auc_high or 1.0) - y[i]:.4g}") for i in barred],
        "arrayminus": [float(f"{y[i] - (seen[i].auc_low or 0.0):.4g}") for i in barred],
    }
    every_point: Plot = points(x, y, "", 0) | {"showlegend": False}
    named = points([x[i] for i in order], [y[i] for i in order], "", 0) | {"showlegend": False, "opacity": 1.0}
    named |= labelled(named["x"], named["y"], [names[i] for i in order])
    data = [
        line(x, y, "in the order of epochs", 0) | {"line": {"color": "--faint", "width": 1.5}},
        every_point,
        marked,
        named,
    ]
    shapes = [across("x", 0.5)]
    if limit is not None:
        data.append(line([min(x), max(x)], [limit, limit], f"limit {limit:g}", 1))
    axes = layout("overfitting: train accuracy − test accuracy", "leakage: AUC of the loss attack")
    return {"data": data, "layout": axes | {"shapes": shapes}}


def leakage_picture(looks: Sequence[Look], limit: float | None = None) -> Picture:
    """`leakage_plot` as a picture."""
    return Picture(png(leakage_plot(looks, limit), "Leakage against overfitting, epoch by epoch"))
