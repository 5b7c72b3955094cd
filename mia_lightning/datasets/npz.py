"""Records from a numpy archive, or from a folder of numpy arrays; large arrays stay on disk."""

import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import MinLen

from mia_lightning.datasets.fields import KindsSetting
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.datasets.scaling import PerChannel, per_channel
from mia_lightning.errors import DataNotThereError, InputError, first_line
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import FromList, Name, PathLike
from mia_lightning.settings.words import Words
from mia_lightning.tasks.interface import LabelTask

# Arrays of an archive that are at least this large are mapped into memory; smaller ones are read and their checksum
# verified.
_MAPPED_BYTES = 2**28
# The fields of a zip file before the name of a member; the last two are the lengths of the name and the extra field.
_LOCAL_HEADER = "<4s5H3L2H"

Keys = Annotated[Name | Annotated[Sequence[Name], FromList, MinLen(1)], Words("a name, or a list of names")]


@checked("dataset")
def load_npz(
    *,
    path: PathLike,
    x_key: Keys = "x",
    kinds: KindsSetting | None = None,
    label_key: Name = "label",
    member_key: Name | None = None,
    group_key: Name | None = None,
    name: Name | None = None,
    scale: float | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    class_names: Annotated[Sequence[Name], FromList] | None = None,
    task: LabelTask | None = None,
) -> Population:
    """The records of an `.npz` file, as `numpy.savez(path, x=..., label=...)` writes it, or of a folder with a file
    `x.npy` and others, as `numpy.save` writes them.

    Records in a folder, and those of 256 MiB or more in an archive that is not compressed, are mapped into memory: they
    are read from the disk as they are needed, and the file must not change until the run has ended. Types that must be
    converted (float64, and uint16 to uint64) are held in memory; save float32, or other integers.

    Args:
        path: the file or folder; nothing pickled is loaded from it.
        x_key: `[N, *features]`, images as `[N, C, H, W]`; integers stay what they are, float64 becomes
            float32. In a folder, keys are the names of the files without `.npy`. Several keys are named tensors of
            a record, which a network takes as keyword arguments; they are held in memory.
        kinds: what the values are: `numeric`, `image`, `tokens`, `waveform` or `category`, or a mapping of `kind` and
            others, such as `padding` (`make_population`); of several arrays by their keys. By default floating-point
            values are numeric; of several arrays it must be said of those of integers.
        label_key: `[N]` or `[N, 1]`, whole numbers, bool or text, or one-hot `[N, C]` (`make_population`); under
            another `task` numbers, or `[N, labels]` of 0 and 1.
        member_key: bool `[N]`, the records that a given target was trained on.
        group_key: `[N]`, text or whole numbers; the sorted distinct values name groups for which leakage is reported,
            too.
        name: of the data set, in reports; by default the file's name without its ending.
        scale: factor on the records before `mean` and `std`; by default 1/255 for uint8 records of two or
            more axes (images) with values above 127, else 1.
        mean, std: one number, or one for each entry of a record's first axis: each channel of an image, each
            feature of a flat record. They are public constants; do not fit them on private records.
        class_names: one for each class; by default the numbers from 0 to the largest label, or the distinct labels. Of
            another task, one for each label or predicted number.
        task: what a label is; by default a class.

    Raises:
        InputError: the file or folder is missing, damaged or pickled, a key is missing, or `Population` refuses the
            arrays.
    """
    file = Path(path).expanduser()
    x_keys = [x_key] if isinstance(x_key, str) else list(x_key)
    named: list[tuple[str, str | None]] = [("x_key", each) for each in x_keys]
    named += [("label_key", label_key), ("member_key", member_key), ("group_key", group_key)]
    keys = [(argument, key) for argument, key in named if key is not None]
    arrays = _read_folder(file, keys) if file.is_dir() else _read(file, keys)
    is_one = isinstance(x_key, str)
    record = arrays[x_keys[0]].shape[1:] if is_one else ()
    return make_population(
        arrays[x_keys[0]] if is_one else {key: arrays[key] for key in x_keys},
        arrays[label_key],
        kinds=kinds,
        name=file.stem if name is None else name,
        class_names=class_names,
        member=None if member_key is None else arrays[member_key],
        group=None if group_key is None else arrays[group_key],
        scale=scale,
        mean=per_channel("mean", mean, record, file),
        std=per_channel("std", std, record, file),
        task=task,
    )


def _read(file: Path, keys: Sequence[tuple[str, str]]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays by their keys, each of which an argument gives."""
    if not file.is_file():
        raise DataNotThereError(
            f"'{file.absolute()}' is not a file: set dataset.path to the .npz file, or to a folder of .npy files"
        )
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            names = [name.removesuffix(".npy") for name in archive.zip.namelist()]
            for argument, key in keys:
                if names.count(key) > 1:
                    raise InputError(f"'{file.absolute()}' has the array {key!r} twice: write it with each key once")
                if key not in archive.files:
                    raise _missing(file, argument, key, archive.files)
            mapped = {key: _mapped(file, archive, key) for _, key in keys}
            return {key: archive[key] if array is None else array for key, array in mapped.items()}
    except InputError:
        raise
    # A .npy file loads as an array, which is no context manager and raises a TypeError.
    except (
        OSError,
        ValueError,
        TypeError,
        EOFError,
        RuntimeError,  # an encrypted archive, an unknown method of compression
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InputError(
            f"'{file.absolute()}' cannot be read as an .npz file without pickled objects ({first_line(error)}): write "
            "it again with numpy.savez from arrays of numbers"
        ) from error


def _read_folder(folder: Path, keys: Sequence[tuple[str, str]]) -> dict[str, np.ndarray[Any, Any]]:
    """As `_read`; the files are mapped into memory."""
    present = sorted(file.stem for file in folder.glob("*.npy"))
    arrays = {}
    for argument, key in keys:
        if key not in present:
            raise _missing(folder, argument, key, present)
        file = folder / f"{key}.npy"
        try:
            arrays[key] = np.load(file, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError, OverflowError) as error:
            raise InputError(
                f"'{file.absolute()}' cannot be read as an .npy file without pickled objects ({first_line(error)}): "
                "write it again with numpy.save from an array of numbers"
            ) from error
    return arrays


def _missing(place: Path, argument: str, key: str, present: Sequence[str]) -> InputError:
    return InputError(
        f"'{place.absolute()}' has no array {key!r} (it has {', '.join(map(repr, present)) or 'none'}): set "
        f"dataset.{argument} to one of them"
    )


def _mapped(file: Path, archive: Any, key: str) -> np.ndarray[Any, Any] | None:
    """The array, mapped from the archive (numpy does not do this) so that changes stay in memory; None for one that
    must be read."""
    member = archive.zip.getinfo(f"{key}.npy" if f"{key}.npy" in archive.zip.namelist() else key)
    if member.compress_type != zipfile.ZIP_STORED or member.file_size < _MAPPED_BYTES:
        return None
    with archive.zip.open(member) as handle:
        version = np.lib.format.read_magic(handle)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            return None
        shape, is_fortran, dtype = read_header[version](handle)
        header = handle.tell()
    if dtype.hasobject or is_fortran or header + math.prod(shape) * dtype.itemsize != member.file_size:
        return None  # it is refused or converted when it is read
    with file.open("rb") as handle:
        handle.seek(member.header_offset)
        local = struct.unpack(_LOCAL_HEADER, handle.read(struct.calcsize(_LOCAL_HEADER)))
    start = member.header_offset + struct.calcsize(_LOCAL_HEADER) + local[-2] + local[-1] + header
    return np.memmap(file, dtype, "c", start, shape)
