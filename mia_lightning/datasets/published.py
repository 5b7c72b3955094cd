"""Published tables of bits: CSV without a header line, inside a .tgz or extracted from it, read as uint8."""

import gzip
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np

from mia_lightning.datasets.download import check_file, fetch
from mia_lightning.errors import InputError

_BLOCK = 1 << 20
_COMMA, _ZERO = ord(","), ord("0")
_DAMAGED = (gzip.BadGzipFile, zlib.error, EOFError, tarfile.TarError)


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form of a published file, one record a line: first the class, from 1, then the features, 0 or 1.

    Attributes:
        num_records: exact.
        num_features: 0 for a file of classes alone.
        num_classes: every class has a record; 0 for a file of features alone.
    """

    num_records: int
    num_features: int
    num_classes: int

    @property
    def num_columns(self) -> int:
        return self.num_features + (self.num_classes > 0)

    @property
    def longest_line(self) -> int:
        """Bytes, with every cell in quotes."""
        return 4 * self.num_features + 16

    @property
    def largest_file(self) -> int:
        """Bytes."""
        return self.num_records * self.longest_line

    def __str__(self) -> str:
        columns = [f"a class from 1 to {self.num_classes}"] if self.num_classes else []
        columns += [f"{self.num_features:,} binary features"] if self.num_features else []
        return f"{self.num_records:,} records of {' and '.join(columns)}"


class Table(NamedTuple):
    """The content of one file, in file order."""

    bit_NF: np.ndarray[Any, np.dtype[np.uint8]]
    """`[records, features]`, 0 or 1."""
    label_N: np.ndarray[Any, np.dtype[np.int64]]
    """From 0: one below the published class; zeros where the file has no classes."""


def read_published(
    *, root: str | Path, archive: str, url: str, checksum: str | None, forms: Mapping[str, Form]
) -> dict[str, Table]:
    """Every file that `forms` names, from the archive in `root`, or from the extracted files there.

    Nothing is extracted to disk: the archive is read once, as a stream, line by line, so that memory holds little more
    than one byte for each feature. An archive that was just downloaded and is not of the form is deleted.

    Args:
        root: the folder of the archive or of the extracted files (under their names in the archive); where it
            holds neither, the archive is downloaded into it.
        archive: its file name, a gzipped tar.
        url: of the archive.
        checksum: of the archive, `sha256:...` or `md5:...`; with None only the form is checked.
        forms: of the files to read, by their names in the archive.

    Raises:
        InputError: a file is missing, damaged or not of its form, or `fetch` or `check_file` refuses it.
    """
    folder = Path(root).expanduser()
    packed = folder / archive
    if not packed.exists() and all((folder / member).is_file() for member in forms):
        mend = f"delete it so that {archive} is downloaded again"
        return {member: _read_extracted(folder / member, form, mend) for member, form in forms.items()}
    if packed.exists():
        if checksum is not None:
            check_file(packed, checksum)
        return _read_archive(packed, forms, "delete the archive so that it is downloaded again")
    fetch(url, packed, checksum=checksum)
    mend = (
        f"the download from {url} was deleted, so set dataset.url to a mirror, or put the published {archive} into "
        f"'{folder.absolute()}' by hand"
    )
    try:
        return _read_archive(packed, forms, mend)
    except InputError:
        packed.unlink(missing_ok=True)
        raise


class _FormError(Exception):
    """A file is not of its form; the message is a clause that says what was found instead."""


def _read_extracted(path: Path, form: Form, mend: str) -> Table:
    try:
        with path.open("rb", buffering=_BLOCK) as handle:
            return _read_table(handle, form)
    except _FormError as found:
        raise InputError(f"'{path.absolute()}' is not the published file of {form} ({found}): {mend}") from None
    except OSError as error:
        raise InputError(f"'{path.absolute()}' cannot be read ({error}): make it readable") from error


def _read_archive(path: Path, forms: Mapping[str, Form], mend: str) -> dict[str, Table]:
    place = f"'{path.absolute()}'"
    tables: dict[str, Table] = {}
    try:
        with gzip.open(path) as stream:
            _read_members(stream, forms, tables, place, mend)
            _read_to_the_end(stream)  # gzip's checksum comes after the last byte
    except _FormError as found:
        raise InputError(f"{place} is not the published archive ({found}): {mend}") from None
    except _DAMAGED as error:
        raise InputError(f"{place} is truncated or altered ({error}): {mend}") from error
    except OSError as error:
        raise InputError(f"{place} cannot be read ({error}): make it a readable file, or delete it") from error
    missing = [member for member in forms if member not in tables]
    if missing:
        raise InputError(f"{place} is not the published archive (it holds no file {missing[0]!r}): {mend}")
    return tables


def _read_members(
    stream: gzip.GzipFile, forms: Mapping[str, Form], tables: dict[str, Table], place: str, mend: str
) -> None:
    """Fill in `tables` in the order of the archive; its other members are skipped."""
    largest = max(form.largest_file for form in forms.values())
    with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK) as tar:
        for member in tar:
            name = str(PurePosixPath(member.name))  # some archives have ./name
            form = forms.get(name)
            if member.size > (largest if form is None else form.largest_file):
                raise _FormError(f"{name!r} in it has {member.size:,} bytes")
            if form is None or name in tables:
                continue
            handle = tar.extractfile(member) if member.isfile() else None
            if handle is None:
                raise _FormError(f"{name!r} in it is a link or a folder, not a file")
            try:
                tables[name] = _read_table(handle, form)
            except _FormError as found:
                what = f"{name!r} in {place} is not the published file of {form}"
                raise InputError(f"{what} ({found}): {mend}") from None


def _read_to_the_end(stream: gzip.GzipFile) -> None:
    for _ in range(16):  # tar pads with some KiB of zeros
        if not stream.read(_BLOCK):
            return
    raise _FormError("it goes on after the end of the tar format")


def _read_table(handle: IO[bytes], form: Form) -> Table:
    bit_NF = np.empty((form.num_records, form.num_features), np.uint8)
    label_N = np.zeros(form.num_records, np.int64)
    classes = {str(c + 1).encode(): c for c in range(form.num_classes)}
    for n in range(form.num_records):
        line = handle.readline(form.longest_line + 1)
        if not line:
            raise _FormError(f"it has {n:,} records")
        if len(line) > form.longest_line:
            raise _FormError(f"line {n + 1} has over {form.longest_line:,} bytes")
        line = line.strip()
        if (columns := line.count(b",") + 1) != form.num_columns:
            raise _FormError(f"line {n + 1} has {columns:,} columns")
        if classes:
            cell, _, line = line.partition(b",")
            label_N[n] = _label(cell, classes, n)
        if form.num_features:
            bit_NF[n] = _bits(line, n, form.num_columns - form.num_features)
    if handle.read(_BLOCK).strip():
        raise _FormError(f"it has over {form.num_records:,} records")
    present = np.bincount(label_N, minlength=form.num_classes) > 0
    if form.num_classes and not present.all():
        raise _FormError(f"class {int(present.argmin()) + 1} has no record")
    return Table(bit_NF, label_N)


def _label(cell: bytes, classes: Mapping[bytes, int], n: int) -> int:
    label = classes.get(_bare(cell))
    if label is None:
        raise _FormError(f"line {n + 1}, column 1 has {_shown(cell)}, not a class from 1 to {len(classes)}")
    return label


def _bits(cells: bytes, n: int, columns_before: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The features of record n."""
    code = np.frombuffer(cells, np.uint8)
    if (code[1::2] == _COMMA).all():  # one digit a cell, as published
        bits = code[::2] - _ZERO  # what is below "0" wraps around
        if bits.max(initial=0) <= 1 and len(code) % 2:
            return bits
    each = cells.split(b",")
    for j, cell in enumerate(each):
        if _bare(cell) not in (b"0", b"1"):
            column = columns_before + j + 1
            raise _FormError(f"line {n + 1}, column {column:,} has {_shown(cell)}, not 0 or 1")
    return np.array([_bare(cell) == b"1" for cell in each], np.uint8)


def _bare(cell: bytes) -> bytes:
    return cell[1:-1] if len(cell) > 2 and cell.startswith(b'"') and cell.endswith(b'"') else cell


def _shown(cell: bytes) -> str:
    return repr(cell[:20].decode("ascii", "replace"))
