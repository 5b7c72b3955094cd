"""The content of a wandb run.

| key | content |
| --- | --- |
| `headline`, `doubt`, `warnings` | summary texts, to be read before the figures |
| `leakage/<attack>/<figure>`, `target/<figure>` | summary scalars, for comparing runs |
| `precision_recall/curves` | table: attack, class, recall, precision, precision_balanced |
| `precision_recall/<attack>` | line series: mean over classes and the ten most exposed classes |
| `precision_recall/<attack>/by_class` | plotly figure with a menu of classes |
| `roc`, `leakage_vs_gap` | plotly figures |
| `per_class` | table: one row for each attack and class |
| `exposed_records` | table: the flagged members of highest score under each attack, with pictures if they are images |
| `scores/<attack>/{members,nonmembers}` | histograms, on the same bins |
| `<stage>/<loss>/{median,quantile_10,quantile_90}` | history over `<stage>/epoch`, quantiles over models |
| `<stage>/training` | plotly figure of the same bands |
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from mia_lightning.loggers.wandb_experiment import fitting
from mia_lightning.reports.curves import (
    AttackCurves,
    PrecisionRecallCurve,
    attack_curves,
    bands,
    precision_at_recalls,
    roc_edge,
    simplify,
)
from mia_lightning.reports.plots import (
    Plot,
    coloured,
    leakage_vs_gap_plot,
    precision_recall_plot,
    roc_plot,
    training_plot,
    with_class_menu,
)
from mia_lightning.reports.rows import headline_scalars, per_class_rows
from mia_lightning.reports.schema import AttackSection, AuditReport
from mia_lightning.reports.scores import Scores, TrainingCurves
from mia_lightning.reports.sections.records import MOST_FLAGGED, FlaggedMember, flagged_members
from mia_lightning.reports.selection import most_exposed
from mia_lightning.reports.sentences import remarks

if TYPE_CHECKING:
    import wandb

MAX_ROWS = 10_000  # wandb truncates a longer table without an error
POINTS_PER_CURVE = 100
NUM_EXPOSED = 10
NUM_BINS = 64  # up to which wandb stores a histogram unchanged
ALL_RECORDS = "all records"


def log_report(run: "wandb.Run", report: AuditReport) -> None:
    """Log everything in the table above; a report without scores has no curves."""
    for stage, training in (report.training_curves or {}).items():
        _log_training(run, stage, training)
    media: dict[str, Any] = {"per_class": _per_class_table(report)}
    if report.scores is not None:
        names = dict.fromkeys(attack.name for attack in report.attacks)
        media |= _curves(report, {name: attack_curves(report.scores, name) for name in names})
        media |= {"exposed_records": _exposed_table(report), **_histograms(report.scores, list(names))}
    run.log(media)
    run.summary.update({**remarks(report), **headline_scalars(report)})
    run.tags = tuple(fitting([*(run.tags or ()), report.dataset.name, report.target.architecture]))


def curve_rows(report: AuditReport, curves: Mapping[str, AttackCurves]) -> list[list[str | float]]:
    """Points of the curves as rows (attack, class, recall, precision, precision at 1:1), at most 10,000 in all.

    Every curve gets the same number of points, its ends among them. If there are too many curves for two points each,
    those of the least exposed classes are left out.
    """
    drawn: list[tuple[str, str, PrecisionRecallCurve]] = []
    for attack in report.attacks:
        overall = curves[attack.name].overall
        if overall is not None:
            drawn.append((attack.name, ALL_RECORDS, overall))
    by_exposure = [(group.auc.value or 0.0, attack.name, group) for attack in report.attacks
                   for group in most_exposed(attack)]  # fmt: skip
    for _, name, group in sorted(by_exposure, key=lambda entry: -entry[0]):
        if (curve := curves[name].per_class.get(group.class_index)) is not None:
            drawn.append((name, group.class_name, curve))
    drawn = drawn[: MAX_ROWS // 2]
    budget = min(POINTS_PER_CURVE, MAX_ROWS // max(len(drawn), 1))
    rows: list[list[str | float]] = []
    for name, class_name, curve in drawn:
        for point in simplify(curve.recall, curve.precision_balanced, budget):
            values = (curve.recall[point], curve.precision[point], curve.precision_balanced[point])
            rows.append([name, class_name, *(float(value) for value in values)])
    return rows


def _curves(report: AuditReport, curves: Mapping[str, AttackCurves]) -> dict[str, Any]:
    import wandb

    columns: list[str | int] = ["attack", "class", "recall", "precision", "precision_balanced"]
    media: dict[str, Any] = {"precision_recall/curves": wandb.Table(columns=columns, data=curve_rows(report, curves))}
    drawn = [attack for attack in report.attacks if curves[attack.name].overall is not None]
    for attack in drawn:
        plot = with_class_menu(precision_recall_plot(attack, curves[attack.name]), attack, report.task.strata_name)
        media[f"precision_recall/{attack.name}/by_class"] = _plotly(plot)
        if curves[attack.name].per_class:
            media[f"precision_recall/{attack.name}"] = _line_series(
                attack, curves[attack.name], report.task.strata_name
            )
    if drawn:
        media["roc"] = _plotly(roc_plot(report, curves, roc_edge(curves)))
        media["leakage_vs_gap"] = _plotly(leakage_vs_gap_plot(report))
    return media


def _line_series(attack: AttackSection, curves: AttackCurves, strata: str) -> Any:
    """Precision at 1:1 over a grid of recall: the mean over classes, and the most exposed classes."""
    import wandb

    recall_F = np.linspace(0.01, 1.0, POINTS_PER_CURVE)
    by_class = {index: precision_at_recalls(curve, recall_F) for index, curve in curves.per_class.items()}
    lines = {f"mean over {strata}": np.mean(list(by_class.values()), axis=0)}
    for group in most_exposed(attack, NUM_EXPOSED):
        lines[group.class_name] = by_class[group.class_index]
    return wandb.plot.line_series(
        xs=[recall_F.tolist() for _ in lines],
        ys=[line.tolist() for line in lines.values()],
        keys=list(lines),
        title=f"{attack.name}: precision at 1:1",
        xname="recall",
    )


def _per_class_table(report: AuditReport) -> Any:
    import wandb

    rows = sorted(per_class_rows(report), key=lambda row: -(row["auc"] or 0.0))[:MAX_ROWS]
    columns: list[str | int] = list(rows[0]) if rows else ["attack"]
    return wandb.Table(columns=columns, data=[list(row.values()) for row in rows])


def _exposed_table(report: AuditReport) -> Any:
    import wandb

    held = [field.name for field in fields(FlaggedMember) if report.record_names or field.name != "record_name"]
    columns: list[str | int] = list(held)
    found = flagged_members(report, min(MOST_FLAGGED, MAX_ROWS // max(len(report.attacks), 1)))
    rows = [[getattr(each, name) for name in held] for each in found]
    if report.pictures is not None:
        columns.append("picture")
        drawn = {record: wandb.Image(image) for record, image in report.pictures.items()}
        rows = [[*row, drawn[each.record]] for row, each in zip(rows, found, strict=True)]
    return wandb.Table(columns=columns, data=rows)


def _histograms(scores: Scores, names: Sequence[str]) -> dict[str, Any]:
    """Histograms of the finite scores of members and of non-members, in the same bins."""
    import wandb

    drawn = {}
    for name in names:
        is_own = (scores.attack == name) & np.isfinite(scores.score)
        if not is_own.any():
            continue
        edges = np.histogram_bin_edges(scores.score[is_own], bins=NUM_BINS)
        for side, is_side in (("members", scores.is_member), ("nonmembers", ~scores.is_member)):
            counted = np.histogram(scores.score[is_own & is_side], bins=edges)
            drawn[f"scores/{name}/{side}"] = wandb.Histogram(np_histogram=counted)
    return drawn


def _log_training(run: "wandb.Run", stage: str, training: TrainingCurves) -> None:
    run.define_metric(f"{stage}/epoch", hidden=True)
    rows: dict[float, dict[str, float]] = {}
    for name, band in bands(training).items():
        run.define_metric(f"{stage}/{name}/*", step_metric=f"{stage}/epoch")
        quantiles = {"median": band.median, "quantile_10": band.low, "quantile_90": band.high}
        for quantile, values in quantiles.items():
            for epoch, value in zip(band.epoch.tolist(), values.tolist(), strict=True):
                rows.setdefault(epoch, {})[f"{stage}/{name}/{quantile}"] = value
    for epoch in sorted(rows):
        run.log({f"{stage}/epoch": int(epoch), **rows[epoch]})
    run.log({f"{stage}/training": _plotly(training_plot(training))})


def _plotly(plot: Plot) -> Any:
    import plotly.graph_objects as go
    import wandb

    return wandb.Plotly(go.Figure(coloured(plot)))
