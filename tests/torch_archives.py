"""Files of torch, written by hand."""

import collections
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

FORMS = pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "older"])


def save(value: object, path: Path, in_zip: bool) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=in_zip)


def archive(pickled: bytes, path: Path, **others: bytes) -> None:
    """A file in the form of torch.save around a pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", "little")
        for name, content in others.items():
            file.writestr(f"archive/{name.replace('__', '/')}", content)


def rebuilt(key: str, count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The pickle of a tensor that says of itself what it likes."""

    class Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, key, "cpu", count) if isinstance(value, io.BytesIO) else None

    class Told:
        def __reduce__(self) -> Any:
            arguments = (io.BytesIO(), offset, size, stride, False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    written = io.BytesIO()
    Pickler(written, 2).dump({"a": Told()})
    return written.getvalue()


def cut(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-2000])
