"""The kept answers of a served model, and how many records it was asked about: one file for each model.

Records are counted before they are sent, so that the sum never passes the budget, even where a process is killed in
between. Answers are written as soon as they arrive. Processes share the file. Each answer and the count have a
checksum: what is damaged is said, set aside, and asked about again within the budget.
"""

import hashlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mia_lightning.errors import InputError
from mia_lightning.store.atomic import follow
from mia_lightning.store.identity import digest
from mia_lightning.store.locks import descriptor, locked

VERSION = 2
_AT_ONCE = 500  # keys in a statement
_PATIENCE = 60.0  # seconds that another process may hold the file

_TABLES = (
    "CREATE TABLE answers (record BLOB PRIMARY KEY, answer BLOB NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE counts (only INTEGER PRIMARY KEY CHECK (only = 0), asked INTEGER NOT NULL, checksum BLOB NOT NULL)",
    "CREATE TABLE damaged (record, answer, checksum)",
    "CREATE TABLE model (only INTEGER PRIMARY KEY CHECK (only = 0), identity TEXT NOT NULL)",
)
# What a disk or another process is to blame for; with any other error a file is no database of this form.
_OF_THE_DISK = frozenset(
    getattr(sqlite3, f"SQLITE_{name}")
    for name in ("AUTH", "BUSY", "CANTOPEN", "FULL", "INTERRUPT", "IOERR", "LOCKED", "NOLFS", "NOMEM", "PERM")
) | {sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_READONLY}


