"""Artefacts in a folder, by key: whole or not at all, checked when they are read, shared by any number of processes.

It knows places, bytes and checksums, and nothing of what they mean. An artefact at the place `models/ab/cd` is a
manifest `models/ab/cd.json`: the fields that say what it is, the file of its content beside it (some have none), that
file's length and SHA-256, and a checksum of itself. The content is written first and the manifest is renamed into
place: without a manifest there is no artefact, and two writers of one place cannot mix their halves.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mia_lightning.atomic import write_whole
from mia_lightning.errors import InputError

SCHEMA = 1
DAMAGED = "damaged"
_LOCKS = "locks"
_PARTIAL = ".partial"
# Between two looks at a lock that another process holds, seconds.
_PATIENCE = 0.2
_BLOCK = 2**22
# One for each file of locks, for as long as the process lives: closing any other would give its locks up.
_descriptors: dict[str, int] = {}


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """What stands at a place, found whole.

    Attributes:
        fields: of its manifest.
        content: the file; None where it has none.
    """

    fields: Mapping[str, Any]
    content: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Store:
    """The `store` section of the configuration.

    Attributes:
        dir: the folder, on a disk that all jobs share which are to share models.
        checkpoint_minutes: a stack that trains is written down so often, at the end of an epoch.
        answers: whether what models answer is kept, too: records x classes x 4 bytes for each model.

    Raises:
        InputError: settings of another kind.
    """

    dir: Path | str
    checkpoint_minutes: float = 10.0
    answers: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.dir, str | Path) or not str(self.dir):
            raise InputError(f"`store.dir` is {self.dir!r}; give a folder, or null to keep nothing.")
        minutes: object = self.checkpoint_minutes
        if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not minutes >= 0:
            raise InputError(f"`store.checkpoint_minutes` is {minutes!r}; it must be a number of minutes, at least 0.")
        if not isinstance(self.answers, bool):
            raise InputError(f"`store.answers` is {self.answers!r}; it must be true or false.")
        object.__setattr__(self, "dir", Path(self.dir).absolute())

    @property
    def folder(self) -> Path:
        return Path(self.dir)

    def check(self) -> None:
        """Raise an `InputError` where nothing could be kept, before anything expensive."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / f".check.{os.getpid()}", b"?").unlink()
        except OSError as error:
            raise self._refused(error) from error

    def put(self, place: str, fields: Mapping[str, Any], write: Callable[[Path], object] | None = None) -> None:
        """Keep an artefact, in place of what stands there.

        Args:
            write: writes the content to a path that it is given.

        Raises:
            InputError: the folder cannot be written, or is full.
        """
        manifest = self._manifest(place)
        try:
            manifest.parent.mkdir(parents=True, exist_ok=True)
            kept = {"schema": SCHEMA, "fields": dict(fields), **_written(manifest, write)}
            earlier = self._read(manifest)
            kept["check"] = _check(kept)
            write_whole(manifest, json.dumps(kept, indent=1, sort_keys=True).encode() + b"\n")
        except OSError as error:
            raise self._refused(error) from error
        except Exception as error:
            if "No space left" in str(error) or "os error 28" in str(error):  # as safetensors and torch say it
                raise self._refused(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
            raise
        if earlier is not None and earlier["file"] not in (None, kept["file"]):
            _unlink(manifest.with_name(earlier["file"]))

    def get(self, place: str, *, tell: Callable[[str], object] = lambda _: None) -> Artefact | None:
        """What stands at the place; None for nothing, and for something damaged, which is set aside.

        Args:
            tell: is given a sentence about what was damaged.

        Raises:
            InputError: it was written by a newer version, or cannot be read.
        """
        manifest = self._manifest(place)
        kept = self._read(manifest)
        if kept is None:
            if manifest.exists():
                self._set_aside(place, "its manifest cannot be read", tell)
            return None
        if kept["file"] is None:
            return Artefact(fields=kept["fields"])
        content = manifest.with_name(kept["file"])
        try:
            if content.stat().st_size != kept["bytes"] or _checksum(content) != kept["sha256"]:
                self._set_aside(place, "its content does not agree with its checksum", tell)
                return None
        except FileNotFoundError:
            if self._read(manifest) != kept:  # another process has just replaced or removed it
                return self.get(place, tell=tell)
            self._set_aside(place, "its content is gone", tell)
            return None
        except OSError as error:
            raise self._refused(error) from error
        return Artefact(fields=kept["fields"], content=content)

    def fields(self, place: str) -> Mapping[str, Any] | None:
        """Of the manifest alone, without a look at the content; None where there is none that can be read."""
        kept = self._read(self._manifest(place))
        return None if kept is None else kept["fields"]

    def has(self, place: str) -> bool:
        """Whether a manifest stands there."""
        return self._manifest(place).exists()

    def forget(self, place: str) -> None:
        """Remove what stands at the place, the manifest first."""
        manifest = self._manifest(place)
        kept = self._read(manifest)
        _unlink(manifest)
        if kept is not None and kept["file"] is not None:
            _unlink(manifest.with_name(kept["file"]))

    def places(self, under: str = "") -> list[str]:
        """Of all artefacts, or of those in a folder of the store, in order."""
        root = self.folder / under
        found = (path.relative_to(self.folder) for path in root.rglob("*.json"))
        return sorted(path.with_suffix("").as_posix() for path in found if path.parts[0] != DAMAGED)

    def leftovers(self) -> list[Path]:
        """Files of processes that were killed while they wrote: contents without a manifest, parts, in order."""
        named = {self._manifest(place).parent / str(kept["file"]) for place, kept in self._all()}
        contents = {path for path in self.folder.rglob("*.data") if DAMAGED not in path.parts} - named
        return sorted(contents | set(self.folder.rglob(f".*{_PARTIAL}")))

    def size(self, place: str) -> int:
        """Bytes of the content; 0 where there is none."""
        kept = self._read(self._manifest(place))
        return 0 if kept is None else int(kept["bytes"])

    def _all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for place in self.places():
            kept = self._read(self._manifest(place))
            if kept is not None:
                yield place, kept

    @contextmanager
    def locked(self, keys: Iterable[str], *, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Alone with these keys (hexadecimal) among all processes that share the folder.

        A key is a byte of one file, so that a killed process, or a machine that is gone, holds nothing. They are taken
        in order, so that no two processes wait for each other.

        Args:
            waiting: called once, where another process holds one of them.
        """
        import fcntl

        places = sorted({int(key[:15], 16) for key in keys})
        file = self._lock_file()
        taken: list[int] = []
        try:
            for place in places:
                while not _lock(fcntl, file, place):
                    waiting()
                    waiting = _nothing
                    time.sleep(_PATIENCE)
                taken.append(place)
            yield
        finally:
            for place in taken:
                with contextlib.suppress(OSError):
                    fcntl.lockf(file, fcntl.LOCK_UN, 1, place)

    def _lock_file(self) -> int:
        path = str(self.folder / _LOCKS)
        if path not in _descriptors or not _is_open(_descriptors[path], path):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                _descriptors[path] = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise self._refused(error) from error
        return _descriptors[path]

    def _manifest(self, place: str) -> Path:
        return self.folder / f"{place}.json"

    def _read(self, manifest: Path) -> dict[str, Any] | None:
        """None where there is none, or none that can be read."""
        try:
            kept = json.loads(manifest.read_bytes())
            schema, check = kept["schema"], kept.pop("check")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused(error) from error
        except (ValueError, KeyError, TypeError):
            return None
        if check != _check(kept):
            return None
        if schema > SCHEMA:
            raise InputError(
                f"{manifest} was written by a newer version of mia_lightning (schema {schema}, here {SCHEMA}); update "
                "it, or set store.dir to another folder."
            )
        return dict(kept)

    def _set_aside(self, place: str, reason: str, tell: Callable[[str], object]) -> None:
        manifest = self._manifest(place)
        aside = self.folder / DAMAGED / place
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            for path in (manifest, *manifest.parent.glob(f"{manifest.stem}.*.data")):
                with contextlib.suppress(FileNotFoundError):
                    shutil.move(path, aside.with_name(path.name))
        except OSError as error:
            raise self._refused(error) from error
        tell(f"{place} in the store {self.folder} is damaged ({reason}): it is set aside in {DAMAGED}/, and made anew.")

    def _refused(self, error: OSError) -> InputError:
        reason = error.strerror or str(error) or type(error).__name__
        return InputError(
            f"the store {self.folder} cannot be used ({reason}); set store.dir to a folder that can be written and has "
            "space, or to null to keep nothing. What was finished before is kept."
        )


def _lock(fcntl: Any, file: int, place: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno in (
            errno.ENOLCK,
            errno.ENOSYS,
            errno.EOPNOTSUPP,
        ):  # a disk without locks: work may be done twice
            return True
        raise
    return True


def _nothing() -> None:
    """For whoever has been told already."""


def _is_open(descriptor: int, path: str) -> bool:
    """Whether it is still the file at the path, which somebody may have removed with the whole store."""
    try:
        here, there = os.fstat(descriptor), os.stat(path)
    except OSError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _written(manifest: Path, write: Callable[[Path], object] | None) -> dict[str, Any]:
    """Write the content beside the manifest, under a name that its checksum is a part of."""
    if write is None:
        return {"file": None, "bytes": 0, "sha256": None}
    partial = manifest.with_name(f".{manifest.stem}.{os.getpid()}{_PARTIAL}")
    try:
        write(partial)
        checksum, size = _checksum(partial), partial.stat().st_size
        content = manifest.with_name(f"{manifest.stem}.{checksum[:12]}.data")
        os.replace(partial, content)
    finally:
        partial.unlink(missing_ok=True)
    return {"file": content.name, "bytes": size, "sha256": checksum}


def _check(kept: Mapping[str, Any]) -> str:
    """Checksum of a manifest, by what it says."""
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
