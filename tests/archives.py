"""Archives as publishers pack them, and trees of files in a folder or a zip file."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path


def tgz(files: Mapping[str, bytes], *folders: str) -> bytes:
    """A gzipped tar of files by their names, behind empty folders."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for name in folders:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def as_folder(place: Path, tree: dict[str, bytes]) -> Path:
    """The folder, with these files in it."""
    for name, content in tree.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def as_zip(place: Path, tree: dict[str, bytes]) -> Path:
    """A zip file of these files and an empty folder, in no order."""
    place = place.with_suffix(".zip")
    with zipfile.ZipFile(place, "w") as archive:
        archive.mkdir("train")
        for name, content in reversed(tree.items()):
            archive.writestr(name, content)
    return place