class Responses:
    """Answers by record, and how many records were asked about.

    Args:
        folder: where the file lies; None keeps all in memory.
        identity: of the model (`Endpoint.identity`); each has a file of its own.
        remark: is given a sentence where the file was damaged, and where another process is waited for.

    Raises:
        InputError: the folder cannot be written to, or the file is of a newer version.
    """

    def __init__(
        self, folder: Path | None, identity: Mapping[str, object], *, remark: Callable[[str], object] = print
    ) -> None:
        self._remark, self._lock = remark, threading.Lock()
        self._key = digest(dict(identity))
        self.path = None if folder is None else folder / f"{self._key}.sqlite3"
        try:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = self._open(identity)
        except OSError as error:
            raise self._not_writable(error.strerror or str(error)) from error
        except sqlite3.DatabaseError as error:
            raise self._not_writable(str(error)) from error

    @property
    def asked(self) -> int:
        """How many records all runs that share the file asked about; one that was asked about again counts again."""
        with self._transaction(write=False) as database:
            return self._counted(database)

    def reserve(self, num: int, budget: int | None) -> bool:
        """Count so many records that are about to be asked about; False, without counting, if the budget has fewer."""
        with self._transaction() as database:
            asked = self._counted(database) + num
            is_within = budget is None or asked <= budget
            if is_within:
                self._count(database, asked)
            return is_within

    def give_back(self, num: int) -> None:
        """Count so many records less, which were reserved but not asked about."""
        with self._transaction() as database:
            self._count(database, self._counted(database) - num)

    def keep(self, keys: Sequence[bytes], answers: Sequence[object]) -> None:
        """Keep answers; a record that has one already keeps its first."""
        texts = [json.dumps(answer).encode() for answer in answers]
        rows = [(key, text, self._checksum(key, text)) for key, text in zip(keys, texts, strict=True)]
        with self._transaction() as database:
            database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", rows)

    def kept(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """The kept answers among those of these keys."""
        rows = self._select(keys, "record, answer, checksum")
        if not all(map(self._is_intact, rows)):
            raise self._spoiled()
        return {key: json.loads(answer) for key, answer, _ in rows}

    def are_kept(self, keys: Sequence[bytes]) -> set[bytes]:
        """Which of these keys have a kept answer."""
        return {key for (key,) in self._select(keys, "record")}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold a lock, so that no other process asks this model about the same records meanwhile."""
        if self.path is None:
            yield
            return

        def waiting() -> None:
            self._remark("Another run is asking the same model; its answers will serve this one, too.")

        try:
            file = descriptor(self.path.parent / "locks", like=self.path.parent)
        except OSError as error:
            raise self._not_writable(error.strerror or str(error)) from error
        with locked(file, [self._key], waiting):
            yield

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def _select(self, keys: Sequence[bytes], columns: str) -> list[Any]:
        rows: list[Any] = []
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            places = ",".join("?" * len(some))
            with self._transaction(write=False) as database:
                rows += database.execute(f"SELECT {columns} FROM answers WHERE record IN ({places})", some).fetchall()
        return rows

    def _checksum(self, *parts: bytes) -> bytes:
        """Of the parts, in this file."""
        found = hashlib.blake2b(digest_size=16, key=self._key.encode())
        for part in parts:
            found.update(len(part).to_bytes(8, "big") + part)
        return found.digest()

    def _is_intact(self, row: Sequence[Any]) -> bool:
        """Whether record, answer and checksum are what was kept."""
        record, answer, checksum = row
        return isinstance(record, bytes) and isinstance(answer, bytes) and checksum == self._checksum(record, answer)

    def _counted(self, database: sqlite3.Connection) -> int:
        """The count, compared with its checksum.

        Raises:
            InputError: it is damaged.
        """
        asked = self._intact_count(database)
        if asked is None:
            raise self._spoiled()
        return asked

    def _intact_count(self, database: sqlite3.Connection) -> int | None:
        asked, checksum = database.execute("SELECT asked, checksum FROM counts").fetchone()
        is_intact = isinstance(asked, int) and checksum == self._checksum(b"asked", b"%d" % asked)
        return asked if is_intact else None

    def _count(self, database: sqlite3.Connection, asked: int) -> None:
        checksum = self._checksum(b"asked", b"%d" % asked)
        database.execute("INSERT OR REPLACE INTO counts VALUES (0, ?, ?)", (asked, checksum))

    def _open(self, identity: Mapping[str, object]) -> sqlite3.Connection:
        """The database, made where it is missing, and without what is damaged in it."""
        try:
            return self._connected(identity)
        except sqlite3.DatabaseError as error:
            if self.path is None or _is_of_the_disk(error):
                raise
        file = descriptor(self.path.parent / "locks", like=self.path.parent)
        with locked(file, [digest(["damaged", self._key])], lambda: None):
            try:
                return self._connected(identity)  # another process has set it aside meanwhile
            except sqlite3.DatabaseError as error:
                if _is_of_the_disk(error):
                    raise
                aside, fault = _set_aside(self.path), " ".join(str(error).split())
                self._remark(
                    f"The kept answers in {self.path} are damaged ({fault}); they were set aside as {aside.name} and "
                    "begun anew, with the count of what was asked, so that the budget begins anew, too."
                )
                return self._connected(identity)

    def _connected(self, identity: Mapping[str, object]) -> sqlite3.Connection:
        """As `_open`; raises a `sqlite3.DatabaseError` for a file that is not of this form."""
        if self.path is None:
            return self._filled(_connect(":memory:"), identity)
        if not self.path.exists():
            self._make(self.path, identity)
        database = _connect(f"file:{quote(str(self.path.absolute()))}?mode=rw")
        try:
            self._check(database)
            self._repair(database)
        except BaseException:
            database.close()
            raise
        return database

    def _make(self, path: Path, identity: Mapping[str, object]) -> None:
        """Make the file whole, unless another process has made it meanwhile: an empty one is always a damaged one."""
        partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
        file = descriptor(path.parent / "locks", like=path.parent)
        with locked(file, [digest(["made", self._key])], lambda: None):
            if path.exists():
                return
            try:
                with closing(_connect(f"file:{quote(str(partial.absolute()))}?mode=rwc")) as database:
                    self._filled(database, identity)
                follow(partial, path.parent)
                path.with_name(f"{path.name}-journal").unlink(missing_ok=True)  # of a file that somebody has removed
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)

    def _filled(self, database: sqlite3.Connection, identity: Mapping[str, object]) -> sqlite3.Connection:
        """A new database, with its tables."""
        database.execute("BEGIN IMMEDIATE")
        for table in _TABLES:
            database.execute(table)
        self._count(database, 0)
        database.execute("INSERT INTO model VALUES (0, ?)", (json.dumps(dict(identity), sort_keys=True),))
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("COMMIT")
        return database

    def _check(self, database: sqlite3.Connection) -> None:
        version = int(database.execute("PRAGMA user_version").fetchone()[0])
        if version > VERSION:
            raise InputError(
                f"The kept answers in {self.path} are of version {version}, newer than this program's {VERSION}; "
                "update mia-lightning, or choose another folder by target.asking.responses."
            )
        fault = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if fault != b"ok":
            raise sqlite3.DatabaseError(fault.decode(errors="replace"))
        tables = {sql for (sql,) in database.execute("SELECT sql FROM sqlite_master")}
        if version < VERSION or tables != {table.encode() for table in _TABLES}:
            raise sqlite3.DatabaseError(f"its tables are not those of version {VERSION}")
        if database.execute("SELECT count(*) FROM counts").fetchone()[0] != 1:
            raise sqlite3.DatabaseError("the count is missing")
        if [self._is_identity(text) for (text,) in database.execute("SELECT identity FROM model")] != [True]:
            raise sqlite3.DatabaseError("it is that of another model")

    def _is_identity(self, text: object) -> bool:
        try:
            return isinstance(text, bytes) and digest(json.loads(text)) == self._key
        except (ValueError, RecursionError):
            return False

    def _repair(self, database: sqlite3.Connection) -> None:
        """Set rows aside that are damaged, and count anew where the count is."""
        if all(map(self._is_intact, _rows(database))) and self._intact_count(database) is not None:
            return
        try:
            database.execute("BEGIN IMMEDIATE")
            damaged = [row for row in _rows(database) if not self._is_intact(row)]  # another process may have been here
            has_count = self._intact_count(database) is not None
            if not has_count:
                num_kept = int(database.execute("SELECT count(*) FROM answers").fetchone()[0])
                self._count(database, num_kept)
            for row in damaged:
                database.execute("INSERT INTO damaged VALUES (?, ?, ?)", row)
                if database.execute("DELETE FROM answers WHERE record IS ?", row[:1]).rowcount != 1:
                    raise sqlite3.DatabaseError("an answer is not in its place")
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        if damaged:
            self._remark(
                f"{len(damaged)} of the kept answers in {self.path} are damaged; they were set aside in its table "
                "`damaged`, and their records are asked about again, within the budget."
            )
        if not has_count:
            self._remark(
                f"The count of what was asked in {self.path} is damaged; it goes on from {num_kept}, the number of "
                "kept answers, so that what was asked beside them is missing from the budget."
            )

    @contextmanager
    def _transaction(self, *, write: bool = True) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                try:
                    self._database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                    yield self._database
                    self._database.execute("COMMIT")
                except BaseException:
                    if self._database.in_transaction:
                        self._database.execute("ROLLBACK")
                    raise
            except sqlite3.DatabaseError as error:
                raise self._not_writable(str(error)) from error

    def _spoiled(self) -> InputError:
        return InputError(
            f"The kept answers in {self.path} were damaged while this run used them; start the same command again, "
            "which asks about the damaged ones."
        )

    def _not_writable(self, reason: str) -> InputError:
        folder = "memory" if self.path is None else f"'{self.path.parent}'"
        return InputError(
            f"Answers cannot be kept in {folder} ({reason}); choose another folder in target.asking.responses, or null "
            "to keep them for this run alone."
        )


def _connect(place: str) -> sqlite3.Connection:
    database = sqlite3.connect(place, timeout=_PATIENCE, isolation_level=None, check_same_thread=False, uri=True)
    database.text_factory = bytes  # a damaged text need not be one
    try:
        database.execute("PRAGMA synchronous = FULL")
    except BaseException:
        database.close()
        raise
    return database


def _rows(database: sqlite3.Connection) -> Iterator[Any]:
    return database.execute("SELECT record, answer, checksum FROM answers")


def _is_of_the_disk(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", -1) & 0xFF in _OF_THE_DISK


def _set_aside(path: Path) -> Path:
    names = (path.with_suffix(f".damaged-{number}") for number in range(1, 1000))
    aside = next(name for name in names if not name.exists())
    os.replace(path, aside)
    return aside
