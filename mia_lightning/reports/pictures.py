"""Figures as PNG files, drawn from the descriptions in `plots`.

Drawn through matplotlib's object interface: no figure, backend or style is set for the process.
"""

import io
from collections.abc import Mapping
from html import unescape
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from mia_lightning.reports.curves import AttackCurves, roc_edge
from mia_lightning.reports.labels import LETTER_WIDTH, label_places
from mia_lightning.reports.plots import LIGHT, Plot, coloured, leakage_vs_gap_plot, precision_recall_plot, roc_plot
from mia_lightning.reports.schema import AuditReport
from mia_lightning.reports.selection import strongest
from mia_lightning.reports.words import label

_INK, _MUTED, _FAINT = (LIGHT[role] for role in ("--ink", "--muted", "--faint"))
_WIDE, _NARROW = (8.4, 5.2), (4.4, 6.2)  # inches
_LETTER_OF_NARROW = 1.6 * LETTER_WIDTH
_POINTS = 0.75  # of type, for a pixel of the page
_DASHES = {"solid": "-", "dash": (0, (4, 3)), "dot": ":", "dashdot": "-."}
_SYMBOLS = {"triangle-up": "^", "square": "s", "diamond": "D", "triangle-down": "v", "cross": "P", "x": "X"}


class Picture(NamedTuple):
    """A picture of a page, as PNG: for its usual width, and for that of a phone."""

    title: str
    wide: bytes
    narrow: bytes


def png_figures(report: AuditReport, curves: Mapping[str, AttackCurves]) -> dict[str, bytes]:
    """PNG files by name: precision and recall of the strongest attack, and the ROC and the leakage of all attacks.

    `curves` has an entry for each attack's name. Empty where no attack has a curve.
    """
    attack = strongest(report)
    if attack is None:
        return {}
    of_attack = precision_recall_plot(attack, curves[attack.name])
    drawn = {
        "precision_recall": png(of_attack, f"Precision and recall of {label(attack)}"),
        "roc": png(roc_plot(report, curves, roc_edge(curves)), "ROC on logarithmic axes"),
        "leakage_vs_gap": png(leakage_vs_gap_plot(report), "Leakage and overfitting, class by class"),
    }
    return {f"figures/{name}.png": picture for name, picture in drawn.items()}


def picture(plot: Plot, title: str) -> Picture:
    """The PNGs of a description of lines and points as `plots` makes it."""
    return Picture(title, png(plot, title), png(_narrowed(plot), "", is_narrow=True))


def png(plot: Plot, title: str, *, is_narrow: bool = False) -> bytes:
    """The content of a PNG file: a description of lines and points as `plots` makes it, on white.

    Args:
        is_narrow: for a phone, with the legend below.
    """
    figure = Figure(figsize=_NARROW if is_narrow else _WIDE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    styled(axes, title)
    axes.margins(0.1)
    plot = coloured(plot)
    for trace in plot["data"]:
        if trace.get("visible", True):
            _draw(axes, trace)
    for shape in plot["layout"].get("shapes", []):
        straight, at = (axes.axhline, shape["y0"]) if "xref" in shape else (axes.axvline, shape["x0"])
        straight(at, label="chance", **_stroke(shape["line"]))
    for name in ("x", "y"):
        _set_axis(axes, name, plot["layout"][f"{name}axis"])
    style: Plot = {"frameon": False, "fontsize": 9, "labelcolor": _INK, "alignment": "left"}
    if is_narrow:
        figure.legend(loc="outside lower left", ncols=2, **style)
    else:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), **style)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _narrowed(plot: Plot) -> Plot:
    """With names of points as far as a narrow picture has room for them; lines have theirs in the legend alone."""
    data = []
    for trace in plot["data"]:
        if trace.get("mode") == "text":
            continue
        names = trace.get("text", [])
        if names:
            places = label_places(list(zip(trace["x"], trace["y"], strict=True)), names, letter_width=_LETTER_OF_NARROW)
            trace = trace | {
                "text": [name if place in places else "" for place, name in enumerate(names)],
                "textposition": [f"middle {places.get(place, 'right')}" for place in range(len(names))],
            }
        data.append(trace)
    return plot | {"data": data}


def styled(axes: Axes, title: str) -> None:
    """The axes in the style of all pictures."""
    axes.set_title(_plain(title), loc="left", fontsize=12, fontweight="bold", color=_INK, pad=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(which="both", colors=_MUTED, labelsize=9)
    axes.grid(color="#eceef1", linewidth=0.8)
    axes.set_axisbelow(True)


def _draw(axes: Axes, trace: Plot) -> None:
    has_line, has_points = "lines" in trace["mode"], "markers" in trace["mode"]
    style = _stroke(trace["line"]) if has_line else {"linestyle": "", "color": trace["marker"]["color"]}
    if has_points:
        marker = trace["marker"]
        size = {"marker": _SYMBOLS.get(marker["symbol"], "o"), "markersize": _POINTS * marker["size"]}
        style |= size | ({"fillstyle": "none"} if "open" in marker["symbol"] else {})
    name = _plain(trace["name"]) if trace.get("showlegend", True) else "_nolegend_"
    if "error_y" in trace:
        reach = [trace["error_y"]["arrayminus"], trace["error_y"]["array"]]
        axes.errorbar(trace["x"], trace["y"], yerr=reach, elinewidth=1, capsize=2, label=name, **style)
    else:
        axes.plot(trace["x"], trace["y"], label=name, alpha=trace.get("opacity"), **style)
    for x, y, text, side in zip(
        *(trace["x"], trace["y"], trace.get("text", []), trace.get("textposition", [])), strict=False
    ):
        is_right = side.endswith("right")
        up = {"top": 9, "bottom": -9}.get(side.split()[0], 0)
        beside: Plot = {"xytext": (7 if is_right else -7, up), "ha": "left" if is_right else "right"}
        if trace["textfont"].get("shadow"):  # lines behind a text leave a margin around it
            beside["path_effects"] = [withStroke(linewidth=2.5, foreground="white")]
        axes.annotate(_plain(text), (x, y), textcoords="offset points", va="center", fontsize=8.5, color=_INK, **beside)


def _set_axis(axes: Axes, name: str, axis: Plot) -> None:
    along = getattr(axes, f"{name}axis")
    along.label.set(text=_plain(axis["title"]["text"]), color=_MUTED, fontsize=10)
    limits = axis.get("range")
    if axis.get("type") == "log":
        axes.set(**{f"{name}scale": "log"})
        along.set_major_formatter("{x:g}")
        limits = None if limits is None else [10**limit for limit in limits]
    if limits is not None:
        getattr(axes, f"set_{name}lim")(*limits)
    if "tickvals" in axis:
        along.set_ticks(axis["tickvals"], axis["ticktext"])
        along.set_ticks([], minor=True)


def _stroke(style: Plot) -> Plot:
    return {"color": style["color"], "linewidth": style["width"], "linestyle": _DASHES[style.get("dash", "solid")]}


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is: no mathematics, and no leading underscore, which hides a label."""
    text = unescape(text).replace("$", r"\$")
    return text.replace("_", " _", 1) if text.startswith("_") else text
