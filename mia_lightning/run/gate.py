"""What is gated: the `gate` section of the configuration."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Between0And1, Text
from mia_lightning.settings.words import Words

METRICS = {"advantage": "advantage", "tpr_at_fpr": "TPR at {fpr:g} FPR", "auc": "AUC"}
WORST = "worst"


@settings("gate")
class Gate:
    """The `gate` section of the configuration.

    Attributes:
        metric: `advantage` (TPR − FPR at the attack's own operating point, never one picked on the target),
            `tpr_at_fpr` or `auc`.
        limit: that the figure must stay below.
        fpr: false-positive rate of `tpr_at_fpr`; None for the others.
        attack: its name, or `worst` for all attacks of the run.
        confidence: that no verdict about any of the attacks is wrong.
    """

    metric: Literal["advantage", "tpr_at_fpr", "auc"]
    limit: Between0And1
    fpr: Between0And1 | None = None
    attack: Annotated[Text, Words(f"the name of an attack, or {WORST}")] = WORST
    confidence: Annotated[float, Ge(0.5), Lt(1)] = 0.95

    def __post_init__(self) -> None:
        if self.metric == "tpr_at_fpr" and self.fpr is None:
            raise InputError("`gate.fpr` is null; gate.metric=tpr_at_fpr needs a rate, such as gate.fpr=0.001.")
        if self.metric != "tpr_at_fpr" and self.fpr is not None:
            raise InputError(
                f"`gate.fpr` is {self.fpr!r}, but gate.metric={self.metric} has none; leave it null, or set "
                "gate.metric=tpr_at_fpr."
            )

    @property
    def figure(self) -> str:
        """What the limit is on, in words."""
        return METRICS[self.metric].format(fpr=self.fpr)

    def check_attack(self, names: Sequence[str]) -> None:
        """Refuse a gate on an attack that is none of the run's, which has the attacks `names`."""
        twins = [f"{name}{suffix}" for name in names for suffix in ("-unaware", "-adaptive")]
        if self.attack not in (WORST, *names, *twins):
            raise InputError(
                f"`gate.attack` is {self.attack!r}, which is none of the attacks of this run; choose one of "
                f"{', '.join((WORST, *names))}."
            )


def gate_from(settings: Mapping[str, Any] | None) -> Gate | None:
    """The gate of a configuration; None where nothing is set that makes one.

    Raises:
        InputError: settings that are no gate.
    """
    settings = settings or {}
    makes_none = all(value is None for name, value in settings.items() if name not in ("attack", "confidence"))
    return None if makes_none else Gate(**settings)
