"""The files of a run: all of them are written whole, and `report.json` last."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mia_lightning.errors import InputError
from mia_lightning.membership import Membership
from mia_lightning.reports.cells import csv_of
from mia_lightning.reports.names import MEMBERS, PAGE, SCORES
from mia_lightning.reports.names import REPORT as REPORT
from mia_lightning.reports.reading import read_report as read_report
from mia_lightning.reports.rows import per_class_rows, per_group_rows
from mia_lightning.reports.schema import AuditReport
from mia_lightning.reports.sections.records import record_table
from mia_lightning.store.atomic import write_whole

VULNERABLE_RECORDS = "vulnerable_records.parquet"
PER_GROUP = "per_group.csv"
GATE, GATE_SCHEMA = "gate.json", "mia_lightning.gate/1"
PICTURES = tuple(f"figures/{name}.png" for name in ("precision_recall", "roc", "leakage_vs_gap"))
_OPTIONAL = (VULNERABLE_RECORDS, PER_GROUP, GATE, *PICTURES)  # which not every run writes


def save_report(report: AuditReport, folder: Path | str) -> list[Path]:
    """Write the results of an audit into `folder`, which is made where it is absent.

    `scores.parquet` (one row for each attack, target and record, with `record_name` where records have names),
    `per_class.csv` (one row for each attack and class), `per_group.csv` (likewise, where the records have groups),
    `vulnerable_records.parquet` (one row for each attack and record, where records are in some of several targets and
    out of others), `gate.json` (the verdict of the gate, if there is one), three PNGs in `figures/`, `report.html`
    (every figure, interactive, self-contained) and `report.json`. The `report.json` of an earlier run is removed first
    and the new one written last: where it stands, the other files are complete and belong to it.

    Returns:
        The files, in the order in which they were written.

    Raises:
        InputError: the report has no scores.
    """
    if report.scores is None:
        raise InputError(
            f"The report carries no scores, as one read back from {REPORT} does not; "
            "save the report that the audit returned."
        )
    # Heavy libraries are loaded only where there is something to draw.
    from mia_lightning.reports.curves import attack_curves
    from mia_lightning.reports.page.html import html_page
    from mia_lightning.reports.pictures import png_figures

    folder = Path(folder)
    for name in (REPORT, *_OPTIONAL):
        (folder / name).unlink(missing_ok=True)
    curves = {attack.name: attack_curves(report.scores, attack.name) for attack in report.attacks}
    classes = per_class_rows(report)
    of_classes = csv_of(classes) if classes else b"attack\n"
    contents = {SCORES: _parquet(report.scores.columns, report.record_names), "per_class.csv": of_classes}
    if groups := per_group_rows(report):
        contents[PER_GROUP] = csv_of(groups)
    records = record_table(report.attacks)
    if records is not None:
        contents[VULNERABLE_RECORDS] = _parquet(records, report.record_names)
    if report.gate is not None:
        contents[GATE] = json.dumps({"schema": GATE_SCHEMA, **report.gate.model_dump()}, indent=2).encode() + b"\n"
    contents |= png_figures(report, curves)
    contents[PAGE] = html_page(report, curves).encode()
    contents[REPORT] = report.model_dump_json(by_alias=True, indent=2).encode() + b"\n"
    return [write_whole(folder / name, content) for name, content in contents.items()]


def save_members(membership: Membership, folder: Path) -> None:
    """Write `members.csv`, the members (1) and non-members (0) of the target by their rows, for `membership.path`.

    Of several targets, which have members of their own each, nothing is written, and what an earlier run left is taken
    away. Rows that are reserved for validation or attacks are not listed.
    """
    path = folder / MEMBERS
    if membership.num_targets > 1:
        path.unlink(missing_ok=True)
        return
    member_N, listed_N = membership.member_KN[0], membership.scored_KN[0] | membership.member_KN[0]
    rows = listed_N.nonzero().squeeze(1)
    lines = [f"{row},{member}" for row, member in zip(rows.tolist(), member_N[rows].int().tolist(), strict=True)]
    write_whole(path, "\n".join(["row,member", *lines, ""]).encode())


def _parquet(columns: Mapping[str, np.ndarray[Any, Any]], record_names: Sequence[str]) -> bytes:
    """The columns as a table; `attack`, of few different names, as a dictionary; `record_name`, if there are names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    attack = pa.array(columns["attack"].tolist(), pa.string()).dictionary_encode()
    named = {}
    if record_names:
        of_record = pa.array(columns["record"], pa.int32())
        named["record_name"] = pa.DictionaryArray.from_arrays(of_record, pa.array(list(record_names), pa.string()))
    table = pa.table({**columns, "attack": attack, **named})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())
