"""The PNG figures of a report.

Drawn through matplotlib's object interface: no figure, backend or style is set for the process.
"""

import io
import re
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mia_lightning.reports.curves import AttackCurves, lowest_precision, precision_line, roc_line
from mia_lightning.reports.distribution import distribution_line
from mia_lightning.reports.findings import label, most_exposed, strongest
from mia_lightning.reports.labels import label_places
from mia_lightning.reports.labels import short as short
from mia_lightning.reports.schema import AttackSection, AuditReport

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # Okabe and Ito (2008): colour-blind safe
INK, MUTED, GREY = "#1f2328", "#57606a", "#c5cad1"
NUM_NAMED = len(COLOURS)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def png_figures(report: AuditReport, curves: Mapping[str, AttackCurves]) -> dict[str, bytes]:
    """PNG files by name: `precision_recall_<attack>.png` for each attack, and four figures of all attacks.

    `curves` has an entry for each attack's name. A figure without any curve says so instead.
    """
    pictures = {
        f"precision_recall_{file_name(attack.name)}.png": _precision_recall(attack, curves[attack.name])
        for attack in report.attacks
    }
    pictures["roc.png"] = _roc(report, curves)
    pictures["leakage_vs_gap.png"] = _leakage_vs_gap(report)
    pictures["precision_by_class.png"] = _precision_distribution(report)
    pictures["precision_by_records.png"] = _precision_by_records(report)
    return {name: png(figure) for name, figure in pictures.items()}


