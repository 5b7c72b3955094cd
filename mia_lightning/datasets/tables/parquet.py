"""The columns of a parquet file as text."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from mia_lightning.datasets.tables.columns import TypedColumns
from mia_lightning.errors import InputError, first_line

MARK = b"PAR1"  # with which such a file begins


class ParquetTable(TypedColumns):
    """The columns of a parquet file, each as text when it is asked for; a null is the empty text.

    Args:
        file: which is there.
        place: its name in messages.

    Raises:
        InputError: the file cannot be read, or two columns have one name.
    """

    def __init__(self, file: Path, place: str) -> None:
        super().__init__(place)
        try:
            with file.open("rb") as stream:
                self._table = pyarrow.parquet.ParquetFile(stream).read()
        except (OSError, pa.ArrowException, ValueError) as error:
            raise InputError(
                f"{place} cannot be read as a parquet file ({first_line(error)}): write it again, or as CSV in UTF-8"
            ) from error
        self.columns = list(self._table.column_names)
        if not self.columns:
            raise InputError(f"{place} has no columns: give a table with one row a record")
        self._check_names(self.columns)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def line_of(self, record: int) -> str:
        return f"row {record}"

    def lists(self, column: str) -> list[list[Any] | str]:
        values = self._table[column]
        if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
            return super().lists(column)
        return ["" if each is None else each for each in values.to_pylist()]

    def has_dates(self, column: str) -> bool:
        return bool(pa.types.is_temporal(self._table[column].type))

    def _cells(self, column: str) -> Any:
        values = self._table[column].combine_chunks()
        try:
            return pc.cast(values, pa.string())
        except (pa.ArrowException, NotImplementedError) as error:
            raise InputError(
                f"column {column!r} of {self.place} holds {values.type}: give numbers or text, one a record, or "
                "leave the column out"
            ) from error
