"""What the runs of a sweep found, side by side: `sweep.parquet`, and the table that ends a sweep."""

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from mia_lightning.errors import InputError
from mia_lightning.store.atomic import write_whole
from mia_lightning.sweep.rows import STAGES, Row, own_settings
from mia_lightning.sweep.rows import summarise as summarise
from mia_lightning.terminal.amounts import show
from mia_lightning.terminal.tables import Columns, Sentence

TABLE = "sweep.parquet"
_ACCURACIES = ("train_accuracy", "test_accuracy", "generalization_gap")
FIGURES = ("auc", "tpr_at_fpr_0.001", "tpr_at_fpr_0.01", "advantage")
# Columns of the flat table that the file has, and what it calls them where that differs.
_OF_REPORT = (
    *("seed", "dataset", "num_records", "architecture", "plan", "defense", "attack", "adaptive", "num_members"),
    *("num_targets", "num_shadows", "shadow_train_size", "utility", *_ACCURACIES),
)
_RENAMED = {"num_members": "train_size"}
# Columns of the table on the terminal where names do not tell; what all runs have in common stands below.
_ABOUT = {
    "variant": "variant",
    "dataset": "data set",
    "architecture": "model",
    "plan": "plan",
    "seed": "seed",
    "defense": "defence",
    "num_members": "records",
    "num_targets": "targets",
    "num_shadows": "shadow models",
}
_NUMBERS = ("train", "test", "gap", "AUC", "TPR\nat\n0.1\u00a0%", "TPR\nat\n1\u00a0%", "TPR\n- FPR", "s")
_NESTED = ("found", "seconds")