def file_name(text: str) -> str:
    """`text` with whatever could be part of a path or trouble a shell replaced by underscores."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text)


def _precision_recall(attack: AttackSection, curves: AttackCurves) -> Figure:
    figure, axes = new_figure(f"Precision and recall of {label(attack)}", (8.4, 5.2))
    named = {group.class_index: group for group in most_exposed(attack, NUM_NAMED)}
    for class_index, curve in curves.per_class.items():
        if class_index not in named:
            axes.plot(*precision_line(curve), color=GREY, linewidth=0.7, zorder=1)
    for colour, (class_index, group) in zip(COLOURS, named.items(), strict=False):
        text = f"{short(group.class_name)} (AUC {group.auc.value:.2f})"
        axes.plot(*precision_line(curves.per_class[class_index]), color=colour, linewidth=1.5, label=plain(text))
    if len(curves.per_class) > len(named):
        axes.plot([], [], color=GREY, linewidth=1.2, label="other classes")
    if curves.overall is None:
        return _without_curve(axes)
    axes.plot(*precision_line(curves.overall), color=INK, linewidth=2.8, label="all records", zorder=4)
    point = attack.overall
    if point.recall.value is not None and point.precision_balanced.value is not None:
        place = (point.recall.value, point.precision_balanced.value)
        axes.plot(*place, "o", color=INK, markeredgecolor="white", markersize=9, zorder=5, label="decision")
    axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="guessing")
    axes.set(
        xlim=(0, 1),
        ylim=(lowest_precision(curves), 1.02),
        xlabel="recall",
        ylabel="precision at one member per non-member",
    )
    add_legend(axes, "most exposed classes")
    return figure


def _roc(report: AuditReport, curves: Mapping[str, AttackCurves]) -> Figure:
    figure, axes = new_figure("ROC on logarithmic axes", (7.4, 5.2))
    drawn = [attack for attack in report.attacks if curves[attack.name].true_positive_rate is not None]
    if not drawn:
        return _without_curve(axes)
    edge = roc_edge(curves)
    for order, attack in enumerate(drawn):
        text = f"{label(attack)} (AUC {attack.overall.auc.value:.3f})"
        axes.plot(
            *roc_line(curves[attack.name], edge),
            color=COLOURS[order % len(COLOURS)],
            linestyle=("-", "--", ":")[order // len(COLOURS) % 3],
            linewidth=2,
            label=plain(text),
        )
    axes.plot([edge, 1], [edge, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="guessing")
    axes.set(xscale="log", yscale="log", xlim=(edge, 1), ylim=(edge, 1.05))
    axes.set(xlabel="false-positive rate (at most)", ylabel="true-positive rate")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    add_legend(axes)
    return figure


def roc_edge(curves: Mapping[str, AttackCurves]) -> float:
    """Where logarithmic axes begin: half the rate of a single false positive."""
    return 0.5 / max(curve.num_nonmembers for curve in curves.values() if curve.num_nonmembers)


def _leakage_vs_gap(report: AuditReport) -> Figure:
    figure, axes = new_figure("Leakage and overfitting, class by class", (7.4, 5.2))
    gaps = {group.class_index: group.generalization_gap for group in report.target.per_class}
    first = strongest(report)
    for order, attack in enumerate(report.attacks):
        points = [
            (gap, group.auc.value, group.class_name)
            for group in most_exposed(attack)
            if (gap := gaps[group.class_index]) is not None and group.auc.value is not None
        ]
        if not points:
            continue
        axes.scatter(
            [point[0] for point in points],
            [point[1] for point in points],
            s=34,
            marker=MARKERS[order % len(MARKERS)],
            color=COLOURS[order % len(COLOURS)],
            alpha=0.8,
            linewidths=0,
            label=plain(label(attack)),
        )
        if attack is first:
            names = [short(point[2], 18) for point in points]
            for index, side in label_places([point[:2] for point in points], names).items():
                axes.annotate(
                    plain(names[index]),
                    points[index][:2],
                    xytext=(7 if side == "right" else -7, 0),
                    textcoords="offset points",
                    ha="left" if side == "right" else "right",
                    va="center",
                    fontsize=8.5,
                    color=INK,
                )
    if not axes.collections:
        return _without_curve(axes)
    axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="guessing")
    axes.margins(x=0.1)
    axes.set(xlabel="generalisation gap of the class (train − test accuracy)", ylabel="AUC of the class")
    add_legend(axes)
    return figure


def _precision_distribution(report: AuditReport) -> Figure:
    figure, axes = new_figure("Precision, class by class: cumulative distribution", (7.4, 5.2))
    for order, attack in enumerate(report.attacks):
        values = [group.precision_balanced.value for group in attack.per_class]
        defined = [value for value in values if value is not None]
        if defined:
            left_out = f" ({len(values) - len(defined)} classes without)" if len(defined) < len(values) else ""
            axes.plot(
                *distribution_line(defined),
                color=COLOURS[order % len(COLOURS)],
                linestyle=("-", "--", ":")[order // len(COLOURS) % 3],
                linewidth=2,
                label=plain(f"{label(attack)}{left_out}"),
            )
    if not axes.lines:
        return _without_curve(axes)
    axes.axvline(0.5, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="guessing")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set(xlabel="precision of the class at one member per non-member", ylabel="share of classes at or below")
    add_legend(axes)
    return figure


def _precision_by_records(report: AuditReport) -> Figure:
    figure, axes = new_figure("Precision and training records of the class", (7.4, 5.2))
    for order, attack in enumerate(report.attacks):
        points = [
            (group.num_members / attack.num_targets, group.precision_balanced.value)
            for group in attack.per_class
            if group.precision_balanced.value is not None
        ]
        if points:
            axes.scatter(
                [point[0] for point in points],
                [point[1] for point in points],
                s=34,
                marker=MARKERS[order % len(MARKERS)],
                color=COLOURS[order % len(COLOURS)],
                alpha=0.8,
                linewidths=0,
                label=plain(label(attack)),
            )
    if not axes.collections:
        return _without_curve(axes)
    axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="guessing")
    axes.set(xlabel="training records of the class", ylabel="precision of the class at one member per non-member")
    add_legend(axes)
    return figure


def new_figure(title: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """An empty figure (width and height in inches) in the style of all reports."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(plain(title), loc="left", fontsize=12, fontweight="bold", color=INK, pad=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(which="both", colors=MUTED, labelsize=9)
    axes.xaxis.label.set(color=MUTED, fontsize=10)
    axes.yaxis.label.set(color=MUTED, fontsize=10)
    axes.grid(color="#eceef1", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def add_legend(axes: Axes, title: str | None = None) -> None:
    """The legend, to the right of the axes."""
    options: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK, "alignment": "left"}
    axes.legend(title=title, title_fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0), **options)


def _without_curve(axes: Axes) -> Figure:
    axes.text(0.5, 0.5, "nothing to draw: members or non-members are absent", ha="center", color=MUTED)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure


def png(figure: Figure) -> bytes:
    """The content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: no mathematics, and no leading underscore, which hides a label."""
    return text.replace("$", r"\$").replace("_", " _", 1) if text.startswith("_") else text.replace("$", r"\$")
