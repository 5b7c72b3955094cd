"""The empirical distribution of a figure over classes."""

from collections.abc import Sequence


def distribution_line(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """The corners of the cumulative distribution as a line of steps: values, and the share of at most that."""
    ordered = sorted(values)
    xs, ys = [ordered[0]], [0.0]
    for place, value in enumerate(ordered, 1):
        xs += [value, value]
        ys += [ys[-1], place / len(ordered)]
    return [*xs, 1.0], [*ys, 1.0]
