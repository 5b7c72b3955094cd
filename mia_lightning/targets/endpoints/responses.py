"""The kept answers of a served model, and how many records it was asked about: one file for each model.

Records are counted before they are sent, so that the sum never passes the budget, even where a process is killed in
between. Answers are written as soon as they arrive. Processes share the file.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mia_lightning.errors import InputError
from mia_lightning.store.identity import digest
from mia_lightning.store.locks import descriptor, locked

VERSION = 1
_AT_ONCE = 500  # keys in a statement
_PATIENCE = 60.0  # seconds that another process may hold the file

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (record BLOB PRIMARY KEY, answer BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (only INTEGER PRIMARY KEY CHECK (only = 0), asked INTEGER NOT NULL);
INSERT OR IGNORE INTO counts VALUES (0, 0);
CREATE TABLE IF NOT EXISTS model (only INTEGER PRIMARY KEY CHECK (only = 0), identity TEXT NOT NULL);
"""


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
        except sqlite3.OperationalError as error:
            raise self._not_writable(str(error)) from error

    @property
    def asked(self) -> int:
        """How many records all runs that share the file asked about; one that was asked about again counts again."""
        with self._transaction(write=False) as database:
            return int(database.execute("SELECT asked FROM counts").fetchone()[0])

    def reserve(self, num: int, budget: int | None) -> bool:
        """Count so many records that are about to be asked about; False, without counting, if the budget has fewer."""
        with self._transaction() as database:
            statement = "UPDATE counts SET asked = asked + ?1 WHERE ?2 IS NULL OR asked + ?1 <= ?2"
            return database.execute(statement, (num, budget)).rowcount == 1

    def give_back(self, num: int) -> None:
        """Count so many records less, which were reserved but not asked about."""
        with self._transaction() as database:
            database.execute("UPDATE counts SET asked = asked - ?", (num,))

    def keep(self, keys: Sequence[bytes], answers: Sequence[object]) -> None:
        """Keep answers; a record that has one already keeps its first."""
        rows = [(key, json.dumps(answer).encode()) for key, answer in zip(keys, answers, strict=True)]
        with self._transaction() as database:
            database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)

    def kept(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """The kept answers among those of these keys."""
        return {key: json.loads(answer) for key, answer in self._select(keys, "record, answer")}

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
            file = descriptor(self.path.parent / "locks")
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

    def _open(self, identity: Mapping[str, object]) -> sqlite3.Connection:
        try:
            return self._connected(identity)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            if self.path is None:
                raise
            aside = _free_name(self.path)
            os.replace(self.path, aside)
            self._remark(
                f"The kept answers in {self.path} are damaged ({error}); they were set aside as {aside.name} and begun "
                "anew, with the count of what was asked, so that the budget begins anew, too."
            )
            return self._connected(identity)

    def _connected(self, identity: Mapping[str, object]) -> sqlite3.Connection:
        place = ":memory:" if self.path is None else str(self.path)
        database = sqlite3.connect(place, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            version = int(database.execute("PRAGMA user_version").fetchone()[0])
            if version > VERSION:
                raise InputError(
                    f"The kept answers in {self.path} are of version {version}, newer than this program's {VERSION}; "
                    "update mia-lightning, or choose another folder by target.asking.responses."
                )
            database.execute("PRAGMA synchronous = FULL")
            if version == 0:
                database.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
                text = json.dumps(dict(identity), sort_keys=True)
                database.execute("INSERT OR IGNORE INTO model VALUES (0, ?)", (text,))
            fault = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if fault != "ok" or database.execute("SELECT count(*) FROM counts").fetchone()[0] != 1:
                raise sqlite3.DatabaseError(str(fault))
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def _transaction(self, *, write: bool = True) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                try:
                    yield self._database
                    self._database.execute("COMMIT")
                except BaseException:
                    if self._database.in_transaction:
                        self._database.execute("ROLLBACK")
                    raise
            except sqlite3.DatabaseError as error:
                raise self._not_writable(str(error)) from error

    def _not_writable(self, reason: str) -> InputError:
        folder = "memory" if self.path is None else f"'{self.path.parent}'"
        return InputError(
            f"Answers cannot be kept in {folder} ({reason}); choose another folder in target.asking.responses, or null "
            "to keep them for this run alone."
        )


def _free_name(path: Path) -> Path:
    names = (path.with_suffix(f".damaged-{number}") for number in range(1, 1000))
    return next(name for name in names if not name.exists())
