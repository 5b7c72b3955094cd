"""A folder of artefacts, each complete or absent, verified when it is read, shared by any number of processes.

The store knows places, bytes and checksums, and not what they mean. The artefact at the place `models/ab/cd` is the
manifest `models/ab/cd.json`: its fields, the name, length and SHA-256 of its content file (some have none), and a
checksum of the manifest itself. The content is written first, under a name of its own, and the manifest is renamed into
place last: without a manifest there is no artefact, and two writers of one place cannot mix their halves.
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
from typing import Annotated, Any

from pydantic import BeforeValidator

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import NotNegative, as_path
from mia_lightning.settings.words import Words
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
    """An artefact that was read and is intact.

    Attributes:
        fields: of its manifest.
        content: the content file; None for an artefact without content.
    """

    fields: Mapping[str, Any]
    content: Path | None = None


def _absolute(folder: object) -> object:
    path = as_path(folder)
    return path.absolute() if isinstance(path, Path) else path


@settings("store")
class Store:
    """The `store` section of the configuration.

    Attributes:
        dir: the folder, on a disk that all jobs see that share models.
        checkpoint_minutes: how often a training stack is checkpointed, at the end of an epoch; 0 for every epoch.
        answers: whether the models' answers are cached, too: records x classes x 4 bytes for each model.
    """

    dir: Annotated[Path | str, BeforeValidator(_absolute), Words("a folder, or null to keep nothing")]
    checkpoint_minutes: NotNegative = 10.0
    answers: bool = True

    @property
    def folder(self) -> Path:
        return Path(self.dir)

    def check(self) -> None:
        """Try to write to the folder, before anything expensive starts.

        Raises:
            InputError: the folder cannot be written, or is full.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / f".check.{secrets.token_hex(_TOKEN)}{_PARTIAL}", b"?").unlink()
        except OSError as error:
            raise self._refused(error) from error

    def put(self, place: str, fields: Mapping[str, Any], write: Callable[[Path], object] | None = None) -> None:
        """Write an artefact, which replaces an earlier one at this place.

        Args:
            write: writes the content to the path that it is given.

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
                kept = json.loads(json.dumps(kept))  # as it will be read: JSON turns the keys of mappings into text
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
        """The artefact at the place; None where there is none, or where it is damaged and was set aside.

        Args:
            tell: is called with a sentence about a damaged artefact.

        Raises:
            InputError: the artefact was written by a newer version, or cannot be read.
        """
        try:
            return self._found(place)
        except _DamagedError as damage:
            if not self._set_aside(place, str(damage)):
                return self.get(place, tell=tell)
            tell(
                f"{place} in the store {self.folder} is damaged ({damage}); it was set aside in {DAMAGED}/ and will be "
                "made again."
            )
            return None

    def damage(self, place: str) -> str | None:
        """What is wrong with the artefact at the place, which stays there; None where nothing is.

        Raises:
            InputError: as in `get`.
        """
        try:
            self._found(place)
        except _DamagedError as damage:
            return str(damage)
        return None

    def fields(self, place: str) -> Mapping[str, Any] | None:
        """The fields of the manifest; None where no manifest can be read. The content is not verified."""
        kept = self._read(self._manifest(place))
        return None if kept is None else kept["fields"]

    def has(self, place: str) -> bool:
        """Whether there is a manifest at the place; it is not read."""
        return self._manifest(place).exists()

    def forget(self, place: str) -> None:
        """Remove the artefact at the place, the manifest first.

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
        """The places of all artefacts, or of those in a folder of the store, sorted."""
        root = self.folder / under
        found = (path.relative_to(self.folder) for path in root.rglob("*.json"))
        return sorted(path.with_suffix("").as_posix() for path in found if path.parts[0] != DAMAGED)

    def leftovers(self) -> list[Path]:
        """Files of processes that were killed while they wrote: contents without a manifest, partial files; sorted."""
        found = {*self.folder.rglob(_CONTENT), *self.folder.rglob(f".*{_PARTIAL}")}
        # The manifests are read after the files were listed: what another process writes meanwhile is not among them.
        named = {self._manifest(place).parent / str(kept["file"]) for place, kept in self._all()}
        return sorted(path for path in found - named if path.relative_to(self.folder).parts[0] != DAMAGED)

    def size(self, place: str) -> int:
        """Bytes of the content file; 0 where there is none."""
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
        """Hold the locks of these keys (hexadecimal) against all other threads and processes that share the folder.

        Args:
            waiting: is called once, where another thread or process holds one of the locks.
        """
        return locks.locked(self._lock_file(), keys, waiting)

    def locked_free(self, keys: Iterable[str]) -> AbstractContextManager[frozenset[str]]:
        """As `locked`, without waiting: holds the locks that are free, and yields their keys."""
        return locks.locked_free(self._lock_file(), keys)

    def _lock_file(self) -> int:
        try:
            return locks.descriptor(self.folder / LOCKS)
        except OSError as error:
            raise self._refused(error) from error

    def _manifest(self, place: str) -> Path:
        return self.folder / f"{place}.json"

    def _found(self, place: str) -> Artefact | None:
        """None where there is no artefact; raises a `_DamagedError` where it is not what was written."""
        manifest = self._manifest(place)
        kept = self._parsed(manifest)
        if kept is None:
            return None
        if kept["file"] is None:
            return Artefact(fields=kept["fields"])
        content = manifest.with_name(kept["file"])
        try:
            if content.stat().st_size != kept["bytes"] or _checksum(content) != kept["sha256"]:
                raise _DamagedError("its content does not match its checksum")
        except FileNotFoundError:
            if self._parsed(manifest) != kept:  # another process has just replaced or removed it
                return self._found(place)
            raise _DamagedError("its content file is missing") from None
        except OSError as error:
            raise self._refused(error) from error
        return Artefact(fields=kept["fields"], content=content)

    def _read(self, manifest: Path) -> dict[str, Any] | None:
        """The manifest; None where there is none, or where it is damaged."""
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
            raise _DamagedError("its manifest does not match its checksum")
        if schema > SCHEMA:
            raise InputError(
                f"{manifest} was written by a newer version of mia_lightning (schema {schema}, here {SCHEMA}); update "
                "mia_lightning, or set store.dir to another folder."
            )
        return dict(kept)

    def _set_aside(self, place: str, damage: str) -> bool:
        """Move a damaged artefact to `damaged/`; False where another process has replaced it meanwhile."""
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
    """An artefact is not what was written; the message says in what."""


def _written(manifest: Path, write: Callable[[Path], object] | None) -> dict[str, Any]:
    """Write the content beside the manifest, under a name that no other process on any machine uses."""
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
    """Call `write`; the errors that safetensors and torch make of an `OSError` become one again."""
    try:
        write(partial)
    except OSError:
        raise
    except Exception as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is not None:
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        if "inline_container" in str(error):  # torch does not say which error it was
            full = shutil.disk_usage(partial.parent).free < _BLOCK
            raise OSError(reason := errno.ENOSPC if full else errno.EIO, os.strerror(reason)) from error
        raise


def _check(kept: Mapping[str, Any]) -> str:
    """Checksum of the content of a manifest."""
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
