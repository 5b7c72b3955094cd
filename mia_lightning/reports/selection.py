"""What the console, the page and the loggers pick from a report: the strongest attack, the most exposed classes."""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import NamedTuple, TypeVar

from mia_lightning.metrics.figures import Figure, Figures
from mia_lightning.metrics.intervals.simultaneous import largest
from mia_lightning.reports.schema import AttackSection, AuditReport, ClassFigures, GroupFigures

Part = TypeVar("Part", ClassFigures, GroupFigures)
CHANCE_ERRORS = 3.5  # null standard errors within which an AUC is called chance


def strongest(report: AuditReport) -> AttackSection | None:
    """The attack of highest overall AUC (the first of equals); None where no AUC is defined."""
    defined = [attack for attack in report.attacks if attack.overall.auc.value is not None]
    return max(defined, key=lambda attack: attack.overall.auc.value or 0.0, default=None)


class Worst(NamedTuple):
    """The attack that is strongest in a figure, and the figure, its interval that of the maximum over all attacks
    (`mia_lightning.metrics.intervals.simultaneous.largest`)."""

    attack: AttackSection
    figure: Figure


def worst(report: AuditReport, figure: Callable[[Figures], Figure | None]) -> Worst | None:
    """The attack that is strongest in a figure, larger being worse; None where no attack has it."""
    pairs = [(attack, figure(attack.overall)) for attack in report.attacks]
    defined = [(attack, each) for attack, each in pairs if each is not None and each.value is not None]
    joint = largest([each for _, each in defined])
    if joint is None:
        return None
    return Worst(next(attack for attack, each in defined if each.value == joint.value), joint)


def worst_auc(report: AuditReport) -> Worst | None:
    """By AUC."""
    return worst(report, lambda figures: figures.auc)


def worst_rates(report: AuditReport) -> dict[str, Worst]:
    """By TPR, for each false-positive rate at which an attack has one."""
    rates = dict.fromkeys(rate for attack in report.attacks for rate in attack.overall.tpr_at_fpr)
    found = {rate: worst(report, lambda figures, rate=rate: figures.tpr_at_fpr.get(rate)) for rate in rates}  # type: ignore[misc]
    return {rate: each for rate, each in found.items() if each is not None}


def leaking_rate(report: AuditReport) -> str | None:
    """The smallest false-positive rate at which some attack surely has a larger true-positive rate; None for none."""
    rates = worst_rates(report)
    surely = [rate for rate, each in rates.items() if each.figure.low is not None and each.figure.low > float(rate)]
    return min(surely, key=float, default=None)


def most_exposed(attack: AttackSection, count: int | None = None) -> list[ClassFigures]:
    """Classes in falling order of the lower limit of their AUC, then of the AUC, at most `count`.

    The limit is the simultaneous one, where there is such. Classes without an AUC are left out; those without an
    interval come last.
    """
    return _by_lower_limit(attack.per_class)[:count]


def most_exposed_groups(attack: AttackSection, count: int | None = None) -> list[GroupFigures]:
    """Groups in the order of `most_exposed`."""
    return _by_lower_limit(attack.per_group)[:count]


def _by_lower_limit(parts: Sequence[Part]) -> list[Part]:
    defined = [figures for figures in parts if figures.auc.value is not None]

    def place(figures: Part) -> tuple[bool, float, float]:
        low = (figures.auc_simultaneous or figures.auc).low
        return low is None, -(low or 0.0), -(figures.auc.value or 0.0)

    return sorted(defined, key=place)


def by_strength(report: AuditReport) -> list[AttackSection]:
    """All attacks: the strongest by AUC, the strongest at the lowest false-positive rate, then by falling AUC."""
    rates = worst_rates(report)
    first = strongest(report), next(iter(rates.values())).attack if rates else None

    def place(attack: AttackSection) -> tuple[int, float]:
        rank = next((rank for rank, each in enumerate(first) if each is attack), len(first))
        return rank, -(attack.overall.auc.value or 0.0)

    return sorted(report.attacks, key=place)


def knowledge_pairs(report: AuditReport) -> list[tuple[AttackSection, AttackSection]]:
    """Attacks that were run twice, by one who does not know the defence and by one who does, in this order."""
    by_name = {attack.name: attack for attack in report.attacks}
    pairs = []
    for attack in report.attacks:
        for suffix in ("-unaware", "-adaptive"):
            other = by_name.get(f"{attack.name}{suffix}")
            if other is not None and other.adaptive != attack.adaptive:
                pairs.append((other, attack) if attack.adaptive else (attack, other))
    return pairs


def null_error(figures: Figures, num_targets: int = 1) -> float:
    """The standard error of the AUC of one target at chance, √((n₁ + n₀ + 1) / (12 n₁ n₀)), that of the Mann-Whitney
    statistic: several targets share records, so the mean of their AUCs need not be more certain than one of them."""
    members, nonmembers = figures.num_members / num_targets, figures.num_nonmembers / num_targets
    return sqrt((members + nonmembers + 1) / (12 * members * nonmembers))


def is_at_chance(figures: Figures, num_targets: int = 1) -> bool | None:
    """Whether the AUC is within 3.5 null standard errors of one half, or below; None where it is undefined."""
    if figures.auc.value is None:
        return None
    return figures.auc.value - 0.5 <= CHANCE_ERRORS * null_error(figures, num_targets)


def has_trials(report: AuditReport) -> bool:
    """Whether the targets are trials of one canary, so that figures are over models, not over records."""
    return report.privacy is not None and report.privacy.trials is not None
