"""Your own images: a folder or a zip file of class folders."""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le, MaxLen, MinLen
from PIL import Image

from mia_lightning.datasets.class_folders import FileKind, listing_of_paths, opened, paths_of
from mia_lightning.datasets.marks import Mark, Mask
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.datasets.scaling import PerChannel, per_channel
from mia_lightning.errors import InputError
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import FromList, Name, PathLike, Text
from mia_lightning.settings.words import Words

_IMAGES = FileKind(one="an image", several="images", suffixes=(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"))
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
_WIDE_MODES = ("I", "F")  # more than 8 bits for each channel; a conversion would clip the values
_LARGEST_SIDE = 1 << 14  # pixels
_ORIENTATION = 0x0112  # of the EXIF data; 1 is upright
_TURNED = "to be turned by their EXIF data, which is not done"
_TRANSPARENT = "transparent in part, and their transparency is dropped"

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
    (the first of several frames, EXIF rotation not applied, transparency dropped); remarks count images with a
    rotation, and those with transparent pixels. A file of members may name images by their paths or file names. Hidden
    files and those of `__MACOSX` are skipped; any other file is refused, so that none is skipped unnoticed.

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
    counts = {what: int(has_N.sum()) for what, has_N in found.has_N.items() if has_N.any()}
    remarks = [
        f"{count:,} of {len(found.paths):,} images {'is' if count == 1 else 'are'} {what}."
        for what, count in counts.items()
    ]
    marks = tuple(Mark(what=f"images that are {what}", has_N=found.has_N[what]) for what in counts)
    return replace(population, record_names=found.paths, remarks=(*population.remarks, *remarks), marks=marks)


def image_names(*, path: PathLike, folder: str | None = None, **_: object) -> tuple[str, ...]:
    """The names of the records of `load_images` with the same arguments: paths within `path`; nothing is decoded.

    Raises:
        InputError: as `load_images`, as far as the names show it.
    """
    with opened(Path(path).expanduser().absolute(), _IMAGES) as (names, _read):
        return tuple(paths_of(names, folder, Path(path), _IMAGES))


load_images.record_names = image_names  # type: ignore[attr-defined]  # which the command asks before it loads them


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassFolders:
    """The images of a tree: paths within it, sorted; uint8 `[N, channels, h, w]`; int64 `[N]`; names in order.

    Attributes:
        has_N: by the words for it, which images have something that is left out of them.
    """

    paths: tuple[str, ...]
    x_N: np.ndarray
    label_N: np.ndarray
    class_names: tuple[str, ...]
    has_N: Mapping[str, Mask]


def read_class_folders(
    place: Path, *, folder: str | None = None, size: Sequence[int] | None = None, grayscale: bool = False
) -> ClassFolders:
    """As `load_images`, with the paths of the images."""
    with opened(place, _IMAGES) as (names, read):
        paths = paths_of(names, folder, place, _IMAGES)
        x_N, has_N = _decode_all(place, paths, read, size, "L" if grayscale else "RGB")
    listing = listing_of_paths(paths, place)
    return ClassFolders(
        paths=listing.names,
        x_N=x_N,
        label_N=listing.label_N,
        class_names=tuple(listing.class_names),
        has_N=has_N,
    )


def _decode_all(
    place: Path, paths: Sequence[str], read: Callable[[str], bytes], size: Sequence[int] | None, mode: str
) -> tuple[np.ndarray, Mapping[str, Mask]]:
    has_N = {what: np.zeros(len(paths), dtype=bool) for what in (_TURNED, _TRANSPARENT)}
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        first, _ = _decode(place, read, size, mode, paths[0])
        try:
            x_N = np.empty((len(paths), *first.shape), np.uint8)
        except MemoryError as error:
            raise InputError(
                f"the {len(paths)} images in '{place.absolute()}' with {first.shape[1]} x {first.shape[2]} pixels need "
                f"{len(paths) * first.size / 2**30:.0f} GiB of memory: set dataset.size to a smaller one"
            ) from error
        for number, path in enumerate(paths):
            image, left_out = _decode(place, read, size, mode, path)
            if image.shape != first.shape:
                (_, h, w), (_, first_h, first_w) = image.shape, first.shape
                raise InputError(
                    f"'{path}' in '{place.absolute()}' has {h} x {w} pixels but '{paths[0]}' has "
                    f"{first_h} x {first_w}: set dataset.size to resize all of them"
                )
            x_N[number] = image
            for what in left_out:
                has_N[what][number] = True
    return x_N, has_N


def _decode(
    place: Path, read: Callable[[str], bytes], size: Sequence[int] | None, mode: str, name: str
) -> tuple[np.ndarray, list[str]]:
    """One image, `[channels, h, w]`, and what is left out of it."""
    try:
        with Image.open(io.BytesIO(read(name)), formats=_FORMATS) as stored:
            if stored.mode.startswith(_WIDE_MODES):
                raise ValueError("it has more than 8 bits for each channel")
            # Pillow warns of a palette with transparent entries unless these are converted first.
            whole = stored.convert("RGBA") if stored.mode == "P" else stored
            image = whole.convert(mode)
            left_out = _left_out(stored, whole)  # now that all of it has been read
        if size is not None:
            image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    except Exception as error:  # Pillow and zipfile raise almost any exception for damaged bytes
        raise _IMAGES.unreadable(name, f"'{place.absolute()}'", error) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), left_out


def _left_out(stored: Image.Image, whole: Image.Image) -> list[str]:
    """What of a stored image is not read; `whole` is the same without a palette."""
    try:
        is_turned = stored.getexif().get(_ORIENTATION, 1) not in (0, 1)
    except Exception:  # of damaged EXIF data, without which the image is as good
        is_turned = False
    is_transparent = "A" in whole.getbands() and int(np.asarray(whole.getchannel("A")).min()) < 255
    return [what for what, is_so in ((_TURNED, is_turned), (_TRANSPARENT, is_transparent)) if is_so]
