"""What a report says, in one place for the console, the page and the logger: rankings and sentences."""

from math import sqrt

from mia_lightning.metrics.figures import Figure, Figures
from mia_lightning.reports.schema import AttackSection, AuditReport, ClassFigures, PrivacySection

FIGURE_NAMES = (
    "precision",
    "precision_balanced",
    "recall",
    "accuracy",
    "balanced_accuracy",
    "advantage",
    "auc",
    "average_precision",
)
FIGURE_FAMILIES = ("tpr_at_fpr", "tpr_at_fpr_pooled", "precision_at_recall", "ppv")
CHANCE_ERRORS = 3.5  # null standard errors within which an AUC is called chance


def label(attack: AttackSection) -> str:
    """The name of an attack with the defence that it met."""
    if attack.defense is None:
        return attack.name
    return f"{attack.name} ({'adaptive, ' if attack.adaptive else ''}{attack.defense})"


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


def figures_by_name(figures: Figures) -> dict[str, Figure]:
    """All figures of one group, flat: `precision`, …, `auc`, …, `tpr_at_fpr_0.01`, …, `ppv_0.1`."""
    flat = {name: getattr(figures, name) for name in FIGURE_NAMES}
    for family in FIGURE_FAMILIES:
        flat |= {f"{family}_{key}": figure for key, figure in getattr(figures, family).items()}
    return flat


def show(value: float | None, digits: int = 3) -> str:
    """The value as text; a dash where it is undefined."""
    return "–" if value is None else f"{value:.{digits}f}"


def bracket(figure: Figure, digits: int = 3) -> str:
    """The interval as text without a break: "[0.944, 0.966]", "at least 0.944"; empty where there is none."""
    if figure.low is None or figure.high is None:
        return "" if figure.low is None else f"at least {show(figure.low, digits)}".replace(" ", "\u00a0")
    return f"[{show(figure.low, digits)},\u00a0{show(figure.high, digits)}]"


def shown(figure: Figure, digits: int = 3) -> str:
    """Value and interval: "0.956 [0.944, 0.966]"."""
    return f"{show(figure.value, digits)} {bracket(figure, digits)}".rstrip()


def title(name: str) -> str:
    """The name of a figure as a reader writes it."""
    family, _, key = name.rpartition("_")
    by_family = {
        "tpr_at_fpr": "TPR at {} FPR",
        "tpr_at_fpr_pooled": "TPR at {} FPR, one threshold for all targets",
        "precision_at_recall": "precision at {} recall",
        "ppv": "precision if {} were members",
    }
    if family in by_family:
        return by_family[family].format(percent(key))
    return {"auc": "AUC", "precision_balanced": "precision at 1:1"}.get(name, name.replace("_", " "))


def percent(rate: str) -> str:
    """A rate as a percentage, unbreakable: "0.001" as "0.1 %"."""
    return f"{float(rate) * 100:g}\u00a0%"


def strongest(report: AuditReport) -> AttackSection | None:
    """The attack of highest overall AUC (the first of equals); None where no AUC is defined."""
    defined = [attack for attack in report.attacks if attack.overall.auc.value is not None]
    return max(defined, key=lambda attack: attack.overall.auc.value or 0.0, default=None)


def most_exposed(attack: AttackSection, count: int | None = None) -> list[ClassFigures]:
    """Classes in falling order of AUC, at most `count`; classes without an AUC are left out."""
    defined = [figures for figures in attack.per_class if figures.auc.value is not None]
    return sorted(defined, key=lambda figures: (-(figures.auc.value or 0.0), figures.class_index))[:count]


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


def headline(report: AuditReport) -> str:
    """One short sentence: is there leakage?"""
    attack = strongest(report)
    if attack is None:
        return "The leakage could not be measured"
    if is_at_chance(attack.overall, attack.num_targets):
        return "No leakage found by these attacks"
    if has_trials(report):
        return "It shows whether one record was among the training data"
    return "Training records can be told from others"


def has_trials(report: AuditReport) -> bool:
    """Whether the targets are trials of one canary, so that figures are over models, not over records."""
    return report.privacy is not None and report.privacy.trials is not None


def verdict(report: AuditReport) -> list[str]:
    """The result of the strongest attack in plain sentences."""
    attack = strongest(report)
    if attack is None:
        return ["No attack has a defined AUC; the tables below give the reasons."]
    figures = attack.overall
    auc = figures.auc.value or 0.0
    if has_trials(report):
        return [
            f"Given a model that was trained with the canary and one that was not, the strongest attack "
            f"({label(attack)}) gives the former the higher score in {100 * auc:.0f} of 100 cases (AUC "
            f"{shown(figures.auc)}; 50 of 100 is guessing). The brackets are a 95\u00a0% interval ({attack.estimand})."
        ]
    sentences = [
        f"Given one record of the training data and one that is not, the strongest attack ({label(attack)}) "
        f"ranks the former higher in {100 * auc:.0f} of 100 cases (AUC {shown(figures.auc)}; 50 of 100 is guessing)."
    ]
    if figures.precision.value is not None and figures.recall.value is not None:
        sentences.append(
            f"Of the records that it calls members, {_shares(figures.precision)} are (precision), where "
            f"guessing gives {_share(figures.base_rate or 0.0)} (the base rate); "
            f"it finds {_shares(figures.recall)} of the members (recall)."
        )
    if bracket(figures.auc):
        sentences.append(f"Brackets are 95\u00a0% intervals ({attack.estimand}).")
    num_targets = attack.num_targets
    if is_at_chance(figures, num_targets):
        each = "" if num_targets == 1 else " of each target"
        sentences.append(
            f"With {figures.num_members // num_targets:,} members and {figures.num_nonmembers // num_targets:,} "
            f"non-members{each}, this AUC cannot be told from guessing."
        )
    return sentences


