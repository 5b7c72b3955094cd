"""A clock that stands still but where a test says so, and networks whose calls take time by it."""

from dataclasses import dataclass

import pytest
from torch import Tensor, nn


@dataclass
class Clock:
    """Seconds that pass only when somebody says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Timed(nn.Module):
    """A linear network; a call of Python takes 0.1 s, a recorded one none."""

    clock = Clock()

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(input_shape[0], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        self.clock.pass_by(0.1)
        logits: Tensor = self.layer(x)
        return logits


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of the networks of a test."""
    found = Clock()
    monkeypatch.setattr(Timed, "clock", found)
    return found
