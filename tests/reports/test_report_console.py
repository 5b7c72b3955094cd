"""The summary on the terminal."""

import io

from rich.console import Console

from mia_lightning.reports.console import render_summary
from mia_lightning.reports.markdown import report_markdown
from mia_lightning.reports.schema import AuditReport, ConvergenceSection
from mia_lightning.reports.sentences import meaning


def _printed(report: AuditReport, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), no_color=True)
    console.print(render_summary(report))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_summary_fits_and_holds_the_figures(report: AuditReport) -> None:
    lines = _printed(report)

    assert max(map(len, lines)) <= 80
    for attack in report.attacks:
        first = next(place for place, line in enumerate(lines) if line.startswith(attack.name))
        words = [word for word in lines[first].split() if not word.startswith("[")]
        row, below = words, " ".join(lines[first : first + 2])
        figures = attack.overall
        assert figures.num_members != figures.num_nonmembers  # so precision and accuracy are shown at 1:1
        shown = [figures.precision_balanced, figures.recall, figures.balanced_accuracy, figures.auc]
        assert row[1:5] == [f"{figure.value:.3f}" for figure in shown]
        assert row[5:] == [f"{figures.tpr_at_fpr['0.01'].value:.3f}", "–"]
        for figure in (figures.auc, figures.tpr_at_fpr["0.01"]):
            limits = (f"{limit:.3f}".replace("0.", ".", 1) for limit in (figure.low, figure.high))
            assert "[{},{}]".format(*limits) in below
    assert lines[0].replace("\u00a0", " ").startswith("Membership leaks: AUC 0.")
    assert "Brackets: 95\u00a0% intervals for these trained models on other records of the same" in " ".join(lines)
    assert "Target: train accuracy 1.000, test accuracy 0.719, gap 0.281" in lines


def test_why_low_figures_are_no_evidence_stands_first(report: AuditReport) -> None:
    reason = "The target has learnt nothing."
    lines = _printed(report.model_copy(update={"broken": (reason,), "warnings": (reason, *report.warnings)}))
    assert lines[0] == reason
    assert "understated" in lines[2]


def test_a_minus_before_figures_of_the_target_is_no_hyphen(report: AuditReport) -> None:
    worse = {"train_accuracy": -0.25, "test_accuracy": -0.24, "generalization_gap": -0.01}
    report = report.model_copy(update={"target": report.target.model_copy(update=worse)})
    line = "Target: train accuracy −0.250, test accuracy −0.240, gap −0.010"
    assert line in _printed(report)
    assert line in report_markdown(report)
    assert "train accuracy −0.250, test accuracy −0.240" in repr(report)
    assert any("gap of −0.010" in sentence for sentence in meaning(report))


def test_the_three_most_exposed_classes_are_named(make_report) -> None:
    report = make_report(class_names=("[red]a[/red]", "b", "c", "d", "e"))
    ranked = sorted(report.attacks[0].per_class[:4], key=lambda group: -group.auc.value)[:3]
    limits = [(group.auc_simultaneous.low, group.auc_simultaneous.high) for group in ranked]
    assert all(low < group.auc.low < group.auc.high < high for group, (low, high) in zip(ranked, limits, strict=True))
    expected = "; ".join(
        f"{group.class_name}: {group.auc.value:.2f} [{low:.2f},\u00a0{high:.2f}]"
        for group, (low, high) in zip(ranked, limits, strict=True)
    )

    title = "Most exposed classes (AUC of shokri, simultaneous intervals, largest lower limit first)"
    assert f"{title}: {expected}" in " ".join(_printed(report, width=250))


def test_nothing_measured_is_said_in_dashes(make_report) -> None:
    report = make_report(class_names=("only",), per_class=0)
    lines = _printed(report)

    assert "shokri" in lines[3]
    assert lines[3].split()[1:] == ["–"] * 6
    assert not any("Most exposed" in line for line in lines)
    assert lines[0] == "Leakage could not be measured"


def test_whether_more_shadow_models_would_help_is_said(report: AuditReport) -> None:
    found = [
        ConvergenceSection(points=(), gain=0.012, gain_low=0.003, verdict="still rising", reason=None),
        ConvergenceSection(points=(), gain=None, gain_low=None, verdict=None, reason="half are too few"),
    ]
    attacks = [each.model_copy(update={"convergence": own}) for each, own in zip(report.attacks, found, strict=True)]
    text = " ".join(_printed(report.model_copy(update={"attacks": tuple(attacks)}), width=400))
    assert "shokri still rising (AUC +0.012 from half of them to all)" in text
    assert "loss without a verdict (half are too few)" in text
    assert "more shadow models" not in " ".join(_printed(report, width=400))


def test_a_report_shows_itself_in_five_lines(report: AuditReport, make_report) -> None:
    for each in (report, make_report(class_names=("only",), per_class=0), make_report(num_targets=3)):
        assert len(repr(each).splitlines()) == 5
        assert str(each) == repr(each)
    headed = report.model_copy(update={"headline": "This audit cannot be trusted"})
    assert repr(headed).startswith("AuditReport: This audit cannot be trusted\n")
    best = max(report.attacks, key=lambda attack: attack.overall.auc.value)
    assert f"AUC {best.overall.auc.value:.3f} ({best.name})" in repr(report)
