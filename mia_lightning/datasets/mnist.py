"""MNIST: handwritten digits, 28 x 28 pixels."""

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from torchvision.datasets import MNIST

from mia_lightning.datasets.download import check_file, fetch
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import Name, PathLike, Text

NUM_RECORDS = {"train": 60_000, "t10k": 10_000}
SIDE, NUM_CLASSES = 28, 10
MEAN, STD = 0.1307, 0.3081  # the usual public constants
_CHECKSUMS = {file: f"md5:{md5}" for file, md5 in MNIST.resources}
# The magic number of an IDX file: two zeros, 8 for unsigned bytes, the number of axes.
_IMAGES, _LABELS = 0x0803, 0x0801


@checked("dataset")
def load_mnist(*, root: PathLike, url: Text | None = None, name: Name = "mnist") -> Population:
    """70,000 grey images `[1, 28, 28]` (uint8, normalised by public constants) of the digits 0 to 9.

    The 60,000 training images come first, the 10,000 test images after them: members and non-members are drawn at
    random from both together.

    Args:
        root: torchvision's root, the folder above `MNIST/`: the four files are in `MNIST/raw`, gzipped or not. Only
            the form of existing files is checked, so that MNIST in another order or of another origin can be used;
            a downloaded file must be the published one. Files of several origins are not mixed.
        url: the address of the folder that they are downloaded from; by default torchvision's mirrors, in turn.
        name: of the data set, in reports.

    Raises:
        InputError: a file cannot be downloaded or read, or is not of the published form.

    Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition" (1998).
    """
    folder = Path(root).expanduser() / "MNIST" / "raw"
    _complete(folder, [url] if url is not None else MNIST.mirrors)
    images, labels = [], []
    for part, count in NUM_RECORDS.items():
        shape = (count, SIDE, SIDE)
        images.append(_read(_present(folder, f"{part}-images-idx3-ubyte.gz"), _IMAGES, shape))
        labels.append(_read_labels(_present(folder, f"{part}-labels-idx1-ubyte.gz"), count))
    return make_population(
        np.concatenate(images)[:, None],
        np.concatenate(labels).astype(np.int64),
        name=name,
        class_names=[str(digit) for digit in range(NUM_CLASSES)],
        scale=1 / 255,
        mean=torch.tensor(MEAN),
        std=torch.tensor(STD),
    )


def _present(folder: Path, file: str) -> Path:
    """The file as torchvision extracts it, else as it is published."""
    plain = folder / file.removesuffix(".gz")
    return plain if plain.exists() else folder / file


def _complete(folder: Path, mirrors: Sequence[str]) -> None:
    missing = [file for file in _CHECKSUMS if not _present(folder, file).exists()]
    if not missing:
        return
    for file, checksum in _CHECKSUMS.items():
        if file not in missing:
            _check_published(_present(folder, file), checksum, missing[0])
    for file in missing:
        _fetch_from_any(mirrors, folder / file)


def _check_published(present: Path, checksum: str, missing: str) -> None:
    """Refuse to download a file beside one that is not published: labels fit images in the published order alone."""
    try:
        check_file(present, checksum)
    except InputError as error:
        raise InputError(
            f"'{(present.parent / missing).absolute()}' is missing and '{present.name}' beside it is not the published "
            "gzipped file, so that a download might not fit it: add the missing file, or delete the others so that "
            "all are downloaded"
        ) from error


def _fetch_from_any(mirrors: Sequence[str], path: Path) -> None:
    failure: InputError | None = None
    for mirror in mirrors:
        try:
            fetch(f"{mirror.rstrip('/')}/{path.name}", path, checksum=_CHECKSUMS[path.name])
            return
        except InputError as error:
            failure = failure or error
    assert failure is not None, "there is at least one mirror"
    raise failure


def _read_labels(path: Path, count: int) -> np.ndarray:
    label_N = _read(path, _LABELS, (count,))
    if label_N.max() >= NUM_CLASSES:
        record = int((label_N >= NUM_CLASSES).argmax())
        raise _malformed(path, f"label {label_N[record]} of record {record} is not a digit from 0 to 9")
    return label_N


def _read(path: Path, magic: int, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes of an IDX file that must hold exactly an array of the shape."""
    header = struct.pack(f">I{len(shape)}I", magic, *shape)
    size = math.prod(shape)
    try:
        # GzipFile is a BinaryIO in all but its type.
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as handle:
            found = handle.read(len(header))
            content = handle.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _malformed(path, str(error)) from error
    if len(found) < len(header):
        raise _malformed(path, "it is too short for a header")
    if found != header:
        raise _malformed(path, f"its header is {found.hex(' ', 4)}, not {header.hex(' ', 4)}")
    if len(content) != size:
        more = f"{len(content)}" if len(content) < size else "more"
        raise _malformed(path, f"{more} bytes follow the header where {size} belong")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _malformed(path: Path, found: str) -> InputError:
    return InputError(
        f"'{path.absolute()}' cannot be read as the IDX file of that name ({found}): delete it and the other three "
        "so that they are downloaded again"
    )
