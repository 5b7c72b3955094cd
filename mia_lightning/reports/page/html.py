"""`report.html`: one self-contained page, opened from disk, that loads nothing from anywhere.

plotly.js, style and script are written into the page, and its content security policy refuses the network.
All text is escaped by jinja2; the figures travel as JSON in which `<` is escaped too.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from mia_lightning.metrics.figures import Figure
from mia_lightning.reports import findings
from mia_lightning.reports.curves import AttackCurves
from mia_lightning.reports.figures import roc_edge
from mia_lightning.reports.page.histograms import ScoreHistogram, score_histogram
from mia_lightning.reports.page.interactive import (
    Plot,
    convergence_plot,
    epsilon_plot,
    leakage_vs_gap_plot,
    precision_by_records_plot,
    precision_distribution_plot,
    precision_recall_plot,
    roc_plot,
    score_plot,
    training_plot,
)
from mia_lightning.reports.page.surest import surest
from mia_lightning.reports.page.templates import environment, plotly_javascript
from mia_lightning.reports.schema import AttackSection, AuditReport
from mia_lightning.reports.sections.threat_model import threat_sentences
from mia_lightning.terminal.amounts import duration, size

_PER_CLASS = ("precision", "precision_balanced", "recall", "accuracy", "advantage", "auc", "average_precision")
_NUM_NAMED = 8  # classes that stand beside a reason
_MAIN = ("precision", "recall", "accuracy", "auc", "average_precision")


def html_page(report: AuditReport, curves: Mapping[str, AttackCurves]) -> str:
    """The page for a report; `curves` has an entry for each attack's name."""
    templates = environment("mia_lightning.reports.page")
    templates.filters |= {
        "show": findings.show,
        "bracket": findings.bracket,
        "figure_title": findings.title,
        "percent": findings.percent,
        "attack_label": findings.label,
        "moment": _moment,
        "duration": duration,
        "size": size,
    }
    strongest = findings.strongest(report)
    histograms = _histograms(report)
    return templates.get_template("report.html.jinja").render(
        report=report,
        findings=findings,
        strongest=strongest,
        threats=threat_sentences(report),
        converging=[attack for attack in report.attacks if attack.convergence is not None],
        rates=_rates(report),
        estimands=list(dict.fromkeys(attack.estimand for attack in report.attacks)),
        further=_further(report),
        gaps={group.class_index: group for group in report.target.per_class},
        class_attacks=sorted(report.attacks, key=lambda attack: attack is not strongest),
        missing=[_missing(attack) for attack in report.attacks],
        missing_per_class={id(attack): _missing_per_class(attack) for attack in report.attacks},
        missing_per_group={id(attack): _missing_per_group(attack) for attack in report.attacks},
        identity=id,
        histograms=histograms,
        surest=surest(report),
        plots=_plots(report, curves, histograms),
        config=json.dumps(report.run.config, indent=2, default=str, ensure_ascii=False),
        plotly=plotly_javascript(),
    )


def _histograms(report: AuditReport) -> dict[int, ScoreHistogram]:
    """The histograms of scores by the place of their attack; none for a report that was read back."""
    if report.scores is None:
        return {}
    made = {place: score_histogram(report.scores, attack.name) for place, attack in enumerate(report.attacks)}
    return {place: histogram for place, histogram in made.items() if histogram is not None}


def _plots(
    report: AuditReport, curves: Mapping[str, AttackCurves], histograms: Mapping[int, ScoreHistogram]
) -> dict[str, Plot]:
    """The figures by the id of their place in the page."""
    plots = {
        f"precision-recall-{place}": precision_recall_plot(attack, curves[attack.name])
        for place, attack in enumerate(report.attacks)
        if curves[attack.name].overall is not None
    }
    if plots:
        plots["roc"] = roc_plot(report, curves, roc_edge(curves))
        plots["leakage-vs-gap"] = leakage_vs_gap_plot(report)
        plots["precision-by-class"] = precision_distribution_plot(report)
        plots["precision-by-records"] = precision_by_records_plot(report)
    plots |= {f"scores-{place}": score_plot(histogram) for place, histogram in histograms.items()}
    if report.privacy is not None and (report.privacy.lower or report.privacy.trials is not None):
        plots["epsilon"] = epsilon_plot(report.privacy)
    convergence = convergence_plot(report)
    if convergence["data"]:
        plots["convergence"] = convergence
    for place, stage in enumerate((report.training_curves or {}).values()):
        plots[f"training-{place}"] = training_plot(stage)
    return plots


def _rates(report: AuditReport) -> list[str]:
    """False-positive rates at which some attack has a figure; why the others have none stands below the table."""
    figures = [each for attack in report.attacks for each in attack.overall.tpr_at_fpr.items()]
    return list(dict.fromkeys(fpr for fpr, figure in figures if figure.value is not None or figure.low is not None))


def _further(report: AuditReport) -> list[str]:
    """Figures that the first table of attacks has no column for."""
    names = dict.fromkeys(name for attack in report.attacks for name in findings.figures_by_name(attack.overall))
    return [name for name in names if name not in _MAIN and not re.fullmatch(r"tpr_at_fpr_[\d.e-]+", name)]


def _missing(attack: AttackSection) -> list[tuple[str, str]]:
    return _reasons(findings.figures_by_name(attack.overall).items())


def _missing_per_class(attack: AttackSection) -> list[tuple[str, str]]:
    """Of the figures that the table of classes shows."""
    rows = []
    for group in attack.per_class:
        figures = findings.figures_by_name(group)
        rows.append((group.class_name, [(name, figures[name]) for name in _PER_CLASS]))
    return _missing_by_name(rows)


def _missing_per_group(attack: AttackSection) -> list[tuple[str, str]]:
    named = ((group.group_name, findings.figures_by_name(group)) for group in attack.per_group)
    return _missing_by_name((name, list(figures.items())) for name, figures in named)


def _missing_by_name(named: Iterable[tuple[str, Sequence[tuple[str, Figure]]]]) -> list[tuple[str, str]]:
    """(names, reason) for each reason why figures of classes or groups are null or to be read with caution."""
    reasons: dict[str, dict[str, None]] = {}
    for name, figures in named:
        for _, reason in _reasons(figures):
            reasons.setdefault(reason, {})[name] = None
    return [(_listed(list(names)), reason) for reason, names in reasons.items()]


def _listed(names: Sequence[str]) -> str:
    further = len(names) - _NUM_NAMED
    return ", ".join(names[:_NUM_NAMED]) + (f" and {further:,} more" if further > 0 else "")


def _reasons(figures: Iterable[tuple[str, Figure]]) -> list[tuple[str, str]]:
    return [(findings.title(name), figure.reason) for name, figure in figures if figure.reason]


def _moment(created: str) -> str:
    """An ISO 8601 time as a reader writes it; as it stands where it is not one."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
