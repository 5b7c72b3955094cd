"""The picture of what remedies do: leakage over utility, a curve for each, from doing nothing over its strengths."""

from collections.abc import Sequence
from itertools import compress

from mia_lightning.remedies.schema import RemedyReport
from mia_lightning.reports.labels import framed_places, short
from mia_lightning.reports.pictures import Picture, picture
from mia_lightning.reports.plots import Plot, across, layout, line, plain, points

TITLE = "Leakage and utility, from doing nothing over the strengths of each remedy"
LOST = 0.2  # of utility, beyond which nothing is shown
CHANCE, _NEAR_CHANCE = 0.5, 0.6  # chance is shown where something comes near it
_MARGINS = (0.05, 0.12)  # of what is shown, at the lower and at the upper end
_APART = 0.03  # of the frame, from doing nothing, for a name to be told from its
Point = tuple[float, float]


def remedies_picture(report: RemedyReport) -> Picture:
    """The picture."""
    return picture(remedies_plot(report), TITLE)


def remedies_plot(report: RemedyReport) -> Plot:
    """A line for each remedy that was measured, with its name at its strongest strength in sight, if there is room."""
    start = _point(report.nothing.utility, report.nothing.auc)
    data: list[Plot] = []
    ends: list[tuple[Point, str]] = [(start, "doing nothing")]
    marks = [start]
    for place, remedy in enumerate(each for each in report.remedies if each.best is not None):
        found = [_point(each.utility, each.auc) for each in remedy.strengths if each.skipped is None]
        x, y = zip(start, *found, strict=True)
        trace = line(x, y, remedy.name, place)
        data.append(trace | points(x, y, remedy.name, place) | {"mode": "lines+markers", "line": trace["line"]})
        in_sight = [each for each in found if each[0] >= start[0] - LOST]
        ends += [(each, remedy.name) for each in in_sight[-1:]]
        marks += in_sight
    axes = layout(f"test {report.utility}", "AUC of the strongest attack that knows the remedy")
    heights = [y for _, y in marks]
    is_near = min(heights) < _NEAR_CHANCE
    axes["xaxis"]["range"] = _range([x for x, _ in marks])
    axes["yaxis"]["range"] = _range([*heights, CHANCE] if is_near else heights)
    data += [_names(ends, marks, axes), points([start[0]], [start[1]], "doing nothing", 0) | _DIAMOND]
    return {"data": data, "layout": axes | {"shapes": [across("x", CHANCE)] if is_near else []}}


_DIAMOND: Plot = {"marker": {"color": "--ink", "symbol": "diamond", "size": 13}}


def _names(ends: Sequence[tuple[Point, str]], marks: Sequence[Point], axes: Plot) -> Plot:
    """Names without points of their own, beside those that are drawn."""

    def framed(points: Sequence[Point]) -> list[Point]:
        (left, right), (low, high) = axes["xaxis"]["range"], axes["yaxis"]["range"]
        return [((x - left) / (right - left), (y - low) / (high - low)) for x, y in points]

    starts, *others = framed([point for point, _ in ends])
    is_apart = [max(abs(x - starts[0]), abs(y - starts[1])) > _APART for x, y in others]
    ends = [ends[0], *compress(ends[1:], is_apart)]
    texts = [short(name, 22) for _, name in ends]
    places = framed_places(framed([point for point, _ in ends]), texts, framed(marks))
    chosen = list(places)
    x, y = ([ends[index][0][axis] for index in chosen] for axis in (0, 1))
    return points(x, y, "names", 0) | {
        "mode": "text",
        "showlegend": False,
        "text": [plain(texts[index]) for index in chosen],
        "textposition": [places[index] for index in chosen],
        "textfont": {"color": "--ink", "size": 11, "shadow": "auto"},
    }


def _range(values: Sequence[float]) -> list[float]:
    """What is shown of an axis."""
    reach = max(values) - min(values) or 0.01
    return [min(values) - _MARGINS[0] * reach, max(values) + _MARGINS[1] * reach]


def _point(utility: float | None, auc: object) -> Point:
    value = getattr(auc, "value", None)
    assert utility is not None
    assert value is not None
    return utility, value
