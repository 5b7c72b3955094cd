"""Archives as publishers pack them."""

import io
import tarfile
from collections.abc import Mapping


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
