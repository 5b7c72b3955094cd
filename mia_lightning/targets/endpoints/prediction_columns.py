"""The columns of a file of predictions, parquet or CSV."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from mia_lightning.datasets.tables.text import Table
from mia_lightning.errors import InputError, first_line

_TEXT = re.compile(r"\.(csv|tsv)(\.(gz|bz2|xz|zst|zip))?$", re.IGNORECASE)


class PredictionColumns:
    """A parquet or CSV file of predictions, column by column."""

    def __init__(self, columns: Mapping[str, Any], text: Table | None) -> None:
        self._column_of, self._text = dict(columns), text

    @property
    def columns(self) -> list[str]:
        return list(self._column_of)

    def __len__(self) -> int:
        return len(next(iter(self._column_of.values()), ()))

    def kind(self, column: str) -> str:
        """The type of its values, for messages."""
        return str(self._column_of[column].type)

    def floats(self, column: str, *, is_strict: bool = False) -> np.ndarray[Any, Any] | None:
        """float64 `[lines]`; None where a value is no number.

        Raises:
            InputError: a value of a text file is missing or no number, and `is_strict`.
        """
        if self._text is None:
            array = self._column_of[column].to_numpy(zero_copy_only=False)
            return array.astype(np.float64) if array.dtype.kind in "fiu" else None
        try:
            return self._text.numbers(column)
        except InputError:
            if is_strict:
                raise
            return None

    def whole(self, column: str) -> np.ndarray[Any, Any] | None:
        """int64 `[lines]`; None where a value is no whole number."""
        values = self.floats(column)
        return values.astype(np.int64) if values is not None and (values % 1 == 0).all() else None

    def distinct(self, column: str) -> tuple[list[object], np.ndarray[Any, Any]]:
        """The distinct values, and the place of each line's among them."""
        encoded = pc.dictionary_encode(self._column_of[column])
        values: list[object] = encoded.dictionary.to_pylist()
        return values, encoded.indices.to_numpy()


def read_columns(path: Path, what: str) -> PredictionColumns:
    """The columns of a file.

    Args:
        what: the file, for messages.

    Raises:
        InputError: the file cannot be read, two columns have one name, or a parquet file lacks a value.
    """
    if not path.is_file():
        raise InputError(f"{what} is not a file; give a .parquet or .csv file of predictions.")
    try:
        if path.suffix.lower() == ".parquet":
            table = pa.parquet.ParquetFile(path).read()  # two columns may have one name
        elif _TEXT.search(path.name):
            text = Table(path, what)
            return PredictionColumns({name: text.text(name) for name in text.columns}, text)
        else:
            raise InputError(f"{what} ends in {path.suffix!r}; give a .parquet or .csv file.")
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{what} cannot be read ({first_line(error)}); write it anew as parquet, or as CSV with a header."
        ) from error
    for name, count in Counter(table.column_names).items():
        if count > 1:
            raise InputError(f"{what} has the column {name!r} {count} times; name each column differently.")
    for name in table.column_names:
        if table.column(name).null_count:
            line = table.column(name).is_null().to_pylist().index(True)
            raise InputError(f"{what} has no value for prediction {line} in column {name!r}; give all of them.")
    return PredictionColumns({name: table.column(name).combine_chunks() for name in table.column_names}, None)
