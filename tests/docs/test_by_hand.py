"""examples/by_hand.py: what is done by hand agrees with what the package does."""

import importlib
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "by_hand.py"


def test_the_example_is_read_in_one_sitting() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 120


@pytest.mark.slow
@pytest.mark.usefixtures("global_generators")  # of networks that are made by hand
def test_by_hand_and_by_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    found = importlib.import_module("by_hand").compared()
    assert list(found) == ["loss", "lira_online"]
    hand, package = found["loss"]  # the same target: nothing but rounding may differ
    assert hand == pytest.approx(package, abs=1e-4)
    assert hand > 0.55
    hand, package = found["lira_online"]  # of shadow models of their own
    assert hand == pytest.approx(package, abs=0.06)
    assert min(hand, package) > found["loss"][0]  # LiRA finds more than a threshold on the loss, either way
