"""Times and sizes as a person reads them."""


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
