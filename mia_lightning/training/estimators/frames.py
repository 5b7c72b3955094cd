"""Records as estimators take them: a matrix of numbers, or a table with names of columns. No torch, so that the
processes of the pool start quickly."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_LARGEST = 8  # files that a process keeps open


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns of a record.

    Attributes:
        numbers: names of the columns of numbers; () where the record is a plain matrix.
        categories: the name of each column of categories, with the names of its codes; () where the codes have none.
    """

    numbers: tuple[str, ...] = ()
    categories: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def is_table(self) -> bool:
        """Whether columns have names."""
        return bool(self.numbers or self.categories)

    @property
    def columns(self) -> list[str]:
        """All names, in order."""
        return [*self.numbers, *(name for name, _ in self.categories)]


@dataclass(frozen=True, kw_only=True)
class RecordFiles:
    """N records in files that all processes map into memory.

    Attributes:
        folder: with `numbers.npy`, float32 `[N, F]`, and of a table with categories `codes.npy`, int64 `[N, M]`.
        layout: of its columns.
    """

    folder: str
    layout: Layout

    @classmethod
    def write(cls, folder: Path, layout: Layout, numbers_NF: Array, codes_NM: Array | None = None) -> "RecordFiles":
        """The records, written to an empty folder."""
        folder.mkdir(parents=True)
        np.save(folder / "numbers.npy", np.ascontiguousarray(numbers_NF, np.float32))
        if codes_NM is not None:
            np.save(folder / "codes.npy", np.ascontiguousarray(codes_NM, np.int64))
        return cls(folder=str(folder), layout=layout)

    def rows(self, index_B: Array) -> Any:
        """The records of these numbers: float32 `[B, F]`, or a table with a column for each name.

        A table is a pandas DataFrame where pandas is installed, else an array of objects. Categories are texts, and
        what is missing is NaN, as in a table that pandas reads.
        """
        numbers_BF = np.array(_mapped(f"{self.folder}/numbers.npy")[index_B])
        has_codes = bool(self.layout.categories)
        return as_given(self.layout, numbers_BF, _mapped(f"{self.folder}/codes.npy")[index_B] if has_codes else None)


def as_given(layout: Layout, numbers_BF: Array, codes_BM: Array | None) -> Any:
    """Records as `RecordFiles.rows` gives them."""
    if not layout.is_table:
        return numbers_BF
    texts: list[Array] = []
    if codes_BM is not None:
        texts = [_texts(codes_BM[:, m], names) for m, (_, names) in enumerate(layout.categories)]
    return _table(layout.columns, [*numbers_BF.T, *texts])


def _texts(code_B: Array, names: Sequence[str]) -> Array:
    """The names of codes, as an array of objects: NaN for the empty one, that of a gap; without names, the numbers."""
    if not names:
        return np.array([str(code) for code in code_B.tolist()], object)
    return np.array([name or np.nan for name in names], object)[code_B]


def _table(columns: Sequence[str], values: Sequence[Array]) -> Any:
    try:
        import pandas
    except ImportError:
        table = np.empty((len(values[0]), len(columns)), object)
        for place, value_B in enumerate(values):
            table[:, place] = value_B
        return table
    return pandas.DataFrame(dict(zip(columns, values, strict=True)), columns=[*columns])


@lru_cache(_LARGEST)
def _mapped(path: str) -> Array:
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]  # of numpy
