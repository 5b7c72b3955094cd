"""An attack that writes down when it gave its first score; for `store.py`."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mia_lightning.attacks.interface import Attack, Evidence, FittedAttack, Needs
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals

CLOCK = "MIA_FIRST_SCORE"  # names the file that takes the time, in seconds since 1970


@dataclass(frozen=True, kw_only=True)
class Timed:
    """`attack`, unchanged but for the clock."""

    attack: Attack

    @property
    def name(self) -> str:
        return self.attack.name

    @property
    def description(self) -> str:
        return self.attack.description

    @property
    def needs(self) -> Needs:
        return self.attack.needs

    def fit(self, shadows: Evidence, engine: Engine) -> FittedAttack:
        return FittedTimed(fitted=self.attack.fit(shadows, engine))


@dataclass(frozen=True, kw_only=True)
class FittedTimed:
    fitted: FittedAttack

    @property
    def threshold(self) -> float:
        return self.fitted.threshold

    @property
    def remarks(self) -> tuple[str, ...]:
        return self.fitted.remarks

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        score_TN = self.fitted.score(signals, label_N)
        place = Path(os.environ[CLOCK])
        if not place.exists():
            place.write_text(str(time.time()))
        return score_TN
