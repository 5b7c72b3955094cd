"""What an attack is: it learns from shadow models how members differ, and scores the records of a target.

To add one, write `mia_lightning/attacks/<name>.py` with a frozen dataclass that has `name`, `description` and
`fit`, and `conf/attack/<name>.yaml` that names it.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mia_lightning.training.fit import Engine
from mia_lightning.training.signals import Signals


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """Shadow models observed on records of known membership.

    Attributes:
        signals: of K shadow models on N records.
        member_KN, scored_KN: bool; model k trained on record i; record i is evidence about model k.
        label_N: int64, the true classes.
        num_classes: C.
    """

    signals: Signals
    member_KN: Tensor
    scored_KN: Tensor
    label_N: Tensor
    num_classes: int


class FittedAttack(Protocol):
    """An attack that has learnt all it needs, and never looks at the target's membership.

    Attributes:
        threshold: records that score at least this are flagged as members; never chosen on a target.
        remarks: sentences for the report on what could not be learnt.
    """

    @property
    def threshold(self) -> float: ...

    @property
    def remarks(self) -> tuple[str, ...]: ...

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """`score_TN`, float64, for the signals of T targets; higher means more likely a member."""
        ...


class Attack(Protocol):
    """How an attack is set up.

    Attributes:
        name: what reports and folders call it.
        description: one sentence on what it looks at and how it decides.
    """

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    def fit(self, shadows: Evidence, engine: Engine) -> FittedAttack: ...
