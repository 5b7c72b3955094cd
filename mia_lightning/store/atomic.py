"""Files that are complete or absent."""

import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: bytes) -> Path:
    """Write `content` to a temporary file beside `path`, then rename it: a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A random name: the number of the process may belong to a process of another container, too.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
