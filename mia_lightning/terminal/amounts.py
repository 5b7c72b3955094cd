"""Figures, times and sizes as a person reads them."""

from math import isnan

MINUS = "\u2212"


def show(value: float | None, digits: int = 3) -> str:
    """The value as text, "0.740" or "−0.019"; a dash where it is undefined."""
    if value is None or isnan(value):
        return "–"
    text = f"{abs(value):.{digits}f}"
    return f"{MINUS}{text}" if value < 0 and float(text) > 0 else text


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign: "+0.012", "−0.140"; a dash where it is undefined."""
    text = show(value, digits)
    return f"+{text}" if value is not None and value > 0 and float(text) > 0 else text


def duration(seconds: float) -> str:
    """Such as "0.3 s", "25 s", "12 min", "3.4 h"."""
    if seconds < 9.5:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def stopwatch(seconds: float) -> str:
    """What a clock shows that runs: such as "0:07", "12:34" or "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(number: int) -> str:
    """Of bytes, such as "17 MB", "0.4 GB"."""
    return f"{number / 1e9:.1f} GB" if number >= 0.95e8 else f"{max(1, round(number / 1e6))} MB"
