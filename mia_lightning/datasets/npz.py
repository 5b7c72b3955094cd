"""Records from a numpy archive."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import DataNotThereError, InputError


def load_npz(
    *,
    path: str | Path,
    x_key: str = "x",
    label_key: str = "label",
    member_key: str | None = None,
    group_key: str | None = None,
    name: str | None = None,
    scale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
) -> Population:
    """The records of an `.npz` file, as `numpy.savez(path, x=..., label=...)` writes it.

    Args:
        path: the file; nothing pickled is loaded from it.
        x_key: `[N, *features]`, images as `[N, C, H, W]`; integers stay what they are, float64 becomes
            float32.
        label_key: `[N]`, integers from 0.
        member_key: bool `[N]`, which records a given target was trained on.
        group_key: `[N]`, text or whole numbers; the distinct values, sorted, are groups whose leakage is reported, too.
        name: what reports call the data set; by default the file's name without its ending.
        scale: factor on the records before `mean` and `std`; by default 1/255 for uint8 records of two or
            more axes (images), else 1.
        mean, std: one number, or one for each entry of a record's first axis: each channel of an image, each
            feature of a flat record. They are public constants; do not fit them on private records.
        class_names: one for each class; by default the numbers from 0 to the largest label.

    Raises:
        InputError: the file is absent, damaged or pickled, a key is missing, or the arrays are no population.
    """
    file = Path(path).expanduser()
    keys = {"x_key": x_key, "label_key": label_key}
    keys |= {
        argument: key for argument, key in (("member_key", member_key), ("group_key", group_key)) if key is not None
    }
    arrays = _read(file, keys)
    x = arrays["x_key"]
    record = x.shape[1:]
    if scale is None:
        scale = 1 / 255 if x.dtype == np.uint8 and len(record) > 1 else 1.0
    return make_population(
        x,
        arrays["label_key"],
        name=file.stem if name is None else name,
        class_names=class_names,
        member=arrays.get("member_key"),
        group=arrays.get("group_key"),
        scale=scale,
        mean=_per_channel("mean", mean, record, file),
        std=_per_channel("std", std, record, file),
    )


def _read(file: Path, keys: dict[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays by the name of the argument that names their key."""
    if not file.is_file():
        raise DataNotThereError(f"'{file.absolute()}' is not a file: set dataset.path to the .npz file")
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            for argument, key in keys.items():
                if key not in archive.files:
                    present = ", ".join(map(repr, archive.files)) or "none"
                    raise InputError(
                        f"'{file.absolute()}' has no array {key!r} (it has {present}): set "
                        f"dataset.{argument} to one of them"
                    )
            return {argument: archive[key] for argument, key in keys.items()}
    except InputError:
        raise
    # A .npy file loads as an array, which is no context manager and raises a TypeError.
    except (
        OSError,
        ValueError,
        TypeError,
        EOFError,
        RuntimeError,  # an encrypted archive, a method of compression that is not known
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InputError(
            f"'{file.absolute()}' cannot be read as an .npz file without pickled objects ({error}): write it "
            "anew with numpy.savez from arrays of numbers"
        ) from error


def _per_channel(
    what: str, value: float | Sequence[float] | None, record: tuple[int, ...], file: Path
) -> Tensor | None:
    if value is None:
        return None
    if isinstance(value, int | float):
        return torch.tensor(float(value))
    numbers = [float(each) for each in value]
    if not record or len(numbers) != record[0]:
        raise InputError(
            f"dataset.{what} has {len(numbers)} numbers but the records of '{file.absolute()}' have the "
            f"shape {record}: give one number, or one for each entry of the first axis"
        )
    return torch.tensor(numbers).reshape(-1, *[1] * (len(record) - 1))
