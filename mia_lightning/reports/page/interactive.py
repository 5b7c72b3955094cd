"""The interactive figures of a report, as plain plotly dictionaries (`data`, `layout`).

The page and the wandb logger draw the same figures. Colours are names of roles ("--ink", "--series-1", …), for
the page the names of its CSS variables, so that light and dark differ without a second figure; `coloured` puts
values in their place. Class names are data: whatever plotly would read as markup is escaped here.
"""

from collections.abc import Mapping
from html import escape
from math import log10
from typing import Any

import numpy as np

from mia_lightning.reports.curves import (
    Array,
    AttackCurves,
    PrecisionRecallCurve,
    lowest_precision,
    precision_line,
    roc_line,
)
from mia_lightning.reports.distribution import distribution_line
from mia_lightning.reports.findings import label, most_exposed, strongest
from mia_lightning.reports.labels import label_places, short
from mia_lightning.reports.page.histograms import ScoreHistogram
from mia_lightning.reports.schema import AttackSection, AuditReport, PrivacySection, TrainingCurves
from mia_lightning.reports.training_bands import bands

Plot = dict[str, Any]

NUM_SERIES = 5
LIGHT = {
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
GUESSING = {"color": "--muted", "width": 1, "dash": "dash"}


def precision_recall_plot(attack: AttackSection, curves: AttackCurves) -> Plot:
    """Precision (at one member for each non-member) over recall: overall bold, most exposed classes coloured.

    `meta` of a trace tells a menu what it is: `group` ("overall" or a class index), `kind` ("line", "decision")
    and, for lines of classes, the `color` and `named` (whether the legend has it) of the view of all classes.
    """
    exposed = {group.class_index: place for place, group in enumerate(most_exposed(attack, NUM_SERIES))}
    data: list[Plot] = [_straight([0, 1], [0.5, 0.5])]
    for group in sorted(attack.per_class, key=lambda group: group.class_index in exposed):
        curve = curves.per_class.get(group.class_index)
        if curve is None:
            continue
        place = exposed.get(group.class_index)
        color = "--faint" if place is None else _series(place)
        area = "" if group.auc.value is None else f" ({group.auc.value:.2f})"
        line = _curve(curve, short(group.class_name) + area, {"color": color, "width": 0.8 if place is None else 1.6})
        line["hovertemplate"] = line["hovertemplate"].replace("%{fullData.name}", "%{fullData.meta.name}")
        line["meta"] = {
            "group": group.class_index,
            "kind": "line",
            "name": plain(group.class_name + area),
            "color": color,
            "named": place is not None,
        }
        line["showlegend"] = place is not None
        decision = _decision(group.recall.value, group.precision_balanced.value, group.class_index)
        data += [line, decision | {"visible": False}]
    if curves.overall is not None:
        line = _curve(curves.overall, "all records", {"color": "--ink", "width": 3}, max_points=300)
        line["meta"] = {"group": "overall", "kind": "line"}
        decision = _decision(attack.overall.recall.value, attack.overall.precision_balanced.value, "overall")
        data += [line, decision]
    layout = _layout("recall", "precision at 1:1")
    layout["xaxis"] |= {"range": [0, 1.01]}
    layout["yaxis"] |= {"range": [lowest_precision(curves), 1.02]}
    return {"data": data, "layout": layout}


def with_class_menu(plot: Plot, attack: AttackSection) -> Plot:
    """The precision/recall plot with plotly's own menu of classes, for places without a page around it."""
    traces = plot["data"]
    standard = [trace.get("visible", True) for trace in traces]
    buttons = [{"label": "all classes", "method": "restyle", "args": [{"visible": standard}]}]
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
    data = [_straight([edge, 1], [edge, 1])]
    for place, attack in enumerate(report.attacks):
        if curves[attack.name].true_positive_rate is None:
            continue
        x, y = roc_line(curves[attack.name], edge)
        trace = _line(x, y, label(attack), {"color": _series(place), "width": 2})
        data.append(trace | {"hovertemplate": _hover("TPR %{y:.3g} at FPR up to %{x:.3g}")})
    layout = _layout("false-positive rate (at most)", "true-positive rate")
    axis = {"type": "log", "range": [log10(edge), 0.02], "dtick": 1, "tickformat": "~g"}
    layout["xaxis"] |= axis
    layout["yaxis"] |= axis
    return {"data": data, "layout": layout}


def score_plot(histogram: ScoreHistogram) -> Plot:
    """Shares of the members and of the non-members over the score; the attack's threshold, if it has one, dotted."""
    x = np.repeat(histogram.edge, 2)
    data: list[Plot] = []
    groups = (("members", histogram.members, "solid"), ("non-members", histogram.nonmembers, "dash"))
    for place, (name, shares, dash) in enumerate(groups):
        y = np.concatenate([[0.0], np.repeat(shares, 2), [0.0]])
        line = {"color": _series(place), "width": 1.5, "dash": dash}
        hover = {"hovertemplate": _hover("%{y:.1%} of them, at a score of %{x:.3g}")}
        data.append(_line(x, y, name, line) | {"fill": "tozeroy"} | hover)
    layout = _layout("score, higher for members", "share of the group")
    layout["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    if histogram.threshold is not None and histogram.edge[0] <= histogram.threshold <= histogram.edge[-1]:
        at = float(f"{histogram.threshold:.4g}")
        line = {"color": "--ink", "width": 1.5, "dash": "dot"}
        shape = {"type": "line", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": line}
        layout["shapes"] = [shape]
    return {"data": data, "layout": layout}


def leakage_vs_gap_plot(report: AuditReport) -> Plot:
    """AUC of each class over its generalisation gap, one colour and symbol for each attack."""
    gaps = {group.class_index: group.generalization_gap for group in report.target.per_class}
    data = []
    for place, attack in enumerate(report.attacks):
        groups = [group for group in most_exposed(attack) if gaps[group.class_index] is not None]
        points = [(gaps[group.class_index] or 0.0, group.auc.value or 0.0) for group in groups]
        names = [short(group.class_name, 18) for group in groups]
        sides = label_places(points, names) if attack is strongest(report) else {}
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": plain(label(attack)),
                "x": _digits(np.array([point[0] for point in points])),
                "y": _digits(np.array([point[1] for point in points])),
                "text": [plain(name) if place in sides else "" for place, name in enumerate(names)],
                "textposition": [f"middle {sides.get(place, 'right')}" for place in range(len(names))],
                "textfont": {"color": "--ink", "size": 11},
                "hovertext": [plain(group.class_name) for group in groups],
                "cliponaxis": False,
                "marker": {"color": _series(place), "symbol": SYMBOLS[place % len(SYMBOLS)], "size": 9},
                "opacity": 0.85,
                "hovertemplate": _hover("%{hovertext}<br>gap %{x:.3f}, AUC %{y:.3f}"),
            }
        )
    layout = _layout("generalisation gap of the class", "AUC of the class")
    guessing = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5, "line": GUESSING}
    return {"data": data, "layout": layout | {"shapes": [guessing]}}


