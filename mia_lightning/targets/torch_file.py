"""Files that torch.save wrote, in its zip form or in the older one, read without running code of theirs."""

import struct
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from mia_lightning.targets.inert import Unpickler
from mia_lightning.targets.storages import DAMAGED, NotReadError, Storage, dtype_of

_MAGIC = 0x1950A86A20F9469CFC6C  # with which files of the older form begin
_VERSION = 1001  # of that form
_LOCAL_HEADER = 30  # bytes of a zip archive before the name of a record
_MOST_PICKLED = 2**26  # bytes of a pickle: names, numbers and text, no tensors; memory takes up to 100 times as much


def read_without_code(path: Path) -> Any:
    """What torch.save wrote to a file, in its zip form or in the older one; names of code are `Inert`.

    Raises:
        NotReadError: it is another file, or a damaged one.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_archive(path)
        if tarfile.is_tarfile(path):
            raise NotReadError("it has the form of torch before 0.1.10")
        return _read_sequence(path)
    except NotReadError:
        raise
    # A damaged pickle raises anything: IndexError, KeyError, struct.error, UnicodeDecodeError, RecursionError, ...
    except Exception as error:
        raise NotReadError(DAMAGED) from error


def _read_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: info for info in archive.infolist()}
    names = [name for name in records if name.rpartition("/")[2] == "data.pkl"]
    if any("/code/" in name or name.endswith("/constants.pkl") for name in records):
        raise NotReadError("it is a TorchScript program")
    if len(names) != 1:
        raise NotReadError("it is an archive that torch.save has not written")
    folder = names[0].removesuffix("data.pkl")
    held = np.memmap(path, mode="c")

    def record(name: str, most: int) -> "np.ndarray[Any, Any]":
        info = records.get(folder + name)
        if info is None or info.compress_type != zipfile.ZIP_STORED:
            raise NotReadError(f"it lacks its record {name[:40]}")
        if info.file_size > most:
            raise NotReadError(f"its record {name[:40]} has {info.file_size:,} bytes, more than {most:,}")
        begin = _begin(held, info.header_offset)
        return held[begin : begin + info.file_size]

    if f"{folder}byteorder" in records and bytes(record("byteorder", 16)) != b"little":
        raise NotReadError("it was written on a machine of the other byte order")
    storages: dict[str, Storage] = {}

    def storage(kind: object, key: str, location: object, count: int) -> Storage:
        if key not in storages:
            storages[key] = Storage(dtype_of(kind), record(f"data/{key}", len(held)))
        return storages[key].checked(dtype_of(kind), count)

    return Unpickler(BytesIO(bytes(record("data.pkl", _MOST_PICKLED))), storage).load()


def _begin(held: "np.ndarray[Any, Any]", header: int) -> int:
    """Where the bytes of a record begin: behind its header, whose name and extra field have lengths of their own."""
    name, extra = struct.unpack("<HH", bytes(held[header + 26 : header + 30]))
    return header + _LOCAL_HEADER + int(name) + int(extra)


def _read_sequence(path: Path) -> Any:
    """The older form: pickles one after the other, and then the storages, each with its length."""
    storages: dict[str, Storage] = {}

    def storage(kind: object, key: str, location: object, count: int, view: object = None) -> Storage:
        if view is not None:
            raise NotReadError("it holds views of storages, as torch before 0.4 wrote them")
        return storages.setdefault(key, Storage(dtype_of(kind)))

    with path.open("rb") as opened:
        file = _Bounded(opened)
        first = Unpickler(file, _no_storage).load()
        if type(first) is not int or first != _MAGIC:
            return first  # a plain pickle
        version, system = (Unpickler(file, _no_storage).load() for _ in range(2))
        if version != _VERSION or not isinstance(system, dict) or system.get("little_endian") is False:
            raise NotReadError("it was written by another version of torch, or on a machine of the other byte order")
        value = Unpickler(file, storage).load()
        keys = Unpickler(file, _no_storage).load()
        held, begin = np.memmap(path, mode="c"), opened.tell()
    for key in keys:
        made = storages.get(str(key)[:100]) or Storage(torch.uint8)
        (count,) = struct.unpack("<q", bytes(held[begin : begin + 8]))
        size = count * made.dtype.itemsize
        if count < 0 or begin + 8 + size > len(held):
            raise NotReadError("it is cut off")
        made.numbers = held[begin + 8 : begin + 8 + size]
        begin += 8 + size
    for made in storages.values():
        made.fill()
    return value


class _Bounded:
    """A file from which no more is read than pickles may take; a length in a pickle is not believed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, _MOST_PICKLED

    def read(self, count: int) -> bytes:
        return self._counted(self._file.read(min(count, self._left + 1)))

    def readline(self) -> bytes:
        return self._counted(self._file.readline(self._left + 1))

    def _counted(self, found: bytes) -> bytes:
        self._left -= len(found)
        if self._left < 0:
            raise NotReadError(f"its pickle has more than {_MOST_PICKLED:,} bytes")
        return found


def _no_storage(*_: object) -> "Storage":
    raise NotReadError("it holds tensors where torch.save writes none")
