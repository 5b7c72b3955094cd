"""What a report says in sentences, for the console and the page."""

from mia_lightning.metrics.figures import Figures
from mia_lightning.reports.privacy_section import PrivacySection
from mia_lightning.reports.rows import ACCURACY, RunRow
from mia_lightning.reports.schema import AuditReport
from mia_lightning.reports.sections.trust import distrust, trust_warnings
from mia_lightning.reports.selection import (
    Worst,
    has_trials,
    is_at_chance,
    leaking_rate,
    strongest,
    worst_auc,
    worst_rates,
)
from mia_lightning.reports.words import NBSP, about, bracket, label, percent, share, shares, show, shown


def headline(report: AuditReport) -> str:
    """One line: does membership leak, and how much? Where the target is not what it seems, that alone."""
    distrusted = distrust(report)
    if distrusted is not None:
        return distrusted
    return _leakage(report) if report.understated is None else _understated(report)


def remarks(report: AuditReport) -> dict[str, str]:
    """What is read before any figure, for loggers: the `headline`, and where there are such, `doubt` and `warnings`."""
    said = {
        "headline": headline(report).replace(NBSP, " "),
        "doubt": RunRow.of(report).doubt,
        "warnings": "\n".join(f"- {warning}" for warning in report.warnings),
    }
    return {name: text for name, text in said.items() if text}


def _understated(report: AuditReport) -> str:
    """Never that nothing leaks."""
    top = worst_auc(report)
    if top is None or leaks(report):
        return f"{_leakage(report)}; leakage may be understated"
    return f"Leakage may be understated: {_auc(top)}"


def leaks(report: AuditReport) -> bool:
    """Whether some attack is surely better than guessing: by its AUC, or by its TPR at a low FPR."""
    top = worst_auc(report)
    if top is None:
        return False
    return (
        not is_at_chance(top.attack.overall, top.attack.num_targets)
        or (top.figure.low is not None and top.figure.low > 0.5)
        or (not has_trials(report) and leaking_rate(report) is not None)
    )


def _auc(top: Worst) -> str:
    return f"AUC{NBSP}{shown(top.figure, 2).replace(' ', NBSP)}"


def _leakage(report: AuditReport) -> str:
    top = worst_auc(report)
    if top is None:
        return "Leakage could not be measured"
    found = _auc(top)
    if not leaks(report):
        return f"No membership leakage found: {found}"
    rate = leaking_rate(report)
    if is_at_chance(top.attack.overall, top.attack.num_targets) and rate is not None:
        tpr = worst_rates(report)[rate].figure
        return f"Membership leaks: TPR{NBSP}{shown(tpr, 2).replace(' ', NBSP)} at {percent(rate)} FPR"
    if has_trials(report):
        return f"Membership of one record leaks: {found}"
    return f"Membership leaks: {found}"


def verdict(report: AuditReport) -> list[str]:
    """The result of the strongest attack; for a target that is not what it seems, what speaks against it."""
    if distrust(report) is not None:
        return [*trust_warnings(report.trust), "The figures below are no evidence until this is settled."]
    attack, top = strongest(report), worst_auc(report)
    if attack is None or top is None:
        return ["No attack has a defined AUC; the tables below give the reasons."]
    figures = attack.overall
    cases = f"{100 * (figures.auc.value or 0.0):.0f} of 100"
    if has_trials(report):
        return [
            f"The strongest attack, {label(attack)}, scores a model trained with the canary above one trained without "
            f"it in {cases} pairs (AUC {shown(figures.auc)}; chance is 50 of 100). The bracket is a 95{NBSP}% interval "
            f"for {about(attack)}."
        ]
    sentences = [
        f"The strongest attack, {label(attack)}, scores a random member above a random non-member in {cases} pairs "
        f"(AUC {shown(top.figure)}; chance is 50 of 100)."
    ]
    if figures.precision.value is not None and figures.recall.value is not None:
        sentences.append(
            f"Precision: {shares(figures.precision)} of the records that it flags as members are members (chance: "
            f"{share(figures.base_rate or 0.0)}, the base rate){_at_even(figures)}. Recall: it flags "
            f"{shares(figures.recall)} of the members."
        )
    if bracket(figures.auc):
        sentences.append(f"Brackets are 95{NBSP}% intervals for {about(attack)}.")
    num_targets = attack.num_targets
    rate = leaking_rate(report)
    if is_at_chance(figures, num_targets) and rate is not None:
        best = worst_rates(report)[rate]
        sentences.append(
            f"{label(best.attack)} finds {shares(best.figure)} of the members where at most {percent(rate)} of "
            "non-members are flagged by mistake: more than guessing would."
        )
    if not leaks(report):
        each = "" if num_targets == 1 else " of each target"
        but = "" if report.understated is None else ", which is no evidence that nothing leaks"
        sentences.append(
            f"With {figures.num_members // num_targets:,} members and {figures.num_nonmembers // num_targets:,} "
            f"non-members{each}, this AUC is no better than chance{but}."
        )
    return sentences


def _at_even(figures: Figures) -> str:
    """The balanced precision, by the name that tables give it; "" where it is the precision."""
    even = figures.precision_balanced
    if even.value is None or even.value == figures.precision.value:
        return ""
    return f"; precision at 1:1 (balanced): {shares(even)}"


