"""How the text of a file is had, whatever it is packed in and however it is encoded."""

import bz2
import codecs
import csv
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from mia_lightning.errors import InputError

_PACKED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": lambda file: pa.input_stream(str(file), compression="zstd"),
}
_FOREIGN = {b"\xd0\xcf\x11\xe0": "a workbook", b"PAR1": "a parquet file", b"\x89HDF": "an HDF5 file"}
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # byte order marks of UTF-16
ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")  # of what is packed
UNREADABLE = (OSError, EOFError, UnicodeError, csv.Error, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)


def opener(file: Path, place: str) -> Callable[[], BinaryIO]:
    """What opens the bytes of a text: gzip, bzip2, xz, Zstandard, a zip file of one file, or the file as it is.

    Args:
        file: which is there.
        place: its name in messages.

    Raises:
        InputError: it is known to be no text, or a zip file of several files.
        OSError: and the others of `UNREADABLE`: it cannot be read.
    """
    with file.open("rb") as handle:
        start = handle.read(8)
    for mark, what in _FOREIGN.items():
        if start.startswith(mark):
            raise InputError(f"{place} is {what} and no text: save the table as CSV in UTF-8")
    if start.startswith(b"PK\x03\x04"):
        return _opener_of_zip(file, place)
    for mark, unpacked in _PACKED.items():
        if start.startswith(mark):
            return lambda: cast(BinaryIO, unpacked(file))
    return lambda: file.open("rb")


def _opener_of_zip(file: Path, place: str) -> Callable[[], BinaryIO]:
    with zipfile.ZipFile(file) as archive:
        names = [each for each in archive.namelist() if not each.endswith("/") and "__MACOSX" not in each]
    if any(each in ("xl/workbook.xml", "xl/workbook.bin", "content.xml") for each in names):
        raise InputError(f"{place} is a workbook and no text: save the sheet as CSV in UTF-8")
    if len(names) != 1:
        raise InputError(f"{place} is a zip file of {len(names)} files: pack one table alone")
    return lambda: cast(BinaryIO, zipfile.ZipFile(file).open(names[0]))


def encoding_of(start: bytes, encoding: str | None) -> str:
    """The encoding of a text that begins with these bytes: the one that is said, else UTF-8, or UTF-16 with a mark.

    A byte order mark is no part of the text, whoever says the encoding.
    """
    if encoding is None:
        return "utf-16" if start.startswith(_WIDE) else "utf-8-sig"
    known = codecs.lookup(encoding).name
    is_wide = known.startswith("utf-16") and start.startswith(_WIDE)
    return "utf-16" if is_wide else "utf-8-sig" if known == "utf-8" else encoding
