"""CIFAR-10 and CIFAR-100: colour images of 32 x 32 pixels."""

import hashlib
import io
import pickle
import tarfile
import warnings
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from mia_lightning.datasets.download import check_file, fetch
from mia_lightning.datasets.images import read_class_folders
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import Name, PathLike, Text

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
# The usual public constants, one for each channel.
MEAN_10, STD_10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
MEAN_100, STD_100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
_md5 = partial(hashlib.md5, usedforsecurity=False)


@checked("dataset")
def load_cifar10(*, root: PathLike, url: Text = CIFAR10.url, name: Name = "cifar10") -> Population:
    """60,000 images `[3, 32, 32]` (uint8, normalised by public constants) in 10 classes.

    The 50,000 training images come first, the 10,000 test images after them: members and non-members are drawn at
    random from both together.

    Args:
        root: the folder of `cifar-10-batches-py` or of `cifar-10-python.tar.gz`, which is read without being
            extracted; or of one `*.zip` file with a folder of images for each of the 10 classes, those below a
            folder `train` first, which may be fewer than 60,000. Where it holds none of them, the archive is
            downloaded into it.
        url: of the archive.
        name: of the data set, in reports.

    Raises:
        InputError: a file is not the published one or cannot be downloaded, or the zip file is not of CIFAR-10's
            form.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).
    """
    folder = Path(root).expanduser()
    published = any((folder / each).exists() for each in (CIFAR10.base_folder, CIFAR10.filename))
    zips = [] if published else sorted(folder.glob("*.zip"))
    if len(zips) > 1:
        raise InputError(
            f"'{folder.absolute()}' holds {len(zips)} zip files ({', '.join(each.name for each in zips)}): "
            "leave the one with CIFAR-10 there"
        )
    if zips:
        x_N, label_N = _read_zip(zips[0])
        return _population(x_N, label_N, CLASS_NAMES, name, MEAN_10, STD_10)
    x_N, label_N, class_names = _read(CIFAR10, folder, url, "labels", CIFAR10.meta["key"])
    return _population(x_N, label_N, class_names, name, MEAN_10, STD_10)


@checked("dataset")
def load_cifar100(
    *,
    root: PathLike,
    url: Text = CIFAR100.url,
    labels: Literal["fine", "coarse"] = "fine",
    name: Name = "cifar100",
) -> Population:
    """60,000 images `[3, 32, 32]` (uint8, normalised by public constants) in 100 classes, or in 20 coarse ones.

    The 50,000 training images come first, the 10,000 test images after them: members and non-members are drawn at
    random from both together.

    Args:
        root: the folder of `cifar-100-python` or of `cifar-100-python.tar.gz`, which is read without being
            extracted; where it holds neither, the archive is downloaded into it.
        url: of the archive.
        labels: `fine` (100 classes) or `coarse` (20).
        name: of the data set, in reports.

    Raises:
        InputError: a file is not the published one or cannot be downloaded.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).
    """
    folder = Path(root).expanduser()
    x_N, label_N, class_names = _read(CIFAR100, folder, url, f"{labels}_labels", f"{labels}_label_names")
    return _population(x_N, label_N, class_names, name, MEAN_100, STD_100)


def _population(
    x_N: np.ndarray,
    label_N: np.ndarray,
    class_names: Sequence[str],
    name: str,
    mean: Sequence[float],
    std: Sequence[float],
) -> Population:
    channels = (3, 1, 1)
    return make_population(
        x_N,
        label_N,
        name=name,
        class_names=class_names,
        scale=1 / 255,
        mean=torch.tensor(mean).reshape(channels),
        std=torch.tensor(std).reshape(channels),
    )


def _read(
    published: type[CIFAR10], folder: Path, url: str, label_key: str, name_key: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images, labels and class names of the published files, whose checksums are torchvision's."""
    checksums = dict([*published.train_list, *published.test_list])
    meta = published.meta["filename"]
    if (folder / published.base_folder).exists():
        content = _read_folder(folder / published.base_folder, {**checksums, meta: published.meta["md5"]})
    else:
        archive = folder / published.filename
        if archive.exists():
            check_file(archive, f"md5:{published.tgz_md5}")
        else:
            fetch(url, archive, checksum=f"md5:{published.tgz_md5}")
        content = _read_archive(archive, published.base_folder, {**checksums, meta: published.meta["md5"]})
    batches = [content[file] for file in checksums]
    x_N = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, SIDE, SIDE)
    label_N = np.concatenate([np.asarray(batch[label_key], np.int64) for batch in batches])
    return x_N, label_N, content[meta][name_key]


def _read_folder(folder: Path, checksums: dict[str, str]) -> dict[str, Any]:
    content = {}
    for file, md5 in checksums.items():
        path = folder / file
        try:
            with path.open("rb") as handle:
                if hashlib.file_digest(handle, _md5).hexdigest() != md5:
                    raise _not_published(folder, f"'{file}' is truncated or altered")
            content[file] = _unpickled(path.read_bytes())
        except OSError as error:
            raise _not_published(folder, f"'{file}' cannot be read: {error}") from error
    return content


def _read_archive(archive: Path, base_folder: str, checksums: dict[str, str]) -> dict[str, Any]:
    content = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                file = member.name.removeprefix(f"{base_folder}/")
                if file not in checksums or not member.isfile():
                    continue
                handle = tar.extractfile(member)
                assert handle is not None, "it is a plain file"
                packed = handle.read()
                if _md5(packed).hexdigest() != checksums[file]:
                    raise _not_published(archive, f"'{file}' is truncated or altered")
                content[file] = _unpickled(packed)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise _not_published(archive, str(error)) from error
    missing = checksums.keys() - content.keys()
    if missing:
        raise _not_published(archive, f"'{min(missing)}' is missing")
    return content


def _unpickled(packed: bytes) -> Any:
    """The dictionary in a published file; its checksum was compared, so that no other pickle is loaded."""
    with warnings.catch_warnings():
        # numpy 1 wrote the files, and stored a dtype's flags as integers.
        warnings.filterwarnings("ignore", category=np.exceptions.VisibleDeprecationWarning)
        return pickle.load(io.BytesIO(packed), encoding="latin1")


def _not_published(place: Path, found: str) -> InputError:
    return InputError(
        f"'{place.absolute()}' is not the published one ({found}): delete it so that the archive is read or downloaded "
        "again"
    )


def _read_zip(file: Path) -> tuple[np.ndarray, np.ndarray]:
    found = read_class_folders(file)
    if found.class_names != CLASS_NAMES:
        raise InputError(
            f"'{file.absolute()}' has the class folders {', '.join(found.class_names)} and not those of CIFAR-10 "
            f"({', '.join(CLASS_NAMES)}): rename them, or use dataset=images"
        )
    if found.x_N.shape[1:] != (3, SIDE, SIDE):
        _, h, w = found.x_N.shape[1:]
        raise InputError(
            f"'{file.absolute()}' has images of {h} x {w} pixels where CIFAR-10 has {SIDE} x {SIDE}: use dataset=images"
        )
    # Stable, so that each part keeps the order of its paths.
    later = ["train" not in PurePosixPath(path).parts[:-2] for path in found.paths]
    order = np.argsort(np.array(later), kind="stable")
    return found.x_N[order], found.label_N[order]