def meaning(report: AuditReport) -> list[str]:
    """What the figures of the strongest attack say."""
    attack = strongest(report)
    sentences = privacy_sentences(report.privacy) if report.privacy is not None and has_trials(report) else []
    if attack is not None and not has_trials(report):
        for fpr, top in worst_rates(report).items():
            sentences.append(
                f"If at most {percent(fpr)} of non-members may be flagged by mistake, {label(top.attack)} "
                f"still finds {shares(top.figure)} of the members, the most of all attacks."
                if len(report.attacks) > 1
                else f"If at most {percent(fpr)} of non-members may be flagged by mistake, the attack still finds "
                f"{shares(top.figure)} of the members."
            )
            break
        rare = attack.overall.ppv["0.01"]
        if rare.value is not None or rare.low is not None:
            sentences.append(
                f"Precision depends on the share of members among the records that are attacked: here "
                f"{share(attack.overall.base_rate or 0.0)}. If 1 record in 100 were a member, {shares(rare)} of the "
                "flagged records would be members."
            )
    target = report.target
    if report.task.utility != ACCURACY:
        utility = report.task.utility
        sentences.append(
            f"The target's {utility} is {show(target.train_accuracy)} on its training records and "
            f"{show(target.test_accuracy)} on new records: a generalisation gap of {show(target.generalization_gap)}. "
            "Overfitting is the usual cause of leakage, but not the only one."
        )
        return sentences
    sentences.append(
        f"The target classifies {share(target.train_accuracy)} of its training records and "
        f"{share(target.test_accuracy)} of new records correctly: a generalisation gap of "
        f"{show(target.generalization_gap)}. Overfitting is the usual cause of leakage, but not the only one."
    )
    return sentences


def limits(report: AuditReport) -> list[str]:
    """What the figures do not say."""
    names = ", ".join(label(attack) for attack in report.attacks)
    here = "this target" if report.target.num_targets == 1 else "these targets"
    targets = "one target" if report.target.num_targets == 1 else f"{report.target.num_targets:,} targets"
    picked = (
        f" The strongest attack was picked on {here}, which makes it look stronger than it is; the intervals of the "
        "headline hold for the maximum over all attacks."
        if len(report.attacks) > 1
        else ""
    )
    return [
        f"How much leaks at most: only the attacks of this run were tried ({names}). A stronger attack may find more; "
        "low figures do not prove privacy.",
        f"How much other models leak: {_about(report)} ({targets}, trained on records of {report.dataset.name}). "
        f"Another architecture, other settings or other data give other figures.{picked}",
        f"How exposed each record is: averages hide the few records that are found with certainty. Look at the "
        f"true-positive rate at low false-positive rates and at the most exposed {report.task.strata_name}.",
        "What a record contains: the attacks decide whether a record was used for training; they do not reconstruct "
        "it.",
    ]


def _about(report: AuditReport) -> str:
    of_attacks = list(dict.fromkeys(map(about, report.attacks)))
    return f"the intervals are for {' and '.join(of_attacks)}" if of_attacks else "there are no figures"


def privacy_sentences(privacy: PrivacySection) -> list[str]:
    """The largest lower bound of epsilon, and how it compares with the guarantee; empty without one.

    The confidence holds for all attacks together, so that the largest may be picked.
    """
    trials = privacy.trials
    if trials is None:
        best = max(privacy.lower, key=lambda bound: bound.epsilon_low, default=None)
        if best is None:
            return []
        return [
            f"{best.attack} guesses {best.num_correct:,} of {best.num_guesses:,} canaries correctly: "
            f"{_bound(best.epsilon_low, privacy)} ({privacy.confidence:.0%} confidence, delta {privacy.delta:.3g})."
        ]
    best_trial = max(trials.lower, key=lambda bound: bound.epsilon_low)
    return [
        f"{trials.num_in + trials.num_out:,} models were trained independently on the same records: {trials.num_in:,} "
        f"with one more record ({'a natural one' if trials.is_natural else 'a canary'}: number {trials.record}, class "
        f"{trials.class_name}) and {trials.num_out:,} without it.",
        f"{best_trial.attack} flags {best_trial.true_positives:,} of the {trials.num_in:,} models trained with it and "
        f"{best_trial.false_positives:,} of the {trials.num_out:,} trained without it, at a threshold chosen on "
        f"{trials.num_shadows:,} other models: {_bound(best_trial.epsilon_low, privacy)}.",
        f"Delta is {privacy.delta:.3g} and the confidence {privacy.confidence:.0%}"
        f"{' for all attacks together' if len(trials.lower) > 1 else ''}. This many models can show an epsilon of at "
        f"most {show(trials.largest_epsilon)}.",
    ]


def _bound(low: float, privacy: PrivacySection) -> str:
    """The lower bound beside what was guaranteed."""
    found = f"epsilon is above {show(low)}" if low > 0 else "no epsilon above 0 is shown"
    if privacy.epsilon is None:
        return found
    if low > privacy.epsilon:
        return f"{found}, which refutes the guarantee of {show(privacy.epsilon)}"
    return f"{found}, and at most {show(privacy.epsilon)} is guaranteed"
