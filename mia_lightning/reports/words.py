"""Figures and their names as a reader writes them: for the console, the pages and the pictures."""

from datetime import datetime

from mia_lightning.metrics.figures import THESE_MODELS, Figure
from mia_lightning.reports.schema import AttackSection
from mia_lightning.terminal.amounts import MINUS
from mia_lightning.terminal.amounts import show as show
from mia_lightning.terminal.amounts import signed as signed

NBSP = "\u00a0"
_ESTIMANDS = {THESE_MODELS: "these trained models on other records of the same population"}


def label(attack: AttackSection) -> str:
    """The name of an attack with the defence that it met."""
    if attack.defense is None:
        return attack.name
    return f"{attack.name} ({'adaptive, ' if attack.adaptive else ''}{attack.defense})"


def about(attack: AttackSection) -> str:
    """What the intervals of an attack are for, as the end of a sentence."""
    return _ESTIMANDS.get(attack.estimand, attack.estimand)


def significant(value: float, digits: int = 3) -> str:
    """The value with so many significant digits: "0.74", "−1.2e-05"."""
    return f"{MINUS if value < 0 else ''}{abs(value):.{digits}g}"


def bracket(figure: Figure, digits: int = 3) -> str:
    """The interval as text without a break: "[0.944, 0.966]", "at least 0.944"; empty where there is none."""
    if figure.low is None or figure.high is None:
        return "" if figure.low is None else f"at least {show(figure.low, digits)}".replace(" ", NBSP)
    return f"[{show(figure.low, digits)},{NBSP}{show(figure.high, digits)}]"


def shown(figure: Figure, digits: int = 3) -> str:
    """Value and interval: "0.956 [0.944, 0.966]"."""
    return f"{show(figure.value, digits)} {bracket(figure, digits)}".rstrip()


def share(value: float) -> str:
    """A share as a percentage: "61.0 %"."""
    return f"{100 * value:.1f}{NBSP}%"


def shares(figure: Figure) -> str:
    """A share and its interval as percentages; a bound where that is all."""
    if figure.value is None:
        return f"at least {share(figure.low or 0.0)}"
    if figure.low is None or figure.high is None:
        return share(figure.value)
    return f"{share(figure.value)} [{100 * figure.low:.1f},{NBSP}{100 * figure.high:.1f}]"


def percent(rate: str) -> str:
    """A rate as a percentage, unbreakable: "0.001" as "0.1 %"."""
    return f"{float(rate) * 100:g}{NBSP}%"


def moment(created: str) -> str:
    """An ISO 8601 time as a reader writes it; as it stands where it is not one."""
    try:
        time = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{time.day} {time:%B %Y, %H:%M} UTC"


def title(name: str) -> str:
    """The name of a figure: "TPR at 1 % FPR" for `tpr_at_fpr_0.01`."""
    family, _, key = name.rpartition("_")
    by_family = {
        "tpr_at_fpr": "TPR at {} FPR",
        "tpr_at_fpr_pooled": "TPR at {} FPR, one threshold for all targets",
        "precision_at_recall": "precision at {} recall",
        "ppv": "precision if {} were members",
    }
    if family in by_family:
        return by_family[family].format(percent(key))
    return {"auc": "AUC", "precision_balanced": "precision at 1:1 (balanced)"}.get(name, name.replace("_", " "))
