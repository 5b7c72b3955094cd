"""The figures of a report, each described once, as a plain plotly dictionary (`data`, `layout`).

The page and wandb draw them by plotly, `pictures` draws a few as PNG. Colours are names of roles ("--ink", "--muted",
"--series-1", …), for the page the names of its CSS variables, so that light and dark differ without a second figure;
`coloured` puts values in their place. Class names are data: whatever plotly would read as markup is escaped here.
"""

from collections.abc import Mapping, Sequence
from html import escape
from math import log10
from typing import Any

import numpy as np

from mia_lightning.reports.curves import (
    Array,
    AttackCurves,
    PrecisionRecallCurve,
    bands,
    distribution_line,
    lowest_precision,
    precision_line,
    roc_line,
)
from mia_lightning.reports.histograms import ScoreHistogram
from mia_lightning.reports.labels import label_places, short
from mia_lightning.reports.privacy_section import PrivacySection
from mia_lightning.reports.schema import AttackSection, AuditReport, ClassFigures
from mia_lightning.reports.scores import TrainingCurves
from mia_lightning.reports.selection import most_exposed, strongest
from mia_lightning.reports.words import label

Plot = dict[str, Any]

NUM_SERIES = 5
LIGHT = {  # the series by Okabe and Ito (2008): colour-blind safe
    "--ink": "#1f2328",
    "--muted": "#57606a",
    "--faint": "#c5cad1",
    "--series-1": "#0072b2",
    "--series-2": "#d55e00",
    "--series-3": "#009e73",
    "--series-4": "#cc79a7",
    "--series-5": "#e69f00",
}
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
_DASHES = ("solid", "dash", "dot", "dashdot")
_CHANCE = {"color": "--muted", "width": 1, "dash": "dash"}
BALANCED = "precision at 1:1 (balanced)"


def precision_recall_plot(attack: AttackSection, curves: AttackCurves) -> Plot:
    """Precision at 1:1 over recall: overall bold, most exposed classes coloured.

    `meta` of a trace tells a menu what it is: `group` ("overall" or a class index), `kind` ("line", "decision")
    and, for lines of classes, the `color` and `named` (whether the legend has it) of the view of all classes.
    """
    exposed = {group.class_index: place for place, group in enumerate(most_exposed(attack, NUM_SERIES))}
    data: list[Plot] = [_diagonal([0, 1], [0.5, 0.5])]
    for group in sorted(attack.per_class, key=lambda group: group.class_index in exposed):
        curve = curves.per_class.get(group.class_index)
        if curve is None:
            continue
        place = exposed.get(group.class_index)
        color = "--faint" if place is None else _series(place)
        area = "" if group.auc.value is None else f" (AUC {group.auc.value:.2f})"
        trace = _curve(curve, short(group.class_name) + area, {"color": color, "width": 0.8 if place is None else 1.6})
        trace["hovertemplate"] = trace["hovertemplate"].replace("%{fullData.name}", "%{fullData.meta.name}")
        trace["meta"] = {
            "group": group.class_index,
            "kind": "line",
            "name": plain(group.class_name + area),
            "color": color,
            "named": place is not None,
        }
        trace["showlegend"] = place is not None
        decision = _decision(group.recall.value, group.precision_balanced.value, group.class_index)
        data += [trace, decision | {"visible": False}]
    if curves.overall is not None:
        trace = _curve(curves.overall, "all records", {"color": "--ink", "width": 3}, max_points=300)
        trace["meta"] = {"group": "overall", "kind": "line"}
        decision = _decision(attack.overall.recall.value, attack.overall.precision_balanced.value, "overall")
        data += [trace, decision]
    axes = layout("recall", BALANCED)
    axes["xaxis"] |= {"range": [0, 1.01]}
    axes["yaxis"] |= {"range": [lowest_precision(curves), 1.02]}
    return {"data": data, "layout": axes}


