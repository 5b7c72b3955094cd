"""What the console, the page and the loggers pick from a report: the strongest attack, the most exposed classes."""

from math import sqrt

from mia_lightning.metrics.figures import Figures
from mia_lightning.reports.schema import AttackSection, AuditReport, ClassFigures

CHANCE_ERRORS = 3.5  # null standard errors within which an AUC is called chance


def strongest(report: AuditReport) -> AttackSection | None:
    """The attack of highest overall AUC (the first of equals); None where no AUC is defined."""
    defined = [attack for attack in report.attacks if attack.overall.auc.value is not None]
    return max(defined, key=lambda attack: attack.overall.auc.value or 0.0, default=None)


def most_exposed(attack: AttackSection, count: int | None = None) -> list[ClassFigures]:
    """Classes in falling order of AUC, at most `count`; classes without an AUC are left out."""
    defined = [figures for figures in attack.per_class if figures.auc.value is not None]
    return sorted(defined, key=lambda figures: (-(figures.auc.value or 0.0), figures.class_index))[:count]


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


def is_at_chance(figures: Figures, num_targets: int = 1) -> bool | None:
    """Whether the AUC is within 3.5 null standard errors of one half, or below; None where it is undefined.

    The null standard error is √((n₁ + n₀ + 1) / (12 n₁ n₀)), that of the Mann-Whitney statistic of one target:
    several targets share records, so the mean of their AUCs need not be more certain than one of them.
    """
    if figures.auc.value is None:
        return None
    members, nonmembers = figures.num_members / num_targets, figures.num_nonmembers / num_targets
    error = sqrt((members + nonmembers + 1) / (12 * members * nonmembers))
    return figures.auc.value - 0.5 <= CHANCE_ERRORS * error


def has_trials(report: AuditReport) -> bool:
    """Whether the targets are trials of one canary, so that figures are over models, not over records."""
    return report.privacy is not None and report.privacy.trials is not None