def save_summary(rows: Sequence[Row], folder: Path) -> Path:
    """Write `sweep.parquet` into the sweep's folder, whole; its columns and types are the same for any rows.

    What is known of the run, then of its report, then each figure with `_low` and `_high`, then `seconds_<stage>`.

    Raises:
        InputError: the folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([pa.field(name, _arrow(kind)) for name, kind in _columns().items()])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([_flat(row) for row in rows], schema=schema), sink, compression="zstd")
    try:
        return write_whole(folder / TABLE, bytes(sink.getvalue()))
    except OSError as error:
        raise InputError(
            f"the summary of the sweep cannot be written ({error.strerror or error}: {folder / TABLE}); set "
            "hydra.sweep.dir to a folder that can."
        ) from error


def _columns() -> dict[str, Any]:
    """Types by name."""
    from mia_lightning.reports.rows import AttackRow, RunRow, with_limits

    of_report = {**RunRow.model_fields, **AttackRow.model_fields}
    return {
        **{each.name: each.type for each in fields(Row) if each.name not in _NESTED},
        **{_RENAMED.get(name, name): of_report[name].annotation for name in _OF_REPORT},
        "doubt": str,
        **dict.fromkeys(with_limits({}, FIGURES), float),
        **{f"seconds_{name}": float for name in STAGES},
    }


def _flat(row: Row) -> dict[str, Any]:
    """The row by the names of its columns; further ones do not count."""
    return {
        **vars(row),
        **{_RENAMED.get(name, name): value for name, value in row.found.items()},
        **{f"seconds_{name}": value for name, value in row.seconds.items()},
    }


def _arrow(kind: Any) -> Any:
    """The type of a column."""
    import pyarrow as pa

    bare = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
        tuple[str, ...]: pa.list_(pa.string()),
    }
    return next(found for given, found in bare.items() if kind in (given, given | None))


def render_rows(rows: Sequence[Row]) -> Group:
    """A line for each row, and below it what all runs have in common, where they lie, and why some have no figures.

    A run is named by its folder and the settings in which it differs from the others. A further column says what varies
    within a run, or between runs whose settings are not known. Says nothing by colour alone; undefined figures are
    dashes. Of the intervals it has that of the AUC; `sweep.parquet` has the others.
    """
    heads, cells, num_names = _table(rows)
    remarks = (Sentence(line) for line in _remarks(rows))
    return Group(Text("Sweep", "bold"), Columns(heads, cells, num_names), *remarks)


def sweep_markdown(rows: Sequence[Row]) -> str:
    """The same as Markdown."""
    from mia_lightning.reports.markdown import markdown, markdown_table

    heads, cells, num_names = _table(rows)
    remarks = "\n".join(f"- {markdown(line)}" for line in _remarks(rows))
    return f"## Sweep\n\n{markdown_table(heads, cells, num_names)}\n\n{remarks}\n"


def _table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], int]:
    """Heads, cells and the number of columns that are names."""
    reported = [row for row in rows if row.attack]
    names = run_names(rows)
    varied = [name for name in _ABOUT if _is_told(name, reported)]
    has_failed = any(row.exit_code != 0 for row in rows)
    cells, before = [], None
    for row in rows:
        is_next = (row.path, row.found.get("defense")) == before
        before = (row.path, row.found.get("defense"))
        exit_code = [_text(row.exit_code)] if has_failed else []
        about = [names[row.run], *exit_code, *(_text(_about(row, name)) for name in varied)]
        accuracies = [show(row.found.get(name)) for name in _ACCURACIES]
        cells.append(
            [
                *([""] * len(about) if is_next else about),
                _text(row.attack),
                *([""] * len(accuracies) if is_next else accuracies),
                _limited(row, "auc"),
                *(show(row.found.get(name)) for name in FIGURES[1:]),
                show(row.seconds.get("total"), 1),
            ]
        )
    heads = ["run", *(["exit"] if has_failed else []), *(_ABOUT[name] for name in varied), "attack"]
    return [*heads, *_NUMBERS], cells, len(heads)


def _is_told(name: str, rows: Sequence[Row]) -> bool:
    """Whether a column says what the names of the runs do not."""
    by_run: dict[str, set[object]] = {}
    for row in rows:
        by_run.setdefault(row.run, set()).add(_about(row, name))
    if any(len(found) > 1 for found in by_run.values()):
        return True
    own = own_settings({row.run: row.overrides for row in rows})
    values: dict[tuple[str, ...], set[object]] = {}
    for run, found in by_run.items():
        values.setdefault(own[run], set()).update(found)
    return any(len(found) > 1 for found in values.values())


def run_names(rows: Sequence[Row]) -> dict[str, str]:
    """Of each run its folder and the settings in which it differs from the others."""
    own = own_settings({row.run: row.overrides for row in rows})
    return {run: f"{run}: {' '.join(each)}" if each else run for run, each in own.items()}


def _remarks(rows: Sequence[Row]) -> list[str]:
    names = run_names(rows)
    doubts = {(row.run, row.variant): doubt for row in rows if (doubt := row.found.get("doubt"))}
    lines = [
        f"Run {names[run]}{f', {variant}' if variant else ''}: {doubt}; see its report."
        for (run, variant), doubt in doubts.items()
    ]
    reported = [row for row in rows if row.attack]
    if reported:
        first = reported[0]
        common = [name for name in _ABOUT if len({_about(row, name) for row in reported}) == 1]
        shared = [f"{_ABOUT[name]} {_about(first, name)}" for name in common if _about(first, name) is not None]
        lines.append("Brackets: 95\u00a0% intervals; s: seconds of the whole run.")
        if shared:
            lines.append(f"All runs: {', '.join(shared)}.")
    own = own_settings({row.run: row.overrides for row in rows})
    reasons = {}
    for row in rows:
        if row.reason is not None:
            name = f"{row.run}, {row.variant}" if row.variant else row.run
            reasons[f"{name} ({' '.join(own[row.run])})" if own[row.run] else name] = row.reason
    lines += [f"Run {name}: {reason}" for name, reason in reasons.items()]
    parents = list(dict.fromkeys(str(Path(row.path).parent) for row in rows if row.variant is None))
    return lines + [f"Results: {parent}" for parent in parents]


def _about(row: Row, name: str) -> object:
    return row.variant if name == "variant" else row.found.get(name)


def _text(value: object) -> str:
    return "–" if value is None else str(value)


def _limited(row: Row, name: str) -> str:
    """Value and interval, which is without leading zeros."""
    value, low, high = (row.found.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if low is None or high is None:
        return show(value)
    return f"{show(value)} " + re.sub(r"(?<=[\[,])0(?=\.)", "", f"[{show(low)},{show(high)}]")
