"""Files in class folders, in a folder or a zip file: the class of each is the name of the folder directly above it."""

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import numpy as np

from mia_lightning.datasets.listing import Listing
from mia_lightning.errors import DataNotThereError, InputError, first_line
from mia_lightning.tasks.interface import Task

_LARGEST_FILE = 1 << 28  # bytes


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """The files that a loader reads.

    Attributes:
        one, several: what they are called in messages, such as `an image` and `images`.
        suffixes: of their names, in lower case; a file of another one is refused. None for any.
        pattern: of their names, such as `*.txt`, by `dataset.files`; other files are skipped. None for all.
    """

    one: str
    several: str
    suffixes: tuple[str, ...] | None = None
    pattern: str | None = None

    @property
    def limit(self) -> str:
        """How files of other kinds are skipped."""
        if self.suffixes is None:
            return f"limit dataset.files to the names of {self.several}, such as '*.txt'"
        return f"set dataset.folder to a subfolder of {self.several} alone"

    def unreadable(self, name: str, place: str, error: Exception) -> InputError:
        """The error for a file that the reader of this kind failed on; `place` is its folder, in quotes."""
        reason = first_line(error).partition(" <")[0]
        return InputError(f"'{name}' in {place} cannot be read as {self.one} ({reason}): replace it or take it out")


@contextmanager
def opened(place: Path, kind: FileKind) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """The paths of the files in a folder or zip file, and a function that reads one of them.

    The function raises a `ValueError` with the reason for a file that may not be read.

    Raises:
        InputError: it is neither, cannot be read, or has a path that leads out of it.
    """
    if place.is_dir():
        yield _names_in_folder(place), lambda name: read_file(place / name)
        return
    if not place.is_file():
        raise DataNotThereError(
            f"'{place.absolute()}' is not there: set dataset.path to a folder or a .zip file of {kind.several}"
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


def paths_of(names: Sequence[str], folder: str | None, place: Path, kind: FileKind) -> list[str]:
    """The sorted paths of the files of a kind; hidden files and those of `__MACOSX` are skipped.

    Args:
        folder: subfolder to which reading is limited; None for all.

    Raises:
        InputError: there are none, or a file is of another kind or in no class folder.
    """
    paths = [each for each in sorted(names) if _is_wanted(each, folder, place, kind)]
    if not paths:
        where = "" if folder is None else f" below the folder {folder!r} (dataset.folder)"
        where += "" if kind.pattern is None else f" whose name fits {kind.pattern!r} (dataset.files)"
        raise InputError(
            f"'{place.absolute()}' has no {kind.several}{where}: give each class a folder of {kind.several}"
        )
    return paths


def listing_of_paths(paths: Sequence[str], place: Path) -> Listing:
    """The records of these paths, by which they are called; classes are in the order of their names."""
    classes = [PurePosixPath(each).parent.name for each in paths]
    names = sorted(set(classes))
    rank = {each: number for number, each in enumerate(names)}
    label_N = np.array([rank[each] for each in classes], np.int64)
    return Listing(place=f"'{place.absolute()}'", label_N=label_N, class_names=tuple(names), names=tuple(paths))


def check_has_classes(task: Task | None, place: Path, mend: str) -> None:
    """Refuse class folders for a task without classes; `mend` is what to do."""
    if task is not None and not task.has_classes:
        raise InputError(f"'{place}' is a folder of classes, and under task={task.name} there are none: {mend}")


def read_file(file: Path) -> bytes:
    """The content of a plain file.

    Raises:
        ValueError: it is none, or too large.
    """
    if not file.exists():
        raise ValueError(f"it is no plain file, since '{file}' is not there")
    if not file.is_file():
        raise ValueError("it is no plain file")
    _check_length(file.stat().st_size)
    return file.read_bytes()


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


def _is_wanted(name: str, folder: str | None, place: Path, kind: FileKind) -> bool:
    """Whether to read the file; raises an `InputError` for one of another kind that may not be skipped."""
    path = PurePosixPath(name)
    if folder is not None:
        if not path.is_relative_to(folder):
            return False
        path = path.relative_to(folder)
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return False
    if kind.pattern is not None and not fnmatchcase(path.name, kind.pattern):
        return False
    if kind.suffixes is not None and path.suffix.lower() not in kind.suffixes:
        raise InputError(
            f"'{name}' in '{place.absolute()}' is none of {', '.join(kind.suffixes)}: convert it, take it out, or "
            f"{kind.limit}"
        )
    if len(path.parts) < 2:
        raise InputError(
            f"'{name}' in '{place.absolute()}' lies in no class folder: put it into that of its class, or {kind.limit}"
        )
    return True