def _share(value: float) -> str:
    return f"{100 * value:.1f}\u00a0%"


def _shares(figure: Figure) -> str:
    """A share and its interval as percentages; a bound where that is all."""
    if figure.value is None:
        return f"at least {_share(figure.low or 0.0)}"
    if figure.low is None or figure.high is None:
        return _share(figure.value)
    return f"{_share(figure.value)} [{100 * figure.low:.1f},\u00a0{100 * figure.high:.1f}]"


def privacy_sentences(privacy: PrivacySection) -> list[str]:
    """The largest lower bound of epsilon, and how it stands to the upper one, in plain words; empty without one.

    The confidence holds for all attacks together, so that the largest may be picked.
    """
    trials = privacy.trials
    if trials is None:
        best = max(privacy.lower, key=lambda bound: bound.epsilon_low, default=None)
        if best is None:
            return []
        return [
            f"{best.attack} is right in {best.num_correct:,} of {best.num_guesses:,} guesses on canaries: "
            f"{_shown(best.epsilon_low, privacy)} ({privacy.confidence:.0%} confidence, delta {privacy.delta:.3g})."
        ]
    strongest = max(trials.lower, key=lambda bound: bound.epsilon_low)
    return [
        f"{trials.num_in + trials.num_out:,} models were trained independently on the same records, {trials.num_in:,} "
        f"with one record more ({'natural' if trials.is_natural else 'a canary'}: number {trials.record}, class "
        f"{trials.class_name}) and {trials.num_out:,} without it.",
        f"{strongest.attack} flags {strongest.true_positives:,} of the {trials.num_in:,} and "
        f"{strongest.false_positives:,} of the {trials.num_out:,}, by a threshold chosen on {trials.num_shadows:,} "
        f"other models: {_shown(strongest.epsilon_low, privacy)}.",
        f"This holds at delta {privacy.delta:.3g} with {privacy.confidence:.0%} confidence"
        f"{' for all attacks together' if len(trials.lower) > 1 else ''}; so many models can show no more than "
        f"{show(trials.largest_epsilon)}.",
    ]


def _shown(low: float, privacy: PrivacySection) -> str:
    """The lower bound beside what was guaranteed."""
    found = f"epsilon is above {show(low)}" if low > 0 else "no epsilon above 0 is shown"
    if privacy.epsilon is None:
        return found
    if low > privacy.epsilon:
        return f"{found}, which refutes the guarantee of {show(privacy.epsilon)}"
    return f"{found}, and at most {show(privacy.epsilon)} is guaranteed"


def meaning(report: AuditReport) -> list[str]:
    """What the figures of the strongest attack say, in plain sentences."""
    attack = strongest(report)
    sentences = privacy_sentences(report.privacy) if report.privacy is not None and has_trials(report) else []
    if attack is not None and not has_trials(report):
        for fpr, figure in attack.overall.tpr_at_fpr.items():
            if figure.value is not None:
                sentences.append(
                    f"An attacker who may wrongly accuse at most {percent(fpr)} of the non-members still finds "
                    f"{_shares(figure)} of the members: the records that stand out most are the ones at risk."
                )
                break
        rare = attack.overall.ppv["0.01"]
        if rare.value is not None or rare.low is not None:
            sentences.append(
                f"Precision depends on how common members are among the records under suspicion. Here they are "
                f"{_share(attack.overall.base_rate or 0.0)}; were they 1 in 100, the same decisions would be right "
                f"for {_shares(rare)} of the records that they call members."
            )
    target = report.target
    sentences.append(
        f"The target is right on {_share(target.train_accuracy)} of its training records and on "
        f"{_share(target.test_accuracy)} of new ones, a generalisation gap of {target.generalization_gap:.3f}. "
        "Overfitting is the usual source of leakage, not the only one."
    )
    return sentences


def limits(report: AuditReport) -> list[str]:
    """What the figures do not say."""
    names = ", ".join(label(attack) for attack in report.attacks)
    targets = "one target" if report.target.num_targets == 1 else f"{report.target.num_targets} targets"
    several = len(report.attacks) > 1
    return [
        f"No upper bound: these are the attacks of this run ({names}). A stronger attack may find more, and a low "
        "figure is no proof of privacy.",
        f"No other model: {_about(report)} ({targets}, trained on records of {report.dataset.name}). A model "
        "of another architecture, other settings or other data gives other figures."
        + (" The strongest attack is the best on this very target, which flatters it." if several else ""),
        "No average harm: a mean over all records hides the few that are found with certainty. Look at the "
        "true-positive rate at low false-positive rates and at the most exposed classes.",
        "Membership only: the attacks decide whether a record was used for training; they do not reveal it.",
    ]


def _about(report: AuditReport) -> str:
    estimands = list(dict.fromkeys(attack.estimand for attack in report.attacks))
    return f"the intervals are about {' and '.join(estimands)}" if estimands else "there are no figures"
