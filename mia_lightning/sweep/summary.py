"""What the runs of a sweep found, side by side: `sweep.parquet`, and the table that ends a sweep."""

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mia_lightning.errors import InputError
from mia_lightning.store.atomic import write_whole
from mia_lightning.sweep.rows import STAGES, Row
from mia_lightning.sweep.rows import summarise as summarise

TABLE = "sweep.parquet"
_ACCURACIES = ("train_accuracy", "test_accuracy", "generalization_gap")
FIGURES = ("auc", "tpr_at_fpr_0.001", "tpr_at_fpr_0.01", "advantage")
# Columns of the flat table that the file has, and what it calls them where that differs.
_OF_REPORT = (
    *("seed", "dataset", "num_records", "architecture", "plan", "defense", "attack", "adaptive", "num_members"),
    *("num_targets", "num_shadows", "shadow_train_size", *_ACCURACIES),
)
_RENAMED = {"num_members": "train_size"}
# Columns of the table on the terminal, left out where all runs have the same: it stands below then.
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
LONGEST_NAME = 12  # of an attack, that is not broken


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


def render_rows(rows: Sequence[Row]) -> Table:
    """A line for each row, and below it what all runs have in common, where they lie, and why some have no figures.

    Fits 80 columns while not more than two things vary; says nothing by colour alone; undefined figures are dashes. Of
    the intervals it has that of the AUC; `sweep.parquet` has the others.
    """
    table = Table(title="Sweep", title_justify="left", title_style="bold", caption_justify="left", caption_style="")
    table.box, table.pad_edge, table.padding = None, False, (0, 1, 0, 0)
    reported = [row for row in rows if row.attack]
    varied = [name for name in _ABOUT if len({_about(row, name) for row in reported}) > 1]
    has_failed = any(row.exit_code != 0 for row in rows)
    for name in ("run", *(("exit",) if has_failed else ()), *(_ABOUT[name] for name in varied), "attack"):
        table.add_column(name, overflow="fold")
    table.columns[-1].min_width = min(max((len(row.attack or "") for row in rows), default=0), LONGEST_NAME)
    for name in _NUMBERS:
        table.add_column(name, justify="right", vertical="top", no_wrap=True)
    before = None
    for row in rows:
        exit_code = (_text(row.exit_code),) if has_failed else ()
        about = (row.run, *exit_code, *(_text(_about(row, name)) for name in varied))
        is_next = (row.path, row.found.get("defense")) == before
        accuracies = [row.found.get(name) for name in _ACCURACIES]
        table.add_row(
            *(Text("" if is_next else each) for each in about),
            Text(_text(row.attack)),
            *("" if is_next else _show(value) for value in accuracies),
            _limited(row, "auc"),
            *(_show(row.found.get(name)) for name in FIGURES[1:]),
            _show(row.seconds.get("total"), 1),
        )
        before = (row.path, row.found.get("defense"))
    table.caption = Text("\n".join(_remarks(rows, [name for name in _ABOUT if name not in varied])))
    return table


def _remarks(rows: Sequence[Row], common: Sequence[str]) -> list[str]:
    lines = []
    first = next((row for row in rows if row.attack), None)
    if first is not None:
        shared = [f"{_ABOUT[name]} {_about(first, name)}" for name in common if _about(first, name) is not None]
        lines.append("Brackets: 95\u00a0% intervals; s: seconds of the whole run.")
        if shared:
            lines.append(f"All runs: {', '.join(shared)}.")
    shared_overrides = set.intersection(*(set(row.overrides) for row in rows)) if len(rows) > 1 else set()
    reasons = {}
    for row in rows:
        if row.reason is not None:
            own = " ".join(each for each in row.overrides if each not in shared_overrides)
            name = f"{row.run}, {row.variant}" if row.variant else row.run
            reasons[f"{name} ({own})" if own else name] = row.reason
    lines += [f"Run {name}: {reason}" for name, reason in reasons.items()]
    parents = list(dict.fromkeys(str(Path(row.path).parent) for row in rows if row.variant is None))
    return lines + [f"Results: {parent}" for parent in parents]


def _about(row: Row, name: str) -> object:
    return row.variant if name == "variant" else row.found.get(name)


def _text(value: object) -> str:
    return "–" if value is None else str(value)


def _show(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _limited(row: Row, name: str) -> str:
    """Value and interval, which is without leading zeros."""
    value, low, high = (row.found.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if low is None or high is None:
        return _show(value)
    return f"{_show(value)} " + re.sub(r"(?<=[\[,])0(?=\.)", "", f"[{_show(low)},{_show(high)}]")
