"""Which points of a scatter can be labelled without one label lying on another."""

from collections.abc import Sequence

LETTER_WIDTH, LETTER_HEIGHT = 0.013, 0.045  # of the plot's extent, at the sizes drawn here
NUM_LABELS = 12
RIGHT_END = 1.1  # beyond which a label would leave the plot
_MARK = (0.010, 0.014)  # half of the size of a point
_GAP, _SHIFT, _HALF_HEIGHT = 0.016, 0.030, 0.016
_PLACES = ("middle right", "middle left", "top right", "bottom right", "top left", "bottom left")
_Box = tuple[float, float, float, float]


def label_places(
    points: Sequence[tuple[float, float]], names: Sequence[str], *, letter_width: float = LETTER_WIDTH
) -> dict[int, str]:
    """For the points that get a label, on which side it stands: "right" or "left".

    Points come in order of importance; at most twelve are labelled, each where it hides no earlier label, to the right
    if there is room before the plot's edge.

    Args:
        letter_width: a share of the plot's width.
    """
    taken: list[tuple[float, float, float]] = []
    places: dict[int, str] = {}
    across, up = _unit([point[0] for point in points]), _unit([point[1] for point in points])
    for index, (x, y, name) in enumerate(zip(across, up, names, strict=True)):
        width = letter_width * len(name) + 0.03
        sides = [("right", x), ("left", x - width)]
        for side, left in sides if x + width <= RIGHT_END else reversed(sides):
            free = all(
                abs(y - other_y) > LETTER_HEIGHT or left >= other_right or left + width <= other_left
                for other_left, other_right, other_y in taken
            )
            if free and len(places) < NUM_LABELS:
                taken.append((left, left + width, y))
                places[index] = side
                break
    return places


def framed_places(
    points: Sequence[tuple[float, float]], names: Sequence[str], marks: Sequence[tuple[float, float]]
) -> dict[int, str]:
    """For the points that get a label, where it stands, such as "top left".

    A label lies within the frame, and hides no mark and no earlier label. Points come in order of importance.

    Args:
        points, marks: in units of the frame, from 0 to 1 across and up; `marks` are all that is drawn.
    """
    taken = [(x - _MARK[0], x + _MARK[0], y - _MARK[1], y + _MARK[1]) for x, y in marks]
    places: dict[int, str] = {}
    for index, ((x, y), name) in enumerate(zip(points, names, strict=True)):
        width = LETTER_WIDTH * len(name)
        for place in _PLACES:
            height, side = place.split()
            left = x + _GAP if side == "right" else x - _GAP - width
            middle = y + {"top": _SHIFT, "middle": 0.0, "bottom": -_SHIFT}[height]
            box = (left, left + width, middle - _HALF_HEIGHT, middle + _HALF_HEIGHT)
            is_inside = min(box[0], box[2]) >= 0 and max(box[1], box[3]) <= 1
            if is_inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                places[index] = place
                break
    return places


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def _unit(values: Sequence[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]


def short(text: str, length: int = 24) -> str:
    """`text` on one line, cut to `length` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
