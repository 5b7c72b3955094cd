"""The content of a TensorBoard event file.

| tab | content |
| --- | --- |
| scalars | `leakage/<attack>/<figure>`, `target/<figure>`, named as in wandb's summary |
| scalars | `<stage>/<loss>/{median,quantile_10,quantile_90}` over epochs, quantiles over models |
| custom scalars | the same losses, each as a band |
| PR curves | `precision_recall/<attack>/<class>`, and over `all records`, precision at 1:1 |
| hparams | the settings of the run beside its scalars, by which runs are compared |
| text | `config`; `headline`, `doubt` and `warnings`, to be read before the figures |
"""

import io
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mia_lightning.reports.curves import Array, PrecisionRecallCurve, attack_curves, bands, simplify
from mia_lightning.reports.rows import headline_scalars
from mia_lightning.reports.schema import AuditReport
from mia_lightning.reports.sentences import remarks

POINTS_PER_CURVE = 100
ALL_RECORDS = "all records"
# Sections of a configuration that say where a run writes and what it prints; they do not change what is measured.
NO_SETTINGS = ("logger", "store", "output", "estimate", "gate", "scales", "comparison", "experiments")


def events_of(report: AuditReport, config: Mapping[str, Any]) -> bytes:
    """The event file; a report without scores has no curves.

    Args:
        config: resolved; {} for a run from Python, whose settings are then taken from the report.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    file = io.BytesIO()
    records = RecordWriter(file)
    now = time.time()
    records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for step, summary in _summaries(report, config):
        records.write(Event(wall_time=now, step=step, summary=summary).SerializeToString())
    return file.getvalue()


def _summaries(report: AuditReport, config: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
    """The summaries, each with its step."""
    from torch.utils.tensorboard import summary

    scalars = headline_scalars(report)
    said = remarks(report)
    doubt = {name: said[name] for name in ("doubt",) if name in said}  # beside the figures by which runs are compared
    for each in summary.hparams((hyperparameters(config) or _settings(report)) | doubt, scalars):
        yield 0, each
    for name, value in scalars.items():
        yield 0, summary.scalar(name, value)
    if config:
        yield 0, summary.text("config", f"```json\n{json.dumps(config, indent=2, default=str)}\n```")
    for name, text in said.items():
        yield 0, summary.text(name, text)
    yield from _training(report)
    yield from _precision_recall(report)


def _training(report: AuditReport) -> Iterator[tuple[int, Any]]:
    from torch.utils.tensorboard import summary

    charts: dict[str, dict[str, list[Any]]] = {}
    for stage, training in (report.training_curves or {}).items():
        for loss, band in bands(training).items():
            name = f"{stage}/{loss}"
            quantiles = {"median": band.median, "quantile_10": band.low, "quantile_90": band.high}
            for quantile, values in quantiles.items():
                for epoch, value in zip(band.epoch.tolist(), values.tolist(), strict=True):
                    yield int(epoch), summary.scalar(f"{name}/{quantile}", value)
            charts.setdefault(stage, {})[name] = ["Margin", [f"{name}/{quantile}" for quantile in quantiles]]
    if charts:
        yield 0, summary.custom_scalars(charts)


def _precision_recall(report: AuditReport) -> Iterator[tuple[int, Any]]:
    """The curves of each attack: over all records, and for each class with members and non-members."""
    from torch.utils.tensorboard import summary

    scores = report.scores
    if scores is None:
        return
    for attack in dict.fromkeys(attack.name for attack in report.attacks):
        curves = attack_curves(scores, attack)
        rows = scores.attack == attack
        drawn = [] if curves.overall is None else [(ALL_RECORDS, rows, curves.overall)]
        for index, curve in curves.per_class.items():
            drawn.append((report.dataset.class_names[index], rows & scores.of_class(index), curve))
        for name, rows, curve in drawn:
            num_members = int(scores.is_member[rows].sum())
            hits, alarms, passed, missed, precision, recall = curve_points(
                curve, num_members, int(rows.sum()) - num_members
            )
            yield (
                0,
                summary.pr_curve_raw(
                    f"precision_recall/{attack}/{name}",
                    *(hits, alarms, passed, missed),
                    precision=precision,
                    recall=recall,
                    num_thresholds=len(recall),
                ),
            )


def curve_points(curve: PrecisionRecallCurve, num_members: int, num_nonmembers: int) -> Array:
    """True positives, false positives, true negatives, false negatives, precision at 1:1 and recall: `[6, F]`.

    There are 2 to 100 thresholds, the ends among them. They ascend, so that recall descends, as TensorBoard expects.
    The counts are those of the records, whatever the ratio of members to non-members.
    """
    kept = simplify(curve.recall, curve.precision_balanced, POINTS_PER_CURVE)[::-1]
    if len(kept) == 1:
        kept = np.repeat(kept, 2)
    recall, precision = curve.recall[kept], curve.precision_balanced[kept]
    hits = recall * num_members
    alarms = hits / curve.precision[kept] - hits
    return np.stack([hits, alarms, num_nonmembers - alarms, num_members - hits, precision, recall])


def hyperparameters(config: Mapping[str, Any], before: str = "") -> dict[str, str | int | float | bool]:
    """Settings by their names on the command line, without those that are null; lists are JSON."""
    found: dict[str, str | int | float | bool] = {}
    for name, value in config.items():
        place = f"{before}{name}"
        if place in NO_SETTINGS or value is None:
            continue
        if isinstance(value, Mapping):
            found |= hyperparameters(value, f"{place}.")
        else:
            found[place] = value if isinstance(value, str | int | float | bool) else json.dumps(value, default=str)
    return found


def _settings(report: AuditReport) -> dict[str, str | int | float | bool]:
    return {
        "seed": report.run.seed,
        "dataset.name": report.dataset.name,
        "membership": report.membership.plan,
        "model": report.target.architecture,
        "shadow.count": report.shadow.count,
    }
