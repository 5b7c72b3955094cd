"""What a report says in sentences."""

import pytest

from mia_lightning.metrics.intervals.simultaneous import widened
from mia_lightning.reports.schema import AuditReport
from mia_lightning.reports.selection import is_at_chance, leaking_rate, most_exposed, strongest, worst_rates
from mia_lightning.reports.sentences import headline, meaning, verdict
from mia_lightning.reports.words import label, title


@pytest.mark.parametrize("num_targets", [1, 4])
def test_chance_is_judged_by_the_records_of_one_target(make_report, num_targets: int) -> None:
    report = make_report(shift=0.0)
    counted = report.attacks[0].overall
    one = 0.29 * (1 / counted.num_members + 1 / counted.num_nonmembers) ** 0.5  # the null standard error, nearly
    figures = counted.model_copy(
        update={
            "num_members": num_targets * counted.num_members,
            "num_nonmembers": num_targets * counted.num_nonmembers,
            "auc": counted.auc.model_copy(update={"value": 0.5 + 3 * one}),
        }
    )
    report = report.model_copy(
        update={
            "attacks": (report.attacks[0].model_copy(update={"overall": figures, "num_targets": num_targets}),),
            "target": report.target.model_copy(update={"num_targets": num_targets}),
        }
    )

    assert is_at_chance(figures, num_targets)
    assert num_targets == 1 or not is_at_chance(figures)
    assert headline(report).startswith(f"No membership leakage found: AUC\u00a0{figures.auc.value:.2f}")
    assert f"With {counted.num_members:,} members" in verdict(report)[-1]


def test_the_headline_is_the_figure_of_the_strongest_attack(report: AuditReport) -> None:
    auc = max(report.attacks, key=lambda attack: attack.overall.auc.value).overall.auc
    wide = [widened(attack.overall.auc, len(report.attacks)) for attack in report.attacks]
    low, high = max(w.low for w in wide), max(w.high for w in wide)
    expected = f"Membership leaks: AUC {auc.value:.2f} [{low:.2f}, {high:.2f}]"
    assert headline(report).replace("\u00a0", " ") == expected
    pairs = f"{100 * auc.value:.0f} of 100 pairs (AUC {auc.value:.3f} [{low:.3f}, {high:.3f}]"
    assert pairs in verdict(report)[0].replace("\u00a0", " ")


def with_rate(attack, name: str, rate: str, value: float, low: float, high: float):
    rates = attack.overall.tpr_at_fpr
    figure = rates[rate].model_copy(update={"value": value, "low": low, "high": high})
    auc = attack.overall.auc.model_copy(update={"value": 0.5, "low": 0.45, "high": 0.55})
    overall = attack.overall.model_copy(update={"auc": auc, "tpr_at_fpr": {**rates, rate: figure}})
    return attack.model_copy(update={"name": name, "overall": overall})


def test_another_attack_may_be_the_strongest_at_a_low_rate(make_report) -> None:
    """The one of the highest AUC finds nobody at 1 % FPR, another one finds 8 %."""
    report = make_report(shift=0.0)
    first = report.attacks[0]
    by_auc = with_rate(first, "by_auc", "0.01", 0.0, 0.0, 0.02)
    by_rate = with_rate(first, "by_rate", "0.01", 0.08, 0.05, 0.12)
    report = report.model_copy(update={"attacks": (by_auc, by_rate)})
    top = worst_rates(report)["0.01"]
    assert top.attack.name == "by_rate"
    assert top.figure.low == widened(by_rate.overall.tpr_at_fpr["0.01"], 2).low
    assert leaking_rate(report) == "0.01"
    said = headline(report).replace("\u00a0", " ")
    assert said == f"Membership leaks: TPR 0.08 [{top.figure.low:.2f}, {top.figure.high:.2f}] at 1 % FPR"
    assert any("by_rate finds 8.0" in sentence for sentence in verdict(report))
    weak = report.model_copy(update={"attacks": (by_auc, with_rate(first, "by_rate", "0.01", 0.08, 0.005, 0.2))})
    assert headline(weak).startswith("No membership leakage found")


def test_classes_are_in_order_of_their_lower_limits(report: AuditReport) -> None:
    attack = report.attacks[0]
    first, second, *_ = attack.per_class

    def of(group, value: float, low: float | None, high: float | None):
        auc = group.auc.model_copy(update={"value": value, "low": low, "high": high})
        return group.model_copy(update={"auc": auc, "auc_simultaneous": auc})

    few, many = of(first, 1.0, 0.14, 1.0), of(second, 0.8, 0.7, 0.9)
    without = of(second, 0.9, None, None)
    assert most_exposed(attack.model_copy(update={"per_class": (few, without, many)})) == [many, few, without]


def test_what_was_not_measured_is_said(make_report) -> None:
    report = make_report(class_names=("only",), per_class=0)
    assert headline(report) == "Leakage could not be measured"
    assert strongest(report) is None
    assert is_at_chance(report.attacks[0].overall) is None
    assert len(verdict(report)) == 1


def test_precision_at_a_prior_follows_from_the_rates(report: AuditReport) -> None:
    figures = report.attacks[0].overall
    rows = report.scores.attack == "shokri"
    flagged, member = report.scores.is_flagged[rows], report.scores.is_member[rows]
    tpr, fpr = flagged[member].mean(), flagged[~member].mean()

    assert figures.ppv["0.01"].value == pytest.approx(0.01 * tpr / (0.01 * tpr + 0.99 * fpr))
    limits = (f"{100 * limit:.1f}" for limit in (figures.ppv["0.01"].low, figures.ppv["0.01"].high))
    assert "[{},\u00a0{}]".format(*limits) in meaning(report)[1]


def test_the_balanced_precision_has_the_name_that_tables_give_it(report: AuditReport) -> None:
    attack = report.attacks[0]
    even = attack.overall.precision_balanced.model_copy(update={"value": 0.625})
    uneven = attack.model_copy(update={"overall": attack.overall.model_copy(update={"precision_balanced": even})})
    said = " ".join(verdict(report.model_copy(update={"attacks": (uneven,)})))
    assert f"{title('precision_balanced')}: 62.5" in said
    same = attack.overall.model_copy(update={"precision_balanced": attack.overall.precision})
    alike = report.model_copy(update={"attacks": (attack.model_copy(update={"overall": same}),)})
    assert "at 1:1" not in " ".join(verdict(alike))


def test_a_defence_is_part_of_the_name(report: AuditReport) -> None:
    attack = report.attacks[0]

    assert label(attack) == "shokri"
    assert label(attack.model_copy(update={"defense": "top1"})) == "shokri (top1)"
    defended = attack.model_copy(update={"defense": "top1", "adaptive": True})
    assert label(defended) == "shokri (adaptive, top1)"
