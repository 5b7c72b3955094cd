"""A folder of artefacts, each complete or absent, verified when it is read, shared by any number of processes.

The store knows places, bytes and checksums, and not what they mean. The artefact at the place `models/ab/cd` is the
manifest `models/ab/cd.json`: its fields, the name, length and SHA-256 of its content file (some have none), and a
checksum of the manifest and its place. Files have the mode and group of the folder of the store, which several people
may share. The content is written first, under a name of its own, and the manifest is renamed into
place last: without a manifest there is no artefact, and two writers of one place cannot mix their halves.
"""

import contextlib
import errno
import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast0, AtLeast1, NotNegative, as_path
from mia_lightning.settings.words import Words
from mia_lightning.store import locks
from mia_lightning.store.atomic import as_os_error, make_folder, whole, write_whole
from mia_lightning.store.documents import EXACT, DamagedError, sealed, understood, unsealed

SCHEMA = 1
DAMAGED = "damaged"
LOCKS = "locks"
_PARTIAL = ".partial"
_TOKEN = 6
_CONTENT = f"*.{'[0-9a-f]' * (2 * _TOKEN)}.data"
_BLOCK = 2**22
# What a disk says that can be read and not written.
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """An artefact that was read and is intact.

    Attributes:
        fields: of its manifest.
        content: the content file; None for an artefact without content.
    """

    fields: Mapping[str, Any]
    content: Path | None = None


