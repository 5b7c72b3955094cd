"""The folder of a run: whether its files have room, and one sentence where they cannot be written."""

import errno
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mia_lightning.errors import InputError
from mia_lightning.store.atomic import write_whole

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)


def about_folder(error: OSError) -> str:
    """Why the folder of the run cannot be made or written."""
    reason, place = error.strerror or type(error).__name__, error.filename2 or error.filename
    return (
        f"the folder of the run cannot be made or written ({reason}: {place}); set hydra.run.dir (in a sweep "
        "hydra.sweep.dir, in Python `output`) to one that can, and has space. What is in the store is kept."
    )


@contextmanager
def written_to_run() -> Iterator[None]:
    """Within the context, files of the run are written.

    Raises:
        InputError: one of them cannot be: the disk is full, a quota is reached, or the folder is not to be written.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno not in _OF_THE_DISK:  # such as those of a connection
            raise
        raise InputError(about_folder(error)) from error


def check_run_folder(folder: Path, needed: int) -> None:
    """Try to write to the folder of a run, and compare its free space with what the run will write.

    Args:
        needed: bytes, at least.

    Raises:
        InputError: the folder cannot be written, or has too little space.
    """
    with written_to_run():
        write_whole(folder / f".check.{secrets.token_hex(6)}", b"?").unlink(missing_ok=True)
        free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"the files of the run take at least {_size(needed)}, and {folder} has {_size(free)} free; free space "
            "there, or set hydra.run.dir (in a sweep hydra.sweep.dir, in Python `output`) to a folder with more."
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
