"""Your own images: a folder or a zip file of class folders."""

import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le, MaxLen, MinLen
from PIL import Image

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.datasets.scaling import PerChannel, per_channel
from mia_lightning.errors import DataNotThereError, InputError
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import FromList, Name, PathLike, Text
from mia_lightning.settings.words import Words

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
_WIDE_MODES = ("I", "F")  # more than 8 bits for each channel; a conversion would clip the values
_LARGEST_FILE = 1 << 28  # bytes
_LARGEST_SIDE = 1 << 14  # pixels

Side = Annotated[int, Ge(1), Le(_LARGEST_SIDE)]
Size = Annotated[
    Side | Annotated[Sequence[Side], FromList, MinLen(2), MaxLen(2)],
    Words(f"a whole number of pixels from 1 to {_LARGEST_SIDE}, or [height, width]"),
]


@checked("dataset")
def load_images(
    *,
    path: PathLike,
    folder: Text | None = None,
    size: Size | None = None,
    grayscale: bool = False,
    name: Name | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
) -> Population:
    """Images `[3, h, w]`, or `[1, h, w]` if grey (uint8, normalised to [0, 1]), in the order of their paths.

    The class of an image is the name of the folder directly above it; `train/cat` and `test/cat` are one class.
    Classes are numbered in the order of their names. PNG, JPEG, BMP, GIF and WebP files are read as they are stored
    (the first of several frames, EXIF rotation not applied, transparency dropped). A file of members may name images by
    their paths or file names. Hidden files and those of
    `__MACOSX` are skipped; any other file is refused, so that none is skipped unnoticed.

    Args:
        path: a folder, or a `.zip` file, which is read without being extracted.
        folder: subfolder of `path`, such as `train`, to which reading is limited.
        size: pixels, one number or (height, width): every image is resized to it (bilinear). Without it all images
            must have one size.
        grayscale: one channel instead of three.
        name: of the data set, in reports; by default that of the folder, or of the zip file without its ending.
        mean, std: one number, or one for each channel, of pixels in [0, 1]. They are public constants; do not fit them
            on private records.

    Raises:
        InputError: `path` is missing or damaged, or a file in it is no image, is in no class folder, is encrypted,
            has a path that leads out of the zip file, or differs in size from the first.
    """
    place = Path(path).expanduser().absolute()
    found = read_class_folders(
        place, folder=folder, size=(size, size) if isinstance(size, int) else size, grayscale=grayscale
    )
    population = make_population(
        found.x_N,
        found.label_N,
        name=name if name is not None else place.name if place.is_dir() else place.stem,
        class_names=found.class_names,
        scale=1 / 255,
        mean=per_channel("mean", mean, found.x_N.shape[1:], place),
        std=per_channel("std", std, found.x_N.shape[1:], place),
    )
    return replace(population, record_names=found.paths)


def image_names(*, path: PathLike, folder: str | None = None, **_: object) -> tuple[str, ...]:
    """The names of the records of `load_images` with the same arguments: paths within `path`; nothing is decoded.

    Raises:
        InputError: as `load_images`, as far as the names show it.
    """
    with _opened(Path(path).expanduser().absolute()) as (names, _read):
        return tuple(_image_paths(names, folder, Path(path)))


load_images.record_names = image_names  # type: ignore[attr-defined]  # which the command asks before it loads them


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassFolders:
    """The images of a tree: paths within it, sorted; uint8 `[N, channels, h, w]`; int64 `[N]`; names in order."""

    paths: tuple[str, ...]
    x_N: np.ndarray
    label_N: np.ndarray
    class_names: tuple[str, ...]


def read_class_folders(
    place: Path, *, folder: str | None = None, size: Sequence[int] | None = None, grayscale: bool = False
) -> ClassFolders:
    """As `load_images`, with the paths of the images."""
    with _opened(place) as (names, read):
        paths = _image_paths(names, folder, place)
        classes = [PurePosixPath(each).parent.name for each in paths]
        class_names = tuple(sorted(set(classes)))
        rank = {each: number for number, each in enumerate(class_names)}
        x_N = _decode_all(place, paths, read, size, "L" if grayscale else "RGB")
    label_N = np.array([rank[each] for each in classes], np.int64)
    return ClassFolders(paths=tuple(paths), x_N=x_N, label_N=label_N, class_names=class_names)


def _image_paths(names: Sequence[str], folder: str | None, place: Path) -> list[str]:
    paths = [each for each in sorted(names) if _is_image(each, folder, place)]
    if not paths:
        where = "" if folder is None else f" below the folder {folder!r} (dataset.folder)"
        raise InputError(f"'{place.absolute()}' has no images{where}: give each class a folder of images")
    return paths


