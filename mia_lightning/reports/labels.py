"""Which points of a scatter can be labelled without one label lying on another."""

from collections.abc import Sequence

LETTER_WIDTH, LETTER_HEIGHT = 0.013, 0.045  # of the plot's extent, at the sizes drawn here
NUM_LABELS = 12
RIGHT_END = 1.1  # beyond which a label would leave the plot


def label_places(points: Sequence[tuple[float, float]], names: Sequence[str]) -> dict[int, str]:
    """For the points that get a label, on which side it stands: "right" or "left".

    Points come in order of importance; at most twelve are labelled, each where it hides no earlier label, to the right
    if there is room before the plot's edge.
    """
    taken: list[tuple[float, float, float]] = []
    places: dict[int, str] = {}
    across, up = _unit([point[0] for point in points]), _unit([point[1] for point in points])
    for index, (x, y, name) in enumerate(zip(across, up, names, strict=True)):
        width = LETTER_WIDTH * len(name) + 0.03
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


def _unit(values: Sequence[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]


def short(text: str, length: int = 24) -> str:
    """`text` on one line, cut to `length` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
