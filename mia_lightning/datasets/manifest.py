"""A table that lists the files of records, one a row."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mia_lightning.datasets.csv import _distinct as distinct
from mia_lightning.datasets.csv import _number as number_of
from mia_lightning.datasets.csv import _require as require
from mia_lightning.datasets.csv import _truth as truth
from mia_lightning.datasets.doubts import check_classes
from mia_lightning.datasets.json_lines import JsonLines, is_json_lines
from mia_lightning.datasets.table import Table
from mia_lightning.errors import DataNotThereError, InputError


@dataclass(frozen=True, eq=False, kw_only=True)
class Manifest:
    """The rows of such a table.

    Attributes:
        paths: of the files, as the table has them.
        names: one for each record.
        label_N: int64.
        class_names: in the order of the labels.
        member_N: bool, or None.
        group_N: int64 into `group_names`, or None.
        group_names: None without groups.
    """

    paths: tuple[str, ...]
    names: tuple[str, ...]
    label_N: np.ndarray[Any, Any]
    class_names: list[str]
    member_N: np.ndarray[Any, Any] | None
    group_N: np.ndarray[Any, Any] | None
    group_names: list[str] | None


def read_manifest(file: Path, path_column: str, columns: Mapping[str, str | None]) -> Manifest:
    """The rows of a table in CSV, or in JSON lines.

    Args:
        file: of the table.
        path_column: with the paths of the files.
        columns: the columns of `label`, `id`, `member` and `group`, as far as there are such.

    Raises:
        InputError: the file is no such table, has no label, a column is unknown, or a value is missing.
    """
    if not file.is_file():
        raise DataNotThereError(f"'{file}' is not a file: set dataset.path to the table that lists the files")
    table = JsonLines(file, f"'{file}'") if is_json_lines(file) else Table(file, f"'{file}'")
    label = columns["label"]
    if label is None:
        raise InputError(
            f"`dataset.label_column` is null; it must name the column of {table.place} that holds the classes."
        )
    for what, column in {"path": path_column, **columns}.items():
        if column is not None:
            require(table, column, f"{what}_column")
    paths = tuple(table.text(path_column).to_pylist())
    if "" in paths:
        raise table.refusal(path_column, bool, "give each record the path of its file, or leave the record out")
    class_names, label_N = distinct(table, label, "label")
    of_classes = [number if math.isfinite(number := number_of(each)) else None for each in class_names]
    check_classes(of_classes, label_N, f"column {label!r} of {table.place}")
    group, member, identifier = columns.get("group"), columns.get("member"), columns.get("id")
    group_names, group_N = (None, None) if group is None else distinct(table, group, "group")
    return Manifest(
        paths=paths,
        names=paths if identifier is None else tuple(table.text(identifier).to_pylist()),
        label_N=label_N,
        class_names=class_names,
        member_N=None if member is None else truth(table, member),
        group_N=group_N,
        group_names=group_names,
    )
