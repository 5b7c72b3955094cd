"""`report.html`: one self-contained page, opened from disk, that loads nothing from anywhere.

plotly.js, style and script are written into the page, and its content security policy refuses the network.
All text is escaped by jinja2; the figures travel as JSON in which `<` is escaped too.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from jinja2 import Environment
from markupsafe import Markup, escape

from mia_lightning.metrics.figures import Figure
from mia_lightning.reports import selection, sentences, words
from mia_lightning.reports.curves import AttackCurves, roc_edge
from mia_lightning.reports.histograms import ScoreHistogram, score_histogram
from mia_lightning.reports.page.templates import environment, plotly_javascript
from mia_lightning.reports.plots import (
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
from mia_lightning.reports.rows import figures_by_name
from mia_lightning.reports.schema import AuditReport, ClassFigures, GroupFigures, TargetClass, TargetGroup
from mia_lightning.reports.sections import signed
from mia_lightning.reports.sections.records import highest_scores
from mia_lightning.reports.sections.structure import structure_sentences
from mia_lightning.reports.sections.threat_model import threat_sentences
from mia_lightning.terminal.amounts import duration, size

_PER_CLASS = ("precision", "precision_balanced", "recall", "accuracy", "advantage", "auc", "average_precision")
_NUM_SHOWN = 3  # attacks that are not folded
_NUM_NAMED = 8  # classes that stand beside a reason
_MAIN = ("precision", "recall", "accuracy", "auc", "average_precision")
# A class or a group: its name, its figures, and the accuracies of the target on it.
Part = tuple[str, ClassFigures | GroupFigures, TargetClass | TargetGroup]


def html_page(report: AuditReport, curves: Mapping[str, AttackCurves]) -> str:
    """The page for a report; `curves` has an entry for each attack's name."""
    of_class = {section.class_index: section for section in report.target.per_class}
    strongest = selection.strongest(report)
    histograms, ranked = _histograms(report), selection.by_strength(report)
    return (
        _templates()
        .get_template("report.html.jinja")
        .render(
            report=report,
            classes=lambda attack: [(each.class_name, each, of_class[each.class_index]) for each in attack.per_class],
            groups=lambda attack: [
                (each.group_name, each, of_target)
                for each, of_target in zip(attack.per_group, report.target.per_group, strict=True)
            ],
            sentences=sentences,
            signed=signed,
            strongest=strongest,
            worst_auc=selection.worst_auc(report),
            lowest_rate=dict(list(selection.worst_rates(report).items())[:1]),
            pairs=selection.knowledge_pairs(report),
            threats=threat_sentences(report),
            structure=structure_sentences(report.structure, report.dataset.values),
            converging=[attack for attack in report.attacks if attack.convergence is not None],
            rates=_rates(report),
            estimands=list(dict.fromkeys(map(words.about, report.attacks))),
            further=_further(report),
            ranked=ranked,
            parts=[part for part in (ranked[:_NUM_SHOWN], ranked[_NUM_SHOWN:]) if part],
            num_shown=_NUM_SHOWN,
            places={attack.name: place for place, attack in enumerate(report.attacks)},
            histograms=histograms,
            highest=highest_scores(report),
            plots=_plots(report, curves, histograms),
            config=json.dumps(report.run.config, indent=2, default=str, ensure_ascii=False),
            plotly=plotly_javascript(),
        )
    )


@cache
def _templates() -> Environment:
    templates = environment("mia_lightning.reports.page")
    templates.filters |= {
        "show": words.show,
        "significant": words.significant,
        "signed": words.signed,
        "bracket": words.bracket,
        "percent": words.percent,
        "figure_title": words.title,
        "rate_title": lambda rate: words.title(f"tpr_at_fpr_{rate}"),
        "attack_label": words.label,
        "figures": figures_by_name,
        "reasons": lambda attack: _reasons(figures_by_name(attack.overall).items()),
        "missing": _missing,
        "code": _code,
        "breakable": _breakable,
        "moment": words.moment,
        "duration": duration,
        "size": size,
    }
    return templates


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
    names = dict.fromkeys(name for attack in report.attacks for name in figures_by_name(attack.overall))
    return [name for name in names if name not in _MAIN and not re.fullmatch(r"tpr_at_fpr_[\d.e-]+", name)]


def _reasons(figures: Iterable[tuple[str, Figure]]) -> list[tuple[str, str]]:
    """Names of figures that are null or uncertain, each with the reason."""
    return [(words.title(name), figure.reason) for name, figure in figures if figure.reason]


def _missing(parts: Sequence[Part], what: str) -> list[tuple[str, str]]:
    """Names of the classes or groups with such figures in their table, for each reason."""
    reasons: dict[str, dict[str, None]] = {}
    for name, group, _ in parts:
        shown = [each for each in figures_by_name(group).items() if what == "group" or each[0] in _PER_CLASS]
        for _, reason in _reasons(shown):
            reasons.setdefault(reason, {})[name] = None
    return [(_listed(list(names)), reason) for reason, names in reasons.items()]


def _code(text: str) -> Markup:
    """Text in which what stands between backticks is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _breakable(name: str) -> Markup:
    """A name that may break behind its underscores."""
    return Markup(str(escape(name)).replace("_", "_<wbr>"))


def _listed(names: Sequence[str]) -> str:
    further = len(names) - _NUM_NAMED
    return ", ".join(names[:_NUM_NAMED]) + (f" and {further:,} more" if further > 0 else "")