class _Manifest(BaseModel):
    """What a manifest holds beside its checksum."""

    model_config = EXACT

    schema_: AtLeast1 = Field(alias="schema")
    fields: dict[str, Any]
    file: Annotated[str, Field(pattern=rf"^[^/\x00]+\.[0-9a-f]{{{2 * _TOKEN}}}\.data$")] | None
    bytes: AtLeast0
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None


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
        estimators: whether fitted estimators are kept as pickles beside their answers; whoever can write to the folder
            can then run code with the rights of whoever reads it.
    """

    dir: Annotated[Path | str, BeforeValidator(_absolute), Words("a folder, or null to keep nothing")]
    checkpoint_minutes: NotNegative = 10.0
    answers: bool = True
    estimators: bool = False

    @property
    def folder(self) -> Path:
        return Path(self.dir)

    def check(self, *, to_read: bool = False) -> None:
        """Try to write to the folder, before anything expensive starts.

        Args:
            to_read: whether a store that has artefacts may be on a disk that can be read alone; what it lacks cannot
                be kept then.

        Raises:
            InputError: the folder cannot be written, or is full.
        """
        refusal = self._refusal()
        if refusal is not None and not (to_read and refusal.errno in _READ_ONLY and self.places()):
            raise self._refused(refusal) from refusal

    @property
    def is_read_only(self) -> bool:
        """Whether the folder can be read alone."""
        refusal = self._refusal()
        return refusal is not None and refusal.errno in _READ_ONLY

    def _refusal(self) -> OSError | None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / f".check.{secrets.token_hex(_TOKEN)}{_PARTIAL}", b"?").unlink()
        except OSError as error:
            return error
        return None

    def put(self, place: str, fields: Mapping[str, Any], write: Callable[[Path], object] | None = None) -> None:
        """Write an artefact, which replaces an earlier one at this place.

        Args:
            write: writes the content to the path that it is given.

        Raises:
            InputError: the folder cannot be written, or is full.
        """
        manifest = self._manifest(place)
        earlier = self._read(place)
        try:
            make_folder(manifest.parent, like=self.folder)
            kept = {"schema": SCHEMA, "fields": dict(fields), **self._written(manifest, write)}
            try:
                write_whole(manifest, sealed(kept, place, indent=1), like=self.folder)
            except BaseException:  # an interrupt may come when the manifest is written already
                made = self._read(place)
                if kept["file"] is not None and (made is None or made.file != kept["file"]):
                    _unlink(manifest.with_name(kept["file"]))
                raise
        except OSError as error:
            raise self._refused(error) from error
        if earlier is not None and earlier.file is not None:
            _unlink(manifest.with_name(earlier.file))

    def get(self, place: str, *, tell: Callable[[str], object] = lambda _: None) -> Artefact | None:
        """The artefact at the place; None where there is none, or where it is damaged and was set aside.

        Args:
            tell: is called with a sentence about a damaged artefact.

        Raises:
            InputError: the artefact was written by a newer version, or cannot be read.
        """
        try:
            return self._found(place)
        except DamagedError as damage:
            if not self._set_aside(place, str(damage)):
                return self.get(place, tell=tell)
            self._tell(place, damage, tell)
            return None

    def read(
        self, place: str, meaning: Callable[[Artefact], T], *, tell: Callable[[str], object] = lambda _: None
    ) -> T | None:
        """What the artefact at the place means; None as in `get`, and where somebody has removed its content meanwhile.

        Args:
            meaning: raises a `DamagedError` for an artefact that is not of the form that it expects.
            tell: as in `get`.

        Raises:
            InputError: as in `get`.
        """
        artefact = self.get(place, tell=tell)
        try:
            return None if artefact is None else meaning(artefact)
        except FileNotFoundError:
            return None
        except DamagedError as damage:
            kept = self._read(place)
            if kept is not None and self._artefact(place, kept) != artefact:  # another process has replaced it
                return self.read(place, meaning, tell=tell)
            self._move_aside(place, kept)
            self._tell(place, DamagedError(f"it {damage}"), tell)
            return None

    def was_damaged(self, place: str) -> bool:
        """Whether an artefact at this place was once set aside."""
        return (self.folder / DAMAGED / f"{place}.json").exists()

    def is_as_before(self, place: str) -> bool | None:
        """Whether the content at the place is that of the artefact that was set aside; None where nobody can tell."""
        try:
            before, now = self._parsed(place, self.folder / DAMAGED), self._read(place)
        except DamagedError:
            return None
        return None if before is None or now is None else before.sha256 == now.sha256

    def damage(self, place: str) -> str | None:
        """What is wrong with the artefact at the place, which stays there; None where nothing is.

        Raises:
            InputError: as in `get`.
        """
        try:
            self._found(place)
        except DamagedError as damage:
            return str(damage)
        return None

    def fields(self, place: str) -> Mapping[str, Any] | None:
        """The fields of the manifest; None where no manifest can be read. The content is not verified."""
        kept = self._read(place)
        return None if kept is None else kept.fields

    def has(self, place: str) -> bool:
        """Whether there is a manifest at the place; it is not read."""
        return self._manifest(place).exists()

    def forget(self, place: str) -> None:
        """Remove the artefact at the place, the manifest first.

        Raises:
            InputError: the folder cannot be written.
        """
        manifest = self._manifest(place)
        kept = self._read(place)
        try:
            manifest.unlink(missing_ok=True)
        except OSError as error:
            raise self._refused(error) from error
        if kept is not None and kept.file is not None:
            _unlink(manifest.with_name(kept.file))

    def places(self, under: str = "") -> list[str]:
        """The places of all artefacts, or of those in a folder of the store, sorted."""
        root = self.folder / under
        found = (path.relative_to(self.folder) for path in root.rglob("*.json"))
        return sorted(path.with_suffix("").as_posix() for path in found if path.parts[0] != DAMAGED)

    def leftovers(self) -> list[Path]:
        """Files of processes that were killed while they wrote: contents without a manifest, partial files; sorted."""
        found = {*self.folder.rglob(_CONTENT), *self.folder.rglob(f".*{_PARTIAL}")}
        # The manifests are read after the files were listed: what another process writes meanwhile is not among them.
        named = {self._manifest(place).parent / str(kept.file) for place, kept in self._all()}
        return sorted(path for path in found - named if path.relative_to(self.folder).parts[0] != DAMAGED)

    def size(self, place: str) -> int:
        """Bytes of the content file; 0 where there is none."""
        kept = self._read(place)
        return 0 if kept is None else kept.bytes

    def _all(self) -> Iterator[tuple[str, _Manifest]]:
        for place in self.places():
            kept = self._read(place)
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
            return locks.descriptor(self.folder / LOCKS, like=self.folder)
        except OSError as error:
            raise self._refused(error) from error

    def _manifest(self, place: str) -> Path:
        return self.folder / f"{place}.json"

    def _found(self, place: str) -> Artefact | None:
        """None where there is no artefact; raises a `DamagedError` where it is not what was written."""
        kept = self._parsed(place)
        if kept is None:
            return None
        artefact = self._artefact(place, kept)
        content = artefact.content
        if content is None:
            return artefact
        try:
            if content.stat().st_size != kept.bytes or _checksum(content) != kept.sha256:
                raise DamagedError("its content does not match its checksum")
        except FileNotFoundError:
            if self._parsed(place) != kept:  # another process has just replaced or removed it
                return self._found(place)
            raise DamagedError("its content file is missing") from None
        except OSError as error:
            raise self._refused(error) from error
        return artefact

    def _artefact(self, place: str, kept: _Manifest) -> Artefact:
        """What a manifest describes; its content is not verified."""
        content = None if kept.file is None else self._manifest(place).with_name(kept.file)
        return Artefact(fields=kept.fields, content=content)

    def _read(self, place: str) -> _Manifest | None:
        """The manifest; None where there is none, or where it is damaged."""
        try:
            return self._parsed(place)
        except DamagedError:
            return None

    def _parsed(self, place: str, folder: Path | None = None) -> _Manifest | None:
        manifest = (folder or self.folder) / f"{place}.json"
        try:
            kept = unsealed(manifest.read_bytes(), place)
            schema = kept.get("schema")
            if isinstance(schema, int) and schema > SCHEMA:
                raise InputError(
                    f"{manifest} was written by a newer version of mia_lightning (schema {schema}, here {SCHEMA}); "
                    "update mia_lightning, or set store.dir to another folder."
                )
            return understood(kept, _Manifest)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused(error) from error
        except DamagedError as damage:
            raise DamagedError(f"its manifest {damage}") from None

    def _set_aside(self, place: str, damage: str) -> bool:
        """Move a damaged artefact to `damaged/`; False where another process has replaced it meanwhile."""
        kept = self._read(place)
        if self.damage(place) != damage:
            return False
        self._move_aside(place, kept)
        return True

    def _move_aside(self, place: str, kept: _Manifest | None) -> None:
        manifest, aside = self._manifest(place), self.folder / DAMAGED / place
        names = [f"{manifest.stem}.*.data"] if kept is None else [] if kept.file is None else [kept.file]
        try:
            make_folder(aside.parent, like=self.folder)
            for path in [manifest, *(each for name in names for each in manifest.parent.glob(name))]:
                with contextlib.suppress(FileNotFoundError):
                    shutil.move(path, aside.with_name(path.name))
        except OSError as error:
            raise self._refused(error) from error

    def _tell(self, place: str, damage: DamagedError, tell: Callable[[str], object]) -> None:
        tell(
            f"{place} in the store {self.folder} is damaged ({damage}); it was set aside in {DAMAGED}/ and will be "
            "made again."
        )

    def _written(self, manifest: Path, write: Callable[[Path], object] | None) -> dict[str, Any]:
        """Write the content beside the manifest, under a name that no other process on any machine uses."""
        if write is None:
            return {"file": None, "bytes": 0, "sha256": None}
        content = manifest.with_name(f"{manifest.stem}.{secrets.token_hex(_TOKEN)}.data")
        with whole(content, like=self.folder) as partial:
            with as_os_error(partial.parent):
                write(partial)
            checksum, size = _checksum(partial), partial.stat().st_size
        return {"file": content.name, "bytes": size, "sha256": checksum}

    def _refused(self, error: OSError) -> InputError:
        reason = error.strerror or str(error) or type(error).__name__
        return InputError(
            f"the store {self.folder} cannot be used ({reason}); set store.dir to a folder that can be written and has "
            "space, or to null to keep nothing. What was finished before is kept."
        )


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
