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
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mia_lightning.errors import InputError
from mia_lightning.store import locks
from mia_lightning.store.atomic import write_whole

SCHEMA = 1
DAMAGED = "damaged"
LOCKS = "locks"
_PARTIAL = ".partial"
_TOKEN = 6
_CONTENT = f"*.{'[0-9a-f]' * (2 * _TOKEN)}.data"
_BLOCK = 2**22


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
        object.__setattr__(self, "dir", Path(os.path.expanduser(self.dir)).absolute())

    @property
    def folder(self) -> Path:
        return Path(self.dir)

    def check(self) -> None:
        """Raise an `InputError` where nothing could be kept, before anything expensive."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / f".check.{secrets.token_hex(_TOKEN)}{_PARTIAL}", b"?").unlink()
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
        earlier = self._read(manifest)
        stood = None if earlier is None else earlier["file"]
        try:
            manifest.parent.mkdir(parents=True, exist_ok=True)
            kept = {"schema": SCHEMA, "fields": dict(fields), **_written(manifest, write)}
            try:
                kept = json.loads(json.dumps(kept))  # as it will be read: the keys of an object are text
                kept["check"] = _check(kept)
                write_whole(manifest, json.dumps(kept, indent=1, sort_keys=True).encode() + b"\n")
            except BaseException:
                if kept["file"] is not None:
                    _unlink(manifest.with_name(kept["file"]))
                raise
        except OSError as error:
            raise self._refused(error) from error
        if stood is not None:
            _unlink(manifest.with_name(stood))

    def get(self, place: str, *, tell: Callable[[str], object] = lambda _: None) -> Artefact | None:
        """What stands at the place; None for nothing, and for something damaged, which is set aside.

        Args:
            tell: is given a sentence about what was damaged.

        Raises:
            InputError: it was written by a newer version, or cannot be read.
        """
        try:
            return self._found(place)
        except _DamagedError as damage:
            if not self._set_aside(place, str(damage)):
                return self.get(place, tell=tell)
            tell(
                f"{place} in the store {self.folder} is damaged ({damage}): it is set aside in {DAMAGED}/, and made "
                "anew."
            )
            return None

    def damage(self, place: str) -> str | None:
        """What is wrong with what stands at the place, which is left there; None for nothing.

        Raises:
            InputError: as in `get`.
        """
        try:
            self._found(place)
        except _DamagedError as damage:
            return str(damage)
        return None

    def fields(self, place: str) -> Mapping[str, Any] | None:
        """Of the manifest alone, without a look at the content; None where there is none that can be read."""
        kept = self._read(self._manifest(place))
        return None if kept is None else kept["fields"]

    def has(self, place: str) -> bool:
        """Whether a manifest stands there."""
        return self._manifest(place).exists()

    def forget(self, place: str) -> None:
        """Remove what stands at the place, the manifest first.

        Raises:
            InputError: the folder cannot be written.
        """
        manifest = self._manifest(place)
        kept = self._read(manifest)
        try:
            manifest.unlink(missing_ok=True)
        except OSError as error:
            raise self._refused(error) from error
        if kept is not None and kept["file"] is not None:
            _unlink(manifest.with_name(kept["file"]))

    def places(self, under: str = "") -> list[str]:
        """Of all artefacts, or of those in a folder of the store, in order."""
        root = self.folder / under
        found = (path.relative_to(self.folder) for path in root.rglob("*.json"))
        return sorted(path.with_suffix("").as_posix() for path in found if path.parts[0] != DAMAGED)

    def leftovers(self) -> list[Path]:
        """Files of processes that were killed while they wrote: contents without a manifest, parts, in order."""
        found = {*self.folder.rglob(_CONTENT), *self.folder.rglob(f".*{_PARTIAL}")}
        # Read after they were found: what another process keeps meanwhile is not among them.
        named = {self._manifest(place).parent / str(kept["file"]) for place, kept in self._all()}
        return sorted(path for path in found - named if path.relative_to(self.folder).parts[0] != DAMAGED)

    def size(self, place: str) -> int:
        """Bytes of the content; 0 where there is none."""
        kept = self._read(self._manifest(place))
        return 0 if kept is None else int(kept["bytes"])

    def _all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for place in self.places():
            kept = self._read(self._manifest(place))
            if kept is not None:
                yield place, kept

    def locked(
        self, keys: Iterable[str], *, waiting: Callable[[], object] = lambda: None
    ) -> AbstractContextManager[None]:
        """Alone with these keys (hexadecimal) among all threads of all processes that share the folder.

        Args:
            waiting: called once, where another one holds one of them.
        """
        return locks.locked(self._lock_file(), keys, waiting)

    def locked_free(self, keys: Iterable[str]) -> AbstractContextManager[frozenset[str]]:
        """As `locked`, without waiting: alone with those of the keys that nobody else holds, which are given."""
        return locks.locked_free(self._lock_file(), keys)

    def _lock_file(self) -> int:
        try:
            return locks.descriptor(self.folder / LOCKS)
        except OSError as error:
            raise self._refused(error) from error

    def _manifest(self, place: str) -> Path:
        return self.folder / f"{place}.json"

    def _found(self, place: str) -> Artefact | None:
        """None where nothing stands; raises a `_DamagedError` where it is not what was put there."""
        manifest = self._manifest(place)
        kept = self._parsed(manifest)
        if kept is None:
            return None
        if kept["file"] is None:
            return Artefact(fields=kept["fields"])
        content = manifest.with_name(kept["file"])
        try:
            if content.stat().st_size != kept["bytes"] or _checksum(content) != kept["sha256"]:
                raise _DamagedError("its content does not agree with its checksum")
        except FileNotFoundError:
            if self._parsed(manifest) != kept:  # another process has just replaced or removed it
                return self._found(place)
            raise _DamagedError("its content is gone") from None
        except OSError as error:
            raise self._refused(error) from error
        return Artefact(fields=kept["fields"], content=content)

    def _read(self, manifest: Path) -> dict[str, Any] | None:
        """None where there is none, or none that can be read."""
        try:
            return self._parsed(manifest)
        except _DamagedError:
            return None

    def _parsed(self, manifest: Path) -> dict[str, Any] | None:
        try:
            kept = json.loads(manifest.read_bytes())
            schema, check = kept["schema"], kept.pop("check")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused(error) from error
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _DamagedError("its manifest cannot be read") from None
        if check != _check(kept):
            raise _DamagedError("its manifest does not agree with its checksum")
        if schema > SCHEMA:
            raise InputError(
                f"{manifest} was written by a newer version of mia_lightning (schema {schema}, here {SCHEMA}); update "
                "it, or set store.dir to another folder."
            )
        return dict(kept)

    def _set_aside(self, place: str, damage: str) -> bool:
        """False where another process has made it anew meanwhile."""
        manifest, aside = self._manifest(place), self.folder / DAMAGED / place
        kept = self._read(manifest)
        contents = (
            manifest.parent.glob(f"{manifest.stem}.*.data") if kept is None else [manifest.with_name(kept["file"])]
        )
        moved = [manifest, *contents]
        if self.damage(place) != damage:
            return False
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            for path in moved:
                with contextlib.suppress(FileNotFoundError):
                    shutil.move(path, aside.with_name(path.name))
        except OSError as error:
            raise self._refused(error) from error
        return True

    def _refused(self, error: OSError) -> InputError:
        reason = error.strerror or str(error) or type(error).__name__
        return InputError(
            f"the store {self.folder} cannot be used ({reason}); set store.dir to a folder that can be written and has "
            "space, or to null to keep nothing. What was finished before is kept."
        )


class _DamagedError(Exception):
    """What stands at a place is not what was put there; the message says how."""


def _written(manifest: Path, write: Callable[[Path], object] | None) -> dict[str, Any]:
    """Write the content beside the manifest, under a name that no other process gives, on whatever machine."""
    if write is None:
        return {"file": None, "bytes": 0, "sha256": None}
    token = secrets.token_hex(_TOKEN)
    partial = manifest.with_name(f".{manifest.stem}.{token}{_PARTIAL}")
    try:
        _write(write, partial)
        checksum, size = _checksum(partial), partial.stat().st_size
        content = manifest.with_name(f"{manifest.stem}.{token}.data")
        os.replace(partial, content)
    finally:
        partial.unlink(missing_ok=True)
    return {"file": content.name, "bytes": size, "sha256": checksum}


def _write(write: Callable[[Path], object], partial: Path) -> None:
    """Raise an `OSError` for what safetensors and torch make of one."""
    try:
        write(partial)
    except OSError:
        raise
    except Exception as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is not None:
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        if "inline_container" in str(error):  # torch says no more
            full = shutil.disk_usage(partial.parent).free < _BLOCK
            raise OSError(reason := errno.ENOSPC if full else errno.EIO, os.strerror(reason)) from error
        raise


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