def precision_distribution_plot(report: AuditReport) -> Plot:
    """Share of classes with at most so much precision (at one member for each non-member), a line for each attack."""
    data = []
    for place, attack in enumerate(report.attacks):
        defined = [group.precision_balanced.value for group in attack.per_class]
        precisions = [value for value in defined if value is not None]
        if precisions:
            xs, ys = distribution_line(precisions)
            line = _line(np.array(xs), np.array(ys), label(attack), {"color": _series(place), "width": 2})
            data.append(line | {"hovertemplate": _hover("at most %{x:.3f}: %{y:.0%} of the classes")})
    layout = _layout("precision of the class at 1:1", "share of classes at or below")
    guessing = {"type": "line", "yref": "paper", "x0": 0.5, "x1": 0.5, "y0": 0, "y1": 1, "line": GUESSING}
    return {"data": data, "layout": layout | {"shapes": [guessing]}}


def precision_by_records_plot(report: AuditReport) -> Plot:
    """Precision of each class (at one member for each non-member) over its number of training records."""
    data = []
    for place, attack in enumerate(report.attacks):
        groups = [group for group in attack.per_class if group.precision_balanced.value is not None]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plain(label(attack)),
                "x": [group.num_members / attack.num_targets for group in groups],
                "y": _digits(np.array([group.precision_balanced.value or 0.0 for group in groups])),
                "hovertext": [plain(group.class_name) for group in groups],
                "cliponaxis": False,
                "marker": {"color": _series(place), "symbol": SYMBOLS[place % len(SYMBOLS)], "size": 8},
                "opacity": 0.85,
                "hovertemplate": _hover("%{hovertext}<br>%{x:.0f} records, precision %{y:.3f}"),
            }
        )
    layout = _layout("training records of the class", "precision of the class at 1:1")
    guessing = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5, "line": GUESSING}
    return {"data": data, "layout": layout | {"shapes": [guessing]}}


