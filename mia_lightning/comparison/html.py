"""`comparison.html` and `index.html`: self-contained pages that load nothing from anywhere."""

from collections.abc import Mapping, Sequence

from jinja2 import Environment

from mia_lightning.comparison.matrix import defense_matrix
from mia_lightning.comparison.schema import FIGURES, ComparisonReport
from mia_lightning.reports.page.templates import base64_of, environment
from mia_lightning.reports.pictures import Picture
from mia_lightning.reports.words import moment, show, signed


def comparison_page(report: ComparisonReport, pictures: Mapping[str, Picture]) -> str:
    """The page for a comparison; `pictures` are by file name."""
    return (
        _environment()
        .get_template("comparison.html.jinja")
        .render(
            report=report,
            pictures=pictures.values(),
            figures=FIGURES,
            matrix=defense_matrix(report),
            has_queries=any(v.queries_per_record for v in report.variants),
            remarks=_remarks(report),
            bases=_bases(report),
        )
    )


def _remarks(report: ComparisonReport) -> dict[str, list[str]]:
    """What the reports of the variants warn of, each once, with the names of the variants."""
    remarks: dict[str, list[str]] = {}
    for variant in report.variants:
        for remark in variant.remarks:
            remarks.setdefault(remark, []).append(variant.name)
    return remarks


def _bases(report: ComparisonReport) -> dict[tuple[str, str], list[str]]:
    """What the intervals of differences are for, and what pairs them, with the names of the variants."""
    bases: dict[tuple[str, str], list[str]] = {}
    for pair in report.differences:
        bases.setdefault((pair.estimand, pair.pairing), []).append(pair.second)
    return bases


def index_page(comparisons: Sequence[tuple[str, ComparisonReport]]) -> str:
    """The page that lists comparisons; each comes with the path of its folder, relative to the page."""
    return _environment().get_template("index.html.jinja").render(comparisons=comparisons)


def _environment() -> Environment:
    templates = environment("mia_lightning.comparison", "mia_lightning.reports.page")
    templates.filters |= {"show": show, "signed": signed, "moment": moment, "base64": base64_of}
    return templates
