"""Which reader a file of columns needs."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from mia_lightning.datasets.tables.columns import Columns
from mia_lightning.datasets.tables.json_lines import JsonLines, is_json_lines
from mia_lightning.datasets.tables.parquet import MARK, ParquetTable
from mia_lightning.datasets.tables.text import Table
from mia_lightning.errors import DataNotThereError, InputError


def read_table(file: Path, *, delimiter: str | None = None, aside: Collection[str] = (), **options: Any) -> Columns:
    """The columns of a file: parquet by its first bytes, JSON lines by its ending, else text as CSV.

    Args:
        file: of `dataset.path`.
        delimiter, aside: of CSV, as of `Table`.
        options: `encoding` and `mend` of text, as of `Table` and `JsonLines`.

    Raises:
        InputError: the file is absent, has no records, or as `ParquetTable`, `JsonLines` and `Table`.
    """
    if not file.is_file():
        raise DataNotThereError(f"'{file.absolute()}' is not a file: set dataset.path to the table")
    place = f"'{file.absolute()}'"
    with file.open("rb") as stream:
        is_parquet = stream.read(len(MARK)) == MARK
    if is_parquet:
        table: Columns = ParquetTable(file, place)
    elif is_json_lines(file):
        table = JsonLines(file, place, **options)
    else:
        table = Table(file, place, delimiter, aside=aside, **options)
    if not len(table):
        raise InputError(f"{place} has no records: give one line a record")
    return table
