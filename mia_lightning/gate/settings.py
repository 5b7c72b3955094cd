"""What is gated: the `gate` section of the configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mia_lightning.errors import InputError

METRICS = {"advantage": "advantage", "tpr_at_fpr": "TPR at {fpr:g} FPR", "auc": "AUC"}
WORST = "worst"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The `gate` section of the configuration.

    Attributes:
        metric: `advantage` (TPR − FPR at the attack's own operating point, never one picked on the target),
            `tpr_at_fpr` or `auc`.
        limit: that the figure is to stay below, between 0 and 1.
        fpr: false-positive rate of `tpr_at_fpr`; None for the others.
        attack: by name, or `worst`: all attacks of the run.
        confidence: that no verdict about any of the attacks is wrong, at least 0.5 and below 1.
    """

    metric: str
    limit: float
    fpr: float | None = None
    attack: str = WORST
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InputError(f"`gate.metric` is {self.metric!r}; it must be one of {', '.join(METRICS)}.")
        if not _is_share(self.limit):
            raise InputError(f"`gate.limit` is {self.limit!r}; it must be a number above 0 and below 1.")
        if self.metric == "tpr_at_fpr" and not _is_share(self.fpr):
            raise InputError(
                f"`gate.fpr` is {self.fpr!r}; gate.metric=tpr_at_fpr needs a number above 0 and below 1, such as "
                "gate.fpr=0.001."
            )
        if self.metric != "tpr_at_fpr" and self.fpr is not None:
            raise InputError(
                f"`gate.fpr` is {self.fpr!r}, but gate.metric={self.metric} has none; leave it null, or set "
                "gate.metric=tpr_at_fpr."
            )
        if not isinstance(self.attack, str) or not self.attack:
            raise InputError(f"`gate.attack` is {self.attack!r}; it must be the name of an attack, or {WORST}.")
        if not _is_share(self.confidence) or self.confidence < 0.5:
            raise InputError(f"`gate.confidence` is {self.confidence!r}; it must be at least 0.5 and below 1.")

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


def _is_share(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < 1  # type: ignore[operator]


def gate_from(settings: Any) -> Gate | None:
    """The gate of a configuration; None where it has none.

    Raises:
        InputError: settings that are no gate.
    """
    if settings is None:
        return None
    if not isinstance(settings, dict):
        raise InputError(f"`gate` is {settings!r}; set gate.metric and gate.limit.")
    known = ("metric", "limit", "fpr", "attack", "confidence")
    for name in settings:
        if name not in known:
            raise InputError(f"there is no setting `gate.{name}`; a gate has {', '.join(known)}.")
    if settings.get("metric") is None:
        for name in ("limit", "fpr"):
            if settings.get(name) is not None:
                raise InputError(
                    f"`gate.{name}` is {settings[name]!r}, but `gate.metric` is null; set it to one of "
                    f"{', '.join(METRICS)}."
                )
        return None
    return Gate(**{"limit": None, **settings})
