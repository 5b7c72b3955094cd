"""Membership from a file of rows, a mask or indices."""

import csv
import difflib
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mia_lightning.errors import InputError, first_line

_HEADERS = ("file", "path", "name", "id")  # of a column of names of records


def read_members(path: Path, num_records: int, record_names: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
    """Members, and records listed as member or non-member, as bool masks `[N]`, from a file (see `Given.path`).

    Args:
        record_names: of all records, paths within a folder, by which the file may name them; () for none.

    Raises:
        InputError: the file is not there, is of no known form, names a row twice or outside the population, or has a
            name of no record or of several.
    """
    origin = f"`membership.path` {path}"
    if not path.is_file():
        raise InputError(f"{origin} is not a file; give a .npy mask or a .csv of row numbers.")
    if path.suffix == ".npy":
        return from_mask_or_rows(_load_array(path, origin), num_records, origin)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file)]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(f"{origin} is not text ({error}); give a .npy mask or a .csv of row numbers.") from error
    lines = [line for line in lines if any(line)]
    has_names = bool(record_names and lines) and _names_records(lines[0])
    if has_names or (lines and lines[0] in (["row"], ["row", "member"])):
        header, lines = lines[0], lines[1:]
    else:
        header = ["row"]
        has_names = bool(record_names) and not all(line[0].isdecimal() for line in lines)
        if not has_names and any(map(str.isdecimal, record_names)):
            raise InputError(
                f"{origin} lists numbers without a header, but numbers are also names of the records; begin it with "
                "the header `id` for names, or `row` for numbers of rows from 0."
            )
    if has_names:
        number_of = _Numbers(record_names, origin, may_be_header=lines[0][0] if header == ["row"] else None)
        lines = [[str(number_of(line[0])), *line[1:]] for line in lines]
    if not record_names and lines and _names_records(lines[0]):
        raise InputError(
            f"{origin} lists names under the header {','.join(lines[0])}, but the records have none; name the column "
            "that holds them (dataset.id_column), or list numbers of rows under the header row."
        )
    for number, line in enumerate(lines, start=1):
        if len(line) != len(header) or not all(cell.isdecimal() for cell in line) or line[1:] not in ([], ["0"], ["1"]):
            raise InputError(
                f"{origin} has {','.join(line)!r} as its entry {number}; expected {','.join(header)}, the row a number "
                "from 0 and the member 0 or 1 (a header `row` or `row,member` may come first)."
            )
    row_M = torch.from_numpy(_whole([int(line[0]) for line in lines], num_records, origin))
    listed_or_member, _ = from_mask_or_rows(row_M, num_records, origin)
    if len(header) == 1:
        return listed_or_member, torch.ones(num_records, dtype=torch.bool)
    is_member_M = torch.tensor([line[1] == "1" for line in lines], dtype=torch.bool)
    return torch.zeros(num_records, dtype=torch.bool).index_fill(0, row_M[is_member_M], True), listed_or_member


def _names_records(header: list[str]) -> bool:
    """Whether a first line says that names of records follow: by a word for one, or as that of some column."""
    return (header[0].casefold() in _HEADERS and header[1:] in ([], ["member"])) or (
        header[0] != "row" and header[1:] == ["member"]
    )


class _Numbers:
    """The numbers of records by their names: a whole name, or else the last parts of a path.

    Args:
        may_be_header: the first entry of a file without a header that is known.
    """

    def __init__(self, record_names: Sequence[str], origin: str, may_be_header: str | None) -> None:
        self._names, self._origin, self._may_be_header = record_names, origin, may_be_header
        self._exact: dict[str, list[int]] = defaultdict(list)
        for number, name in enumerate(record_names):
            self._exact[name].append(number)
        self._numbers_of: dict[str, list[int]] = defaultdict(list)
        for number, name in enumerate(record_names):
            self._numbers_of[PurePosixPath(name).name].append(number)

    def __call__(self, name: str) -> int:
        if len(exact := self._exact.get(name, [])) == 1:
            return exact[0]
        parts = PurePosixPath(name.replace("\\", "/")).parts
        alike = self._numbers_of.get(parts[-1], []) if parts else []
        found = [number for number in alike if _ends_alike(PurePosixPath(self._names[number]).parts, parts)]
        if len(found) == 1:
            return found[0]
        if found:
            few = ", ".join(self._names[number] for number in found[:3])
            raise InputError(f"{self._origin} names {name!r}, which may be {few}; write the path below the data set.")
        near = difflib.get_close_matches(name, self._names, n=1)
        raise InputError(
            f"{self._origin} names {name!r}, which is none of the {len(self._names)} records"
            f"{f' (did you mean {near[0]!r}?)' if near else ''}; write their names as the data set has them, of files "
            "the paths below it, or the file names"
            + ("; a header before them is `id`, or `id,member`." if name == self._may_be_header else ".")
        )


def _ends_alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether the shorter of two paths is the end of the longer one."""
    num = min(len(one), len(other))
    return one[-num:] == other[-num:]


def from_mask_or_rows(values: Any, num_records: int, origin: str) -> tuple[Tensor, Tensor]:
    """Members, and all records, as bool masks `[N]`, from a bool mask or the members' row numbers.

    Args:
        values: anything that numpy can turn into an array; not changed.
        origin: its name in error messages.

    Raises:
        InputError: neither a mask of N nor distinct whole numbers in [0, N).
    """
    try:
        array = np.atleast_1d(np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values))
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{origin} is no array ({first_line(error)}); give a bool mask or whole row numbers."
        ) from error
    every = torch.ones(num_records, dtype=torch.bool)
    if array.dtype == np.bool_:
        if array.shape != (num_records,):
            raise InputError(
                f"{origin} is a mask of shape {list(array.shape)}; it must be [{num_records}], one for each record."
            )
        return torch.from_numpy(array.copy()), every
    if (array.size and array.dtype.kind not in "iu") or array.ndim != 1:
        raise InputError(
            f"{origin} has type {array.dtype} and shape {list(array.shape)}; give a bool mask or whole row numbers."
        )
    count_N = torch.bincount(torch.from_numpy(_whole(array.tolist(), num_records, origin)), minlength=num_records)
    if bool((count_N > 1).any()):
        raise InputError(
            f"{origin} names row {int((count_N > 1).nonzero()[0])} more than once; name each row once (a mask has "
            "type bool)."
        )
    return count_N > 0, every


def _whole(rows: list[int], num_records: int, origin: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The row numbers as int64; they are compared as Python integers, which cannot overflow."""
    outside = [row for row in rows if not 0 <= row < num_records]
    if outside:
        raise InputError(f"{origin} names row {outside[0]}; rows go from 0 to {num_records - 1}.")
    return np.array(rows, dtype=np.int64)


def _load_array(path: Path, origin: str) -> np.ndarray[Any, Any]:
    try:
        with path.open("rb") as file:  # numpy leaves a damaged archive open
            array = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{origin} cannot be read as a numpy array ({first_line(error)}); write it with numpy.save."
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"{origin} is an archive of several arrays; write one array with numpy.save.")
    return array