def epsilon_plot(privacy: PrivacySection) -> Plot:
    """The epsilon that each attack rules out, as bars, and the one that was guaranteed, as a dashed line.

    Of trials of one canary also, as a dotted line, the largest that so many could rule out.
    """
    trials = privacy.trials
    bounds = privacy.lower if trials is None else trials.lower
    data: list[Plot] = [
        {
            "type": "bar",
            "name": "ruled out",
            "x": [plain(bound.attack) for bound in bounds],
            "y": _digits(np.array([bound.epsilon_low for bound in bounds])),
            "marker": {"color": _series(0)},
            "hovertemplate": _hover("%{x}<br>epsilon above %{y:.3f}"),
        }
    ]
    lines = []
    if privacy.epsilon is not None:
        lines.append((privacy.epsilon, GUESSING))
    if trials is not None:
        lines.append((trials.largest_epsilon, GUESSING | {"dash": "dot"}))
    shapes = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": epsilon, "y1": epsilon, "line": line}
        for epsilon, line in lines
    ]
    layout = _layout("attack", "epsilon")
    return {"data": data, "layout": layout | {"shapes": shapes} if shapes else layout}


def convergence_plot(report: AuditReport) -> Plot:
    """TPR at 1 % FPR over the number of shadow models, a line for each attack that was fitted on several numbers."""
    data = []
    for place, attack in enumerate(report.attacks):
        points = () if attack.convergence is None else attack.convergence.points
        defined = [(each.num_shadows, each.tpr.value) for each in points if each.tpr.value is not None]
        if defined:
            x, y = zip(*defined, strict=True)
            line = _line(np.array(x), np.array(y), label(attack), {"color": _series(place), "width": 2})
            marker = {"color": _series(place), "symbol": SYMBOLS[place % len(SYMBOLS)], "size": 9}
            hover = {"hovertemplate": _hover("%{x} shadow models: TPR %{y:.3f}")}
            data.append(line | {"mode": "lines+markers", "marker": marker, "cliponaxis": False} | hover)
    layout = _layout("shadow models", "true-positive rate at 1 % false positives")
    layout["xaxis"] |= {"rangemode": "tozero"}
    layout["yaxis"] |= {"rangemode": "tozero"}
    return {"data": data, "layout": layout}


def training_plot(curves: TrainingCurves) -> Plot:
    """Loss over epochs: median over the models of a stack and the band from the 10 % to the 90 % quantile."""
    data: list[Plot] = []
    for place, (key, band) in enumerate(bands(curves).items()):
        name = key.replace("_", " ")
        color = _series(place)
        edge = {"width": 0, "color": color}
        data += [
            _line(band.epoch, band.high, name, edge) | {"showlegend": False, "hoverinfo": "skip"},
            _line(band.epoch, band.low, name, edge)
            | {"showlegend": False, "hoverinfo": "skip", "fill": "tonexty", "opacity": 0.3},
            _line(band.epoch, band.median, name, {"color": color, "width": 2})
            | {"hovertemplate": _hover("epoch %{x}: median loss %{y:.4g}")},
        ]
    return {"data": data, "layout": _layout("epoch", "loss")}


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


def _curve(curve: PrecisionRecallCurve, name: str, line: Plot, max_points: int = 120) -> Plot:
    x, y = precision_line(curve, max_points)
    return _line(x, y, name, line) | {"hovertemplate": _hover("precision %{y:.3f} at recall %{x:.3f}")}


def _line(x: Array, y: Array, name: str, line: Plot) -> Plot:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(name),
        "x": _digits(x),
        "y": _digits(y),
        "line": line,
    }


def _decision(recall: float | None, precision: float | None, group: int | str) -> Plot:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "the attack's decision",
        "x": [recall],
        "y": [precision],
        "marker": {"color": "--ink", "size": 11, "symbol": "circle-open-dot", "line": {"width": 2}},
        "hovertemplate": _hover("decision: precision %{y:.3f}, recall %{x:.3f}"),
        "meta": {"group": group, "kind": "decision"},
    }


def _straight(x: list[float], y: list[float]) -> Plot:
    line = {"type": "scatter", "mode": "lines", "name": "guessing", "x": x, "y": y, "line": GUESSING}
    return line | {"hoverinfo": "skip"}


def _layout(x: str, y: str) -> Plot:
    return {
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
        "hovermode": "closest",
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
        "margin": {"l": 62, "r": 14, "t": 34, "b": 60},
    }


def _hover(text: str) -> str:
    return f"%{{fullData.name}}<br>{text}<extra></extra>"


def _series(place: int) -> str:
    return f"--series-{place % NUM_SERIES + 1}"


def _digits(values: Array) -> list[float]:
    """Four significant digits: what can be seen, at a third of the size."""
    return [float(f"{value:.4g}") for value in np.asarray(values).tolist()]
