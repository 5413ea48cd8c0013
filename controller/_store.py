"""The history of calls in an SQLite file, so that it outlives the controller; results of detached ones, too.

Everything is done in one thread of its own, in order: the controller's loop never waits for a disk. If the
file can't be written any more, that is said once, and calls go on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from directview.controller._detached import Kept, Key, kept_of_row, msg_id_of, pack_known
from directview.controller._effects import Keep, Lookup, Record
from directview.controller._history import Row, pages
from directview.controller._query import FIELDS

__all__ = ["Store"]

log: Final = logging.getLogger("directview.controller")

_MOST: Final = 1_000_000
"""Records that are kept; then the oldest are dropped."""
_APPLICATION: Final = int.from_bytes(b"dirv", "big")
"""In the file's head, by which it is known as ours."""
_VERSION: Final = 1
"""Of the tables' layout."""
_TABLES: Final = frozenset({"calls", "results"})
_NUMBERS: Final = ("submitted", "started", "completed", "received")
_TABLE: Final = f"""
CREATE TABLE IF NOT EXISTS calls (
    number INTEGER PRIMARY KEY,
    {", ".join([f"{field} {'REAL' if field in _NUMBERS else ''}" for field in FIELDS])},
    UNIQUE (msg_id)
);
CREATE TABLE IF NOT EXISTS results (
    msg_id TEXT PRIMARY KEY, at REAL, known BLOB, data BLOB
);
CREATE INDEX IF NOT EXISTS open_calls ON calls (client_uuid) WHERE status IS NULL;
"""
_INSERT: Final = f"INSERT OR IGNORE INTO calls VALUES ({', '.join('?' * (len(FIELDS) + 1))})"
_UPDATE: Final = """
UPDATE calls SET engine_id = ?, engine_uuid = ?, started = ?, completed = ?, received = ?, status = ?,
    result_nbytes = ? WHERE msg_id IN (?, ?) AND status IS NULL
"""


class Store:
    """One SQLite file.

    Args:
        path: of the file; made if it isn't there, readable by its owner only.
        resumes: whether calls of an earlier controller may still end; if not, they were lost with it.

    Raises:
        OSError: the file can't be used; the text says why.
    """

    def __init__(self, path: str, *, resumes: bool = False) -> None:
        self._path = path
        self._failed = False
        self._thread = ThreadPoolExecutor(1, "directview-store")
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._database = sqlite3.connect(path, check_same_thread=False, timeout=10.0)
            try:
                last = self._prepare(resumes)
            except BaseException:
                self._database.close()
                raise
        except (OSError, sqlite3.Error) as error:
            raise OSError(f"can't keep the history of calls in {path}: {error}") from error
        self.last = last
        """The highest number of a record."""

    def _prepare(self, resumes: bool) -> int:
        database = self._database
        self._check_ours()
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_TABLE)
        if not resumes:
            database.execute("UPDATE calls SET status = 'lost' WHERE status IS NULL")
            database.commit()
        ((last,),) = database.execute("SELECT max(number) FROM calls")
        return last or 0

    def _check_ours(self) -> None:
        """Nothing is written into a database that isn't ours, or that a later version has made."""
        ((ours,),) = self._database.execute("PRAGMA application_id")
        ((version,),) = self._database.execute("PRAGMA user_version")
        found = self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {name for (name,) in found}
        if ours not in (0, _APPLICATION) or (ours == 0 and tables - _TABLES):
            raise sqlite3.DatabaseError("it is another program's database: name a file of its own")
        if version > _VERSION:
            raise sqlite3.DatabaseError(
                f"a later version of directview has written it (layout {version}; {_VERSION} is known "
                "here): name another file, or install that version"
            )
        self._database.execute(f"PRAGMA application_id = {_APPLICATION}")
        self._database.execute(f"PRAGMA user_version = {_VERSION}")

    # --- what is done, in the thread ----------------------------------------------------------------------

    def _write(self, record: Record) -> None:
        try:
            with self._database:
                self._database.executemany(_INSERT, record.made)
                self._database.executemany(_UPDATE, record.ended)
                self._database.executemany(
                    "UPDATE calls SET status = 'dropped' WHERE client_uuid = ? AND status IS NULL "
                    "AND msg_id NOT IN (SELECT value FROM json_each(?))",
                    [(client, json.dumps(list(kept))) for client, kept in record.dropped],
                )
                if record.made:
                    oldest = record.made[-1][0] - _MOST
                    self._database.execute("DELETE FROM calls WHERE number <= ?", (oldest,))
        except sqlite3.Error:
            self._complain()

    def _keep(self, keep: Keep) -> None:
        try:
            with self._database:
                for key, kept in keep.changes:
                    name = msg_id_of(key)
                    if kept is None:
                        self._database.execute("DELETE FROM results WHERE msg_id = ?", (name,))
                        continue
                    self._database.execute(
                        "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)",
                        (name, kept.at, pack_known(kept), kept.data),
                    )
        except sqlite3.Error:
            self._complain()

    def kept(self) -> Iterator[tuple[Key, Kept]]:
        """Results of detached calls that an earlier controller has kept, oldest first.

        Rows that are damaged are left out, and what is behind a damaged place of the file: that is logged.
        """
        damaged = 0
        try:
            for row in self._database.execute("SELECT msg_id, at, known, data FROM results ORDER BY at"):
                found = kept_of_row(*row)
                if found is None:
                    damaged += 1
                else:
                    yield found
        except sqlite3.Error as error:
            log.error("not all results of detached calls can be read from %s: %s", self._path, error)
        if damaged:
            log.error("%d damaged results of detached calls in %s are left out", damaged, self._path)

    def _complain(self) -> None:
        if not self._failed:
            self._failed = True
            log.error("calls can't be written to %s any more", self._path, exc_info=True)  # noqa: LOG014

    def _find(self, lookup: Lookup) -> Any:
        if lookup.fields is None:
            with self._database:
                self._database.execute(
                    f"DELETE FROM calls WHERE status IS NOT NULL AND {lookup.sql}", lookup.values
                )
            return None
        found = self._database.execute(
            f"SELECT * FROM calls WHERE number > ? AND {lookup.sql} ORDER BY number",
            (lookup.after, *lookup.values),
        )
        rows: Iterator[Row] = iter(found)
        return pages(rows, lookup.fields)

    # --- asked for, on the loop -----------------------------------------------------------------------------

    def write(self, record: Record) -> None:
        """Have a part of the history written."""
        self._thread.submit(self._write, record)

    def keep(self, keep: Keep, done: Callable[[], object]) -> None:
        """Have results of detached calls written, or forgotten.

        Args:
            keep: which.
            done: called on the store's thread when they are, or when that has failed: calls go on.
        """
        self._thread.submit(self._keep, keep).add_done_callback(lambda _: done())

    async def find(self, lookup: Lookup) -> tuple[bool, Any]:
        """Whether it worked, and what was found, or why it did not. All that was written before counts."""
        loop = asyncio.get_running_loop()
        try:
            return True, await loop.run_in_executor(self._thread, self._find, lookup)
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
            return False, f"the history of calls in {self._path} can't be read: {error}"

    def close(self) -> None:
        """Write what is to be written, and close the file. Blocks."""
        self._thread.shutdown(wait=True)
        self._database.close()
