"""Files that are complete or absent."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RIGHTS, _RIGHTS_OF_FOLDER = 0o666, 0o2777
_LITTLE = 2**22  # bytes; a disk with less is full


def write_whole(path: Path, content: bytes, *, like: Path | None = None) -> Path:
    """Write `content` to a temporary file beside `path`, then rename it: a reader sees all of it or nothing.

    Args:
        like: as in `whole`.
    """
    with whole(path, like=like) as partial:
        partial.write_bytes(content)
    return path


@contextmanager
def whole(path: Path, *, like: Path | None = None) -> Iterator[Path]:
    """A temporary path beside `path`; the file that is written there within the context then takes its name.

    Args:
        like: a folder above, whose mode and group the file and new folders have; None for the mode of any new file.
    """
    make_folder(path.parent, like=like)
    # A random name: the number of the process may belong to a process of another container, too.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        yield partial
        if like is not None:
            follow(partial, like)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def make_folder(folder: Path, *, like: Path | None = None) -> None:
    """Make the folder and those above it where they are missing; below `like` they have its mode and group."""
    if like is None or folder == like or like not in folder.parents:
        folder.mkdir(parents=True, exist_ok=True)
        return
    make_folder(folder.parent, like=like)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        follow(folder, like)


def follow(path: Path, folder: Path) -> None:
    """Give a new file or folder the mode and group of a folder that several people may share, as far as one may."""
    given = folder.stat()
    with contextlib.suppress(OSError):  # a file system that has no owners and modes, or has them from elsewhere
        if path.stat().st_gid != given.st_gid:
            os.chown(path, -1, given.st_gid)
    with contextlib.suppress(OSError):
        path.chmod(given.st_mode & (_RIGHTS_OF_FOLDER if path.is_dir() else _RIGHTS))


@contextmanager
def as_os_error(folder: Path) -> Iterator[None]:
    """Within the context, the errors that safetensors and torch make of an `OSError` become one again.

    Args:
        folder: where they write.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is not None:
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from error
        if "inline_container" in str(error):  # torch does not say which error it was
            full = shutil.disk_usage(folder).free < _LITTLE
            raise OSError(reason := errno.ENOSPC if full else errno.EIO, os.strerror(reason), str(folder)) from error
        raise


def usual_mode(path: Path) -> int:
    """The mode that any new file has beside `path`, such as 0644."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _RIGHTS)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)
        probe.unlink()
