"""The picture of what remedies do: leakage over utility, a curve for each, from doing nothing over its strengths."""

from mia_lightning.remedies.schema import RemedyReport
from mia_lightning.reports.labels import short
from mia_lightning.reports.pictures import png
from mia_lightning.reports.plots import Plot, across, labelled, layout, line, points

TITLE = "Leakage and utility, from doing nothing over the strengths of each remedy"
LOST = 0.2  # of utility, beyond which nothing is shown
_MARGIN = 0.04  # of the width


def remedies_png(report: RemedyReport) -> bytes:
    """The PNG."""
    return png(remedies_plot(report), TITLE)


def remedies_plot(report: RemedyReport) -> Plot:
    """A line for each remedy that was measured; its name stands at its strongest strength in sight."""
    start = _point(report.nothing.utility, report.nothing.auc)
    data: list[Plot] = []
    ends: list[tuple[float, float, str]] = [(*start, "doing nothing")]
    for place, remedy in enumerate(each for each in report.remedies if each.best is not None):
        found = [_point(each.utility, each.auc) for each in remedy.strengths if each.skipped is None]
        x, y = zip(start, *found, strict=True)
        trace = line(x, y, remedy.name, place)
        data.append(trace | points(x, y, remedy.name, place) | {"mode": "lines+markers", "line": trace["line"]})
        in_sight = [each for each in found if each[0] >= start[0] - LOST]
        ends += [(*each, remedy.name) for each in in_sight[-1:]]
    xs, ys = [x for x, _, _ in ends], [y for _, y, _ in ends]
    names = labelled(xs, ys, [short(name, 22) for _, _, name in ends])
    data.append(
        points(xs, ys, "names", 0)
        | names
        | {"showlegend": False, "marker": {"color": "--ink", "symbol": "circle", "size": 1}}
    )
    data.append(
        points(xs[:1], ys[:1], "doing nothing", 0) | {"marker": {"color": "--ink", "symbol": "diamond", "size": 13}}
    )
    axes = layout(f"test {report.utility}", "AUC of the strongest attack that knows the remedy")
    margin = _MARGIN * (max(xs) - min(xs) or 1.0)
    axes["xaxis"]["range"] = [min(xs) - margin, max(xs) + margin]
    return {"data": data, "layout": axes | {"shapes": [across("x", 0.5)]}}


def _point(utility: float | None, auc: object) -> tuple[float, float]:
    value = getattr(auc, "value", None)
    assert utility is not None
    assert value is not None
    return utility, value
