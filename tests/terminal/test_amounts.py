"""Times and sizes in the unit that fits."""

import pytest

from mia_lightning.terminal.amounts import duration, size, stopwatch


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.4, "9.4 s"),
        (9.6, "10 s"),
        (119, "119 s"),
        (121, "2 min"),
        (7199, "120 min"),
        (7300, "2.0 h"),
    ],
)
def test_a_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03"), (86400, "24:00:00")]
)
def test_a_stopwatch(seconds: float, text: str) -> None:
    assert stopwatch(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "1 MB"), (17_400_000, "17 MB"), (94_000_000, "94 MB"), (95_000_000, "0.1 GB"), (12_340_000_000, "12.3 GB")],
)
def test_a_size(number: int, text: str) -> None:
    assert size(number) == text
