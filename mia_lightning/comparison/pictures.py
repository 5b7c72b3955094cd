"""The pictures of a comparison, as PNG: described as `reports.plots` describes those of a report."""

from collections.abc import Sequence

from mia_lightning.comparison.matrix import defense_matrix
from mia_lightning.comparison.schema import ComparisonReport, Estimate, Variant
from mia_lightning.reports.labels import short
from mia_lightning.reports.pictures import Picture, picture
from mia_lightning.reports.plots import BALANCED, Plot, across, distribution, labelled, layout, line, points

# A variant, or a defence, as a point of a picture: where it stands, what it leaks, and its name.
Point = tuple[float, Estimate, str]


def comparison_pictures(report: ComparisonReport) -> dict[str, Picture]:
    """By file name, each picture that the variants have numbers for."""
    ran = [variant for variant in report.variants if variant.skipped is None and variant.attacks]
    if not ran:
        return {}
    first, part = ran[0].attacks[0].label, report.stratum
    drawn = {
        "precision_by_class.png": (
            f"Precision of {first}, {part} by {part}",
            _distribution(ran, report.strata_name),
        ),
        "leakage_vs_gap.png": ("Leakage and overfitting", _leakage_vs_gap(ran, report.utility)),
        "figure_over_x.png": (f"Precision and recall of {first}", _over_x(ran)),
        "pareto.png": ("Leakage to the strongest attacker who knows the defence, and utility", _pareto(report)),
    }
    return {name: picture(plot, title) for name, (title, plot) in drawn.items() if plot is not None}


def _distribution(variants: Sequence[Variant], strata: str) -> Plot | None:
    """Share of classes, or of other parts, with at most so much precision, a line for each variant."""
    data = []
    for place, variant in enumerate(variants):
        defined = [value for value in variant.attacks[0].per_class_precision if value is not None]
        if defined:
            data.append(distribution(defined, short(variant.name), place, strata))
    axes = layout(BALANCED, f"share of {strata} at or below")
    axes["xaxis"]["range"] = axes["yaxis"]["range"] = [0, 1.02]
    return _plot(data, axes, "y")


def _leakage_vs_gap(variants: Sequence[Variant], utility: str) -> Plot | None:
    """AUC over the generalisation gap, a point for each variant and attack."""
    if len({variant.generalization_gap for variant in variants}) < 2:
        return None
    names = dict.fromkeys(attack.name for variant in variants for attack in variant.attacks)
    data: list[Plot] = []
    for place, name in enumerate(names):
        found = [
            (variant.generalization_gap, attack.auc, variant.name)
            for variant in variants
            for attack in variant.attacks
            if attack.name == name and attack.auc.value is not None and variant.generalization_gap is not None
        ]
        data += _points(found, name, place, is_labelled=place == 0)
    return _plot(data, layout(f"generalisation gap (train − test {utility})", "AUC of the attack"))


def _pareto(report: ComparisonReport) -> Plot | None:
    """Every defence by its utility and by the AUC of its strongest attacker; the efficient ones are joined."""
    matrix = defense_matrix(report)
    if matrix is None:
        return None
    found, front = [], []
    for row in sorted(matrix.rows, key=lambda row: not row.is_efficient):  # these are labelled first
        defined = [each.auc for each in row.attacks if each is not None and each.auc.value is not None]
        if defined and row.variant.test_accuracy is not None:
            found.append((row.variant.test_accuracy, max(defined, key=_value), row.variant.name))
            front += [found[-1]] if row.is_efficient else []
    data = _points(found, "defence", 0, is_labelled=True)
    if front:
        front.sort(key=lambda point: (point[0], _value(point[1])))
        joined = line([x for x, _, _ in front], [_value(each) for _, each, _ in front], "Pareto front", 1)
        data.append(
            joined | {"mode": "lines+markers", "marker": {**joined["line"], "size": 16, "symbol": "circle-open"}}
        )
    return _plot(data, layout(f"test {report.utility} of the target", "AUC of the strongest attack"))


def _over_x(variants: Sequence[Variant]) -> Plot | None:
    """Precision and recall along the axis of the comparison."""
    placed = sorted((each for each in variants if each.x is not None), key=lambda each: each.x or 0.0)
    if len(placed) < 2:
        return None
    data: list[Plot] = []
    for place, name in enumerate(("precision", "recall")):
        found = [(each.x or 0.0, getattr(each.attacks[0], name), each.name) for each in placed]
        for trace in _points([point for point in found if point[1].value is not None], name, place):
            joined = line(trace["x"], trace["y"], name, place)
            data.append(trace | {"mode": "lines+markers", "line": joined["line"]})
    axes = layout(_axis_name(placed), "precision, recall")
    xs = [each.x for each in placed if each.x is not None]
    axes["xaxis"] |= {"tickvals": xs, "ticktext": [f"{x:g}" for x in xs]}
    if min(xs) > 0 and max(xs) / min(xs) > 20:
        axes["xaxis"] |= {"type": "log"}
    axes["yaxis"] |= {"range": [0, 1.03]}
    return _plot(data, axes)


def _plot(data: list[Plot], axes: Plot, along: str = "x") -> Plot | None:
    """The picture, with the line of chance; None without anything to draw."""
    return {"data": data, "layout": axes | {"shapes": [across(along, 0.5)]}} if data else None


def _points(found: Sequence[Point], name: str, place: int, *, is_labelled: bool = False) -> list[Plot]:
    """The points with their intervals, and with names as far as there is room; nothing of none."""
    if not found:
        return []
    xs, estimates = [x for x, _, _ in found], [estimate for _, estimate, _ in found]
    values = [_value(estimate) for estimate in estimates]
    trace = points(xs, values, name, place)
    trace["error_y"] = {
        "array": [max(0.0, (_value(e) if e.high is None else e.high) - _value(e)) for e in estimates],
        "arrayminus": [max(0.0, _value(e) - (_value(e) if e.low is None else e.low)) for e in estimates],
    }
    return [trace | labelled(xs, values, [short(text, 22) for _, _, text in found]) if is_labelled else trace]


def _axis_name(variants: Sequence[Variant]) -> str:
    """What the numbers on the axis count: the words that all names of variants have beside their number."""
    words = [{word for word in each.name.split() if not word.strip("%.").isdigit()} for each in variants]
    common = set.intersection(*words)
    return " ".join(word for word in variants[0].name.split() if word in common) or "setting"


def _value(estimate: Estimate) -> float:
    assert estimate.value is not None
    return estimate.value