def with_class_menu(plot: Plot, attack: AttackSection, strata: str = "classes") -> Plot:
    """The precision/recall plot with plotly's own menu of classes, for places without a page around it.

    Args:
        strata: what they are called.
    """
    traces = plot["data"]
    standard = [trace.get("visible", True) for trace in traces]
    buttons = [{"label": f"all {strata}", "method": "restyle", "args": [{"visible": standard}]}]
    for group in attack.per_class:
        shown = [
            "meta" not in trace
            or trace["meta"]["group"] == group.class_index
            or (trace["meta"]["group"], trace["meta"]["kind"]) == ("overall", "line")
            for trace in traces
        ]
        name = plain(group.class_name)
        buttons.append({"label": name, "method": "restyle", "args": [{"visible": shown}]})
    menu = {"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"}
    return {"data": traces, "layout": plot["layout"] | {"updatemenus": [menu]}}


def roc_plot(report: AuditReport, curves: Mapping[str, AttackCurves], edge: float) -> Plot:
    """True-positive over false-positive rate of every attack, on logarithmic axes that begin at `edge`."""
    data = [_diagonal([edge, 1], [edge, 1])]
    for place, attack in enumerate(report.attacks):
        if curves[attack.name].true_positive_rate is None:
            continue
        x, y = roc_line(curves[attack.name], edge)
        data.append(line(x, y, label(attack), place, "TPR %{y:.3g} at FPR up to %{x:.3g}"))
    axes = layout("false-positive rate (at most)", "true-positive rate")
    axis = {"type": "log", "range": [log10(edge), 0.02], "dtick": 1, "tickformat": "~g"}
    axes["xaxis"] |= axis
    axes["yaxis"] |= axis
    return {"data": data, "layout": axes}