@contextmanager
def _opened(place: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """The paths of the files in a folder or zip file, and a function that reads one of them."""
    if place.is_dir():
        yield _names_in_folder(place), lambda name: _read_file(place / name)
        return
    if not place.is_file():
        raise DataNotThereError(
            f"'{place.absolute()}' is not there: set dataset.path to a folder or a .zip file of images"
        )
    try:
        archive = zipfile.ZipFile(place)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise InputError(
            f"'{place.absolute()}' is neither a folder nor a whole zip file ({error}): set dataset.path to one of them"
        ) from error
    with archive:
        infos = _entries(archive, place)
        yield list(infos), lambda name: _read_entry(archive, infos[name])


def _names_in_folder(place: Path) -> list[str]:
    names = []
    for parent, folders, files in os.walk(place, followlinks=True, onerror=_unreadable):
        above = {os.path.realpath(each) for each in (Path(parent), *Path(parent).parents)}
        for folder in folders:
            if os.path.realpath(os.path.join(parent, folder)) in above:
                raise InputError(f"'{os.path.join(parent, folder)}' is a link to a folder above it: remove the link")
        names += [(Path(parent) / file).relative_to(place).as_posix() for file in files]
    return names


def _unreadable(error: OSError) -> None:
    raise InputError(f"'{error.filename}' cannot be read ({error}): make it readable") from error


def _read_file(file: Path) -> bytes:
    if not file.is_file():
        raise ValueError("it is no plain file")
    _check_length(file.stat().st_size)
    return file.read_bytes()


def _entries(archive: zipfile.ZipFile, place: Path) -> dict[str, zipfile.ZipInfo]:
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or ":" in parts[0]:
            raise InputError(f"'{place.absolute()}' has the entry {name!r}, which leads out of it: pack it again")
        if name in infos:
            raise InputError(f"'{place.absolute()}' has the entry {name!r} twice: pack it again")
        if not name.endswith("/"):
            infos[name] = info
    return infos


def _read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.flag_bits & 1:
        raise ValueError("it is encrypted")
    _check_length(info.file_size)
    return archive.read(info)


def _check_length(length: int) -> None:
    if length > _LARGEST_FILE:
        raise ValueError(f"it has {length} bytes, more than {_LARGEST_FILE}")


def _is_image(name: str, folder: str | None, place: Path) -> bool:
    """Whether to read the file; raises an `InputError` for a file that is no image and may not be skipped."""
    path = PurePosixPath(name)
    if folder is not None:
        if not path.is_relative_to(folder):
            return False
        path = path.relative_to(folder)
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return False
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(
            f"'{name}' in '{place.absolute()}' is none of {', '.join(_SUFFIXES)}: convert it, take it out, or set "
            "dataset.folder to a subfolder of images alone"
        )
    if len(path.parts) < 2:
        raise InputError(f"'{name}' in '{place.absolute()}' lies in no class folder: put it into that of its class")
    return True


def _decode_all(
    place: Path, paths: Sequence[str], read: Callable[[str], bytes], size: Sequence[int] | None, mode: str
) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        first = _decode(place, read, size, mode, paths[0])
        try:
            x_N = np.empty((len(paths), *first.shape), np.uint8)
        except MemoryError as error:
            raise InputError(
                f"the {len(paths)} images in '{place.absolute()}' with {first.shape[1]} x {first.shape[2]} pixels need "
                f"{len(paths) * first.size / 2**30:.0f} GiB of memory: set dataset.size to a smaller one"
            ) from error
        for number, path in enumerate(paths):
            image = _decode(place, read, size, mode, path)
            if image.shape != first.shape:
                (_, h, w), (_, first_h, first_w) = image.shape, first.shape
                raise InputError(
                    f"'{path}' in '{place.absolute()}' has {h} x {w} pixels but '{paths[0]}' has "
                    f"{first_h} x {first_w}: set dataset.size to resize all of them"
                )
            x_N[number] = image
    return x_N


def _decode(place: Path, read: Callable[[str], bytes], size: Sequence[int] | None, mode: str, name: str) -> np.ndarray:
    """One image, `[channels, h, w]`."""
    try:
        with Image.open(io.BytesIO(read(name)), formats=_FORMATS) as stored:
            if stored.mode.startswith(_WIDE_MODES):
                raise ValueError("it has more than 8 bits for each channel")
            # Pillow warns of a palette with transparent entries unless these are converted first.
            image = (stored.convert("RGBA") if stored.mode == "P" else stored).convert(mode)
        if size is not None:
            image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    except Exception as error:  # Pillow and zipfile raise almost any exception for damaged bytes
        reason = str(error).partition(" <")[0].partition("\n")[0] or type(error).__name__
        raise InputError(
            f"'{name}' in '{place.absolute()}' cannot be read as an image ({reason}): replace it or take it out"
        ) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