def score_plot(histogram: ScoreHistogram) -> Plot:
    """Shares of the members and of the non-members over the score; the attack's threshold, if it has one, dotted."""
    x = np.repeat(histogram.edge, 2)
    data: list[Plot] = []
    groups = (("members", histogram.members, "solid"), ("non-members", histogram.nonmembers, "dash"))
    for place, (name, shares, dash) in enumerate(groups):
        y = np.concatenate([[0.0], np.repeat(shares, 2), [0.0]])
        trace = line(x, y, name, place, "%{y:.1%} of them, at a score of %{x:.3g}")
        data.append(trace | {"line": {"color": _series(place), "width": 1.5, "dash": dash}, "fill": "tozeroy"})
    axes = layout("score, higher for members", "share of the group")
    axes["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    if histogram.threshold is not None and histogram.edge[0] <= histogram.threshold <= histogram.edge[-1]:
        style = {"color": "--ink", "width": 1.5, "dash": "dot"}
        axes["shapes"] = [across("y", float(f"{histogram.threshold:.4g}"), style)]
    return {"data": data, "layout": axes}


def leakage_vs_gap_plot(report: AuditReport) -> Plot:
    """AUC of each class over its generalisation gap, one colour and symbol for each attack."""
    gaps = {group.class_index: group.generalization_gap for group in report.target.per_class}
    data = []
    for place, attack in enumerate(report.attacks):
        groups = [group for group in most_exposed(attack) if gaps[group.class_index] is not None]
        x, y = [gaps[group.class_index] or 0.0 for group in groups], [group.auc.value or 0.0 for group in groups]
        trace = _of_classes(x, y, groups, attack, place, "gap %{x:.3f}, AUC %{y:.3f}")
        if attack is strongest(report):
            trace |= labelled(x, y, [short(group.class_name, 18) for group in groups])
        data.append(trace)
    axes = layout(f"generalisation gap of the {report.task.stratum}", f"AUC of the {report.task.stratum}")
    return {"data": data, "layout": axes | {"shapes": [across("x", 0.5)]}}


def precision_distribution_plot(report: AuditReport) -> Plot:
    """Share of classes with at most so much precision at 1:1, a line for each attack."""
    data = []
    for place, attack in enumerate(report.attacks):
        precisions = _precisions(attack)
        if precisions:
            data.append(distribution([value for _, value in precisions], label(attack), place, report.task.strata_name))
    axes = layout(BALANCED, f"share of {report.task.strata_name} at or below")
    return {"data": data, "layout": axes | {"shapes": [across("y", 0.5)]}}


def precision_by_records_plot(report: AuditReport) -> Plot:
    """Precision of each class at 1:1 over its number of training records."""
    data = []
    for place, attack in enumerate(report.attacks):
        precisions = _precisions(attack)
        groups, y = [group for group, _ in precisions], [value for _, value in precisions]
        x = [group.num_members / attack.num_targets for group in groups]
        data.append(_of_classes(x, y, groups, attack, place, "%{x:.0f} records, precision %{y:.3f}"))
    axes = layout(f"training records of the {report.task.stratum}", BALANCED)
    return {"data": data, "layout": axes | {"shapes": [across("x", 0.5)]}}


def epsilon_plot(privacy: PrivacySection) -> Plot:
    """The epsilon that each attack rules out, as bars, and the one that was guaranteed, as a dashed line.

    Of trials of one canary also, as a dotted line, the largest that so many could rule out.
    """
    trials = privacy.trials
    bounds = privacy.lower if trials is None else trials.lower
    bars: Plot = {
        "type": "bar",
        "name": "ruled out",
        "x": [plain(bound.attack) for bound in bounds],
        "y": _digits([bound.epsilon_low for bound in bounds]),
        "marker": {"color": _series(0)},
        "hovertemplate": _hover("%{x}<br>epsilon above %{y:.3f}"),
    }
    shapes = [] if privacy.epsilon is None else [across("x", privacy.epsilon)]
    if trials is not None:
        shapes.append(across("x", trials.largest_epsilon, _CHANCE | {"dash": "dot"}))
    axes = layout("attack", "epsilon")
    return {"data": [bars], "layout": axes | {"shapes": shapes} if shapes else axes}


def convergence_plot(report: AuditReport) -> Plot:
    """TPR at 1 % FPR over the number of shadow models, a line for each attack that was fitted on several numbers."""
    data = []
    for place, attack in enumerate(report.attacks):
        tried = () if attack.convergence is None else attack.convergence.points
        defined = [(each.num_shadows, each.tpr.value) for each in tried if each.tpr.value is not None]
        if defined:
            x, y = zip(*defined, strict=True)
            trace = line(x, y, label(attack), place, "%{x} shadow models: TPR %{y:.3f}")
            data.append(trace | {"mode": "lines+markers", "marker": _marker(place), "cliponaxis": False})
    axes = layout("shadow models", "true-positive rate at 1 % false positives")
    axes["xaxis"] |= {"rangemode": "tozero"}
    axes["yaxis"] |= {"rangemode": "tozero"}
    return {"data": data, "layout": axes}


def training_plot(curves: TrainingCurves) -> Plot:
    """Loss over epochs: median over the models of a stack and the band from the 10 % to the 90 % quantile."""
    data: list[Plot] = []
    for place, (key, band) in enumerate(bands(curves).items()):
        name = key.replace("_", " ")
        edge = {"line": {"width": 0, "color": _series(place)}, "showlegend": False, "hoverinfo": "skip"}
        data += [
            line(band.epoch, band.high, name, place) | edge,
            line(band.epoch, band.low, name, place) | edge | {"fill": "tonexty", "opacity": 0.3},
            line(band.epoch, band.median, name, place, "epoch %{x}: median loss %{y:.4g}"),
        ]
    return {"data": data, "layout": layout("epoch", "loss")}


def coloured(plot: Any, colours: Mapping[str, str] = LIGHT) -> Any:
    """`plot` with the colours in place of their roles."""
    if isinstance(plot, dict):
        return {
            key: colours.get(value, value)
            if key.endswith("color") and isinstance(value, str)
            else coloured(value, colours)
            for key, value in plot.items()
        }
    return [coloured(value, colours) for value in plot] if isinstance(plot, list) else plot


def plain(text: str) -> str:
    """Text that plotly shows as it is: plotly reads HTML entities, and a few tags unless they are escaped."""
    return escape(" ".join(text.split()), quote=False)


def line(x: Sequence[float] | Array, y: Sequence[float] | Array, name: str, place: int, hover: str = "") -> Plot:
    """A line in the colour and dash of the series at `place`."""
    style = {"color": _series(place), "width": 2}
    if place >= NUM_SERIES:
        style["dash"] = _DASHES[place // NUM_SERIES % len(_DASHES)]
    trace = {"type": "scatter", "mode": "lines", "name": plain(name), "x": _digits(x), "y": _digits(y), "line": style}
    return trace | {"hovertemplate": _hover(hover)} if hover else trace


def points(x: Sequence[float], y: Sequence[float], name: str, place: int) -> Plot:
    """Points in the colour and symbol of the series at `place`."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(name),
        "x": _digits(x),
        "y": _digits(y),
        "cliponaxis": False,
        "marker": _marker(place),
        "opacity": 0.85,
    }


def labelled(x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> Plot:
    """What a trace of points has beside: the names of those that have room for them, the first ones first."""
    sides = label_places(list(zip(x, y, strict=True)), names)
    return {
        "mode": "markers+text",
        "text": [plain(name) if place in sides else "" for place, name in enumerate(names)],
        "textposition": [f"middle {sides.get(place, 'right')}" for place in range(len(names))],
        "textfont": {"color": "--ink", "size": 11},
    }


def distribution(values: Sequence[float], name: str, place: int, strata: str = "classes") -> Plot:
    """The cumulative distribution of values over classes."""
    return line(*distribution_line(values), name, place, f"at most %{{x:.3f}}: %{{y:.0%}} of the {strata}")


def across(axis: str, at: float, style: Plot = _CHANCE) -> Plot:
    """A straight line along the axis "x" or "y" through the whole figure: what chance gives, unless styled."""
    along, fixed = ("x", "y") if axis == "x" else ("y", "x")
    ends = {f"{along}ref": "paper", f"{along}0": 0, f"{along}1": 1, f"{fixed}0": at, f"{fixed}1": at}
    return {"type": "line", **ends, "line": style}


def layout(x: str, y: str) -> Plot:
    """Axes with these titles, and the legend below them."""
    return {
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
        "hovermode": "closest",
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
        "margin": {"l": 62, "r": 14, "t": 34, "b": 60},
    }


def _of_classes(
    x: Sequence[float],
    y: Sequence[float],
    groups: Sequence[ClassFigures],
    attack: AttackSection,
    place: int,
    hover: str,
) -> Plot:
    named = {"hovertext": [plain(group.class_name) for group in groups]}
    return points(x, y, label(attack), place) | named | {"hovertemplate": _hover(f"%{{hovertext}}<br>{hover}")}


def _precisions(attack: AttackSection) -> list[tuple[ClassFigures, float]]:
    """The classes that have a precision at 1:1, and it."""
    every = ((group, group.precision_balanced.value) for group in attack.per_class)
    return [(group, value) for group, value in every if value is not None]


def _curve(curve: PrecisionRecallCurve, name: str, style: Plot, max_points: int = 120) -> Plot:
    x, y = precision_line(curve, max_points)
    return line(x, y, name, 0, "precision %{y:.3f} at recall %{x:.3f}") | {"line": style}


def _decision(recall: float | None, precision: float | None, group: int | str) -> Plot:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "the attack's threshold",
        "x": [recall],
        "y": [precision],
        "marker": {"color": "--ink", "size": 11, "symbol": "circle-open-dot", "line": {"width": 2}},
        "hovertemplate": _hover("threshold: precision %{y:.3f}, recall %{x:.3f}"),
        "meta": {"group": group, "kind": "decision"},
    }


def _diagonal(x: list[float], y: list[float]) -> Plot:
    trace = {"type": "scatter", "mode": "lines", "name": "chance", "x": x, "y": y, "line": _CHANCE}
    return trace | {"hoverinfo": "skip"}


def _hover(text: str) -> str:
    return f"%{{fullData.name}}<br>{text}<extra></extra>"


def _series(place: int) -> str:
    return f"--series-{place % NUM_SERIES + 1}"


def _marker(place: int) -> Plot:
    return {"color": _series(place), "symbol": SYMBOLS[place % len(SYMBOLS)], "size": 9}


def _digits(values: Sequence[float] | Array) -> list[float]:
    """Four significant digits: what can be seen, at a third of the size."""
    return [float(f"{value:.4g}") for value in np.asarray(values).tolist()]
