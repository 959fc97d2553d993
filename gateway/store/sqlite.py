"""SQLite: one writer, WAL, synchronous=FULL; readers on connections of their own see the last commit."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import msgspec

from gateway.errors import Unavailable
from gateway.model import Event, Seen, Visitor
from gateway.store.base import Record, View
from gateway.store.database import NODES, Snapshot, SqlStore, migrations
from gateway.store.sql import EVENT_COLUMNS, Rows, SqlTransaction

T = TypeVar("T")

BUSY_MS = 5_000
READERS = 3
"""How many read at the same time."""
MAX_ROWS = 128
"""Rows of one insert; the widest table keeps below what SQLite takes as variables."""
PRAGMAS = ("synchronous = full", "secure_delete = on", "temp_store = memory")
CONNECTION: dict[str, Any] = {"isolation_level": None, "cached_statements": 512}


@lru_cache(maxsize=1024)
def translate(statement: str) -> str:
    """A statement with $1 and `= any($1)` as SQLite takes it: ?1, and the list as one JSON array."""
    statement = re.sub(r"= any\(\$(\d+)\)", r"in (select value from json_each(?\1))", statement)
    return re.sub(r"\$(\d+)", r"?\1", statement)


def _bind(arguments: Sequence[object]) -> list[Any]:
    return [msgspec.json.encode(a).decode() if isinstance(a, (list, tuple, set)) else a for a in arguments]


class SqliteTransaction(SqlTransaction):
    """The write transaction on the one writer connection.

    Its statements run where they are called: most find their pages in memory and take some microseconds, less than
    handing them to a thread and back. Those that may touch very many rows, and the commit with its sync, have a thread.
    """

    def __init__(self, store: SqliteStore, connection: sqlite3.Connection) -> None:
        self.store = store
        self.connection = connection
        self.in_thread = False

    async def _rows(self, sql: str, arguments: Sequence[Any]) -> Rows:
        if self.in_thread:
            return await self.store.threaded(lambda: self.connection.execute(sql, arguments).fetchall())
        return self.connection.execute(sql, arguments).fetchall()

    async def lock(self, site_id: int, profile_ids: Collection[int]) -> None:
        """Nothing to do: there is one writer."""

    async def fetch(self, statement: str, *arguments: object) -> Rows:
        return await self._rows(translate(statement), _bind(arguments))

    async def execute(self, statement: str, *arguments: object) -> None:
        await self._rows(translate(statement), _bind(arguments))

    async def insert(self, table: str, columns: str, rows: Sequence[Sequence[Any]], tail: str) -> Rows:
        width = columns.count(",") + 1
        found: Rows = []
        for part in _parts(rows):
            sql = _insert(table, columns, width, len(part), tail)
            found += await self._rows(sql, list(chain.from_iterable(part)))
        return found

    async def seen(self, site_id: int, rows: Sequence[Seen]) -> None:
        ordered = [(r.device_id, r.visitor_id, r.events, r.first, r.last) for r in rows]
        for part in _parts(ordered):
            await self._rows(_seen(len(part)), [*chain.from_iterable(part), site_id])

    async def births(self, site_id: int, message_ids: Collection[str]) -> dict[str, int]:
        """Message ids are ordered by time, and few of a moment made a device: all of that moment are soon looked at."""
        sql = (
            "/* births.between */ select message_id, device_id from births"
            " where site_id = $1 and message_id between $2 and $3 limit $4"
        )
        found = await self.fetch(sql, site_id, min(message_ids), max(message_ids), MAX_ROWS)
        if len(found) == MAX_ROWS:
            return await super().births(site_id, message_ids)
        wanted = set(message_ids) if found else ()
        return {r[0]: r[1] for r in found if r[0] in wanted}

    async def add_events(self, site_id: int, events: Sequence[Event]) -> set[int]:
        """Most events are new: only when some are not is it asked which, instead of having each row given back."""
        before = self.connection.total_changes
        for part in _parts(events):
            values: list[Any] = list(chain.from_iterable(part))
            columns = _EVENT_COLUMNS
            if values[_EXTRAS :: len(columns)].count(None) == len(part):  # sqlite3 looks long for how to bind a None
                del values[_EXTRAS :: len(columns)]
                columns = _WITHOUT_EXTRAS
            tail = "on conflict (device_id, message_id) do nothing"
            await self._rows(_insert("events", ", ".join(columns), len(columns), len(part), tail), values)
        ids = {e.event_id for e in events}
        if self.connection.total_changes - before == len(events):
            return ids
        sql = "/* events.added */ select event_id from events where event_id = any($1)"
        return {r[0] for r in await self.fetch(sql, list(ids))}

    async def count_events(self, site_id: int, visitor: Visitor) -> tuple[int, int | None, int | None]:
        with self._long():
            return await super().count_events(site_id, visitor)

    async def erase(self, site_id: int, visitors: Sequence[Visitor], nodes: Collection[int]) -> None:
        with self._long():
            await super().erase(site_id, visitors, nodes)

    @contextmanager
    def _long(self) -> Iterator[None]:
        """Around statements that would keep everybody else waiting."""
        self.in_thread = True
        try:
            yield
        finally:
            self.in_thread = False


_EVENT_COLUMNS = tuple(EVENT_COLUMNS.split(", "))
_EXTRAS = _EVENT_COLUMNS.index("extras")
_WITHOUT_EXTRAS = (*_EVENT_COLUMNS[:_EXTRAS], *_EVENT_COLUMNS[_EXTRAS + 1 :])


def _parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """The rows in parts of 2ⁿ, so that a few statements serve for every number of them and stay prepared."""
    start = 0
    while start < len(rows):
        number = min(MAX_ROWS, 1 << (len(rows) - start).bit_length() - 1)
        yield rows[start : start + number]
        start += number


@lru_cache
def _seen(number: int) -> str:
    return (
        "/* visitors.seen */ update visitors set events = visitors.events + s.column3,"
        " first_seen = min(visitors.first_seen, s.column4), last_seen = max(visitors.last_seen, s.column5)"
        f" from (values {', '.join(['(?, ?, ?, ?, ?)'] * number)}) as s"
        " where visitors.site_id = ? and visitors.device_id = s.column1 and visitors.visitor_id = s.column2"
    )


@lru_cache(maxsize=1024)
def _insert(table: str, columns: str, width: int, number: int, tail: str) -> str:
    place = f"({', '.join('?' * width)})"
    return f"/* {table}.insert */ insert into {table} ({columns}) values {', '.join([place] * number)} {tail}"


async def _records(connection: aiosqlite.Connection, statement: str, *arguments: object) -> list[Record]:
    rows = list(await connection.execute_fetchall(translate(statement), _bind(arguments)))
    names = rows[0].keys() if rows else ()
    return [dict(zip(names, row, strict=True)) for row in rows]


class SqliteStore(SqlStore):
    """A database in one file."""

    dialect = "sqlite"

    def __init__(self, path: str) -> None:
        self.path = path
        self._writer: sqlite3.Connection | None = None
        self._readers: list[aiosqlite.Connection] = []
        self._idle: list[aiosqlite.Connection] = []
        self._reading = asyncio.Semaphore(READERS)
        self._thread: ThreadPoolExecutor | None = None
        self._turn = asyncio.Lock()

    async def threaded(self, work: Callable[[], T]) -> T:
        """Does `work` in the writer's thread; what was begun is awaited even if the caller is cancelled."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    async def open(self) -> None:
        """Opens the file, makes or migrates the schema."""
        self._thread = ThreadPoolExecutor(1, "sqlite")
        try:
            if self.path != ":memory:":
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            self._writer = sqlite3.connect(self.path, check_same_thread=False, **CONNECTION)
            for pragma in (f"busy_timeout = {BUSY_MS}", *PRAGMAS, "journal_mode = wal"):
                self._writer.execute(f"pragma {pragma}")
            self._writer.execute("pragma busy_timeout = 0")  # see _begin
            async with self.transaction() as tx:
                await self._migrate(tx)
            for _ in range(READERS):
                self._readers.append(await self._connect())
                self._idle.append(self._readers[-1])
        except (sqlite3.Error, OSError) as error:
            await self.close()
            raise Unavailable(f"cannot open the database {self.path}: {error}") from error

    async def _connect(self) -> aiosqlite.Connection:
        """A connection to read on."""
        connection = await aiosqlite.connect(self.path, **CONNECTION)
        connection.row_factory = sqlite3.Row
        for pragma in (f"busy_timeout = {BUSY_MS}", *PRAGMAS, "query_only = 1"):
            await connection.execute(f"pragma {pragma}")
        return connection

    async def _migrate(self, tx: SqliteTransaction) -> None:
        tx.in_thread = True
        await tx.execute("create table if not exists migrations (name text primary key, applied_at text)")
        done = {row[0] for row in await tx.fetch("select name from migrations")}
        for name, sql in migrations(self.dialect):
            if name not in done:
                for statement in sql.split(";"):
                    if statement.strip():
                        await tx.execute(statement)
                await tx.execute("insert into migrations values ($1, datetime('now'))", name)

    async def close(self) -> None:
        """Closes all connections; the last one folds the write-ahead log into the file."""
        for reader in self._readers:
            await reader.close()
        if self._writer is not None:
            await self.threaded(self._writer.close)
        if self._thread is not None:
            self._thread.shutdown()
        self._readers, self._idle = [], []
        self._writer = self._thread = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqliteTransaction]:
        """The write transaction. Raises Unavailable when the database is locked or its disk is full."""
        async with self._turn:  # groups of commands and, say, a changed site share the one connection
            writer = self._open_writer()
            try:
                await self._begin(writer)
                try:
                    yield SqliteTransaction(self, writer)
                    await self.threaded(writer.commit)
                except BaseException:
                    await self.threaded(writer.rollback)  # behind whatever the thread still does
                    raise
            except sqlite3.OperationalError as error:
                raise Unavailable(f"the database cannot be written now: {error}") from error

    async def _begin(self, writer: sqlite3.Connection) -> None:
        """Takes the write lock. SQLite's own waiting would hold up everybody else in this process, too."""
        deadline = time.monotonic() + BUSY_MS / 1000
        pause = 0.001
        while True:
            try:
                writer.execute("begin immediate")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.05)

    async def run(self, work: Callable[[SqlTransaction], Awaitable[T]]) -> T:
        """Does `work` in the write transaction."""
        async with self.transaction() as tx:
            return await work(tx)

    async def forget(self) -> None:
        """Makes sure that what was deleted is in no file of the database any more, once the log's readers are done."""
        deadline = time.monotonic() + BUSY_MS / 1000
        while True:
            async with self._turn:
                emptied = await self.threaded(self._empty_log)
            if emptied or time.monotonic() > deadline:
                return
            await asyncio.sleep(0.02)

    def _empty_log(self) -> bool:
        """Folds the write-ahead log into the file and cuts it off; False while somebody reads or writes in it."""
        ((busy, _, _),) = self._open_writer().execute("pragma wal_checkpoint(truncate)").fetchall()
        return not busy

    async def read(self, statement: str, *arguments: object) -> list[Record]:
        """Rows of the last commit."""
        async with self._reader() as connection:
            return await _records(connection, statement, *arguments)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[View]:
        """The last commit, whatever is committed while it is read."""
        async with self._reader() as connection:
            try:
                await connection.execute("begin")  # goes on in its thread although who waited was cancelled
                yield Snapshot(partial(_records, connection))
            finally:
                await connection.rollback()

    async def stream(self, statement: str, *arguments: object) -> AsyncIterator[Record]:
        """Rows of the last commit, one by one, on a connection of their own."""
        connection = await self._connect()
        try:
            async with connection.execute(translate(statement), _bind(arguments)) as cursor:
                names = [d[0] for d in cursor.description or ()]
                async for row in cursor:
                    yield dict(zip(names, row, strict=True))
        finally:
            await connection.close()

    async def settled(self) -> tuple[int, int]:
        """Its last position, twice: there is one writer, and what it took back it takes again."""
        rows = await self.read("/* outbox.end */ select seq from sqlite_sequence where name = 'outbox'")
        end = int(rows[0]["seq"]) if rows else 0
        return end, end

    async def lease_node(self) -> int:
        """The next number, modulo what an id has room for."""
        async with self.transaction() as tx:
            rows = await tx.fetch("/* config.node */ select value from config where name = 'node'")
            node = (int(rows[0][0]) + 1) % NODES if rows else 0
            await tx.insert(
                "config",
                "name, value",
                [("node", str(node))],
                "on conflict (name) do update set value = excluded.value",
            )
        return node

    def _open_writer(self) -> sqlite3.Connection:
        if self._writer is None:
            raise Unavailable("the database is not open")
        return self._writer

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[aiosqlite.Connection]:
        """A connection for one reader alone: while any statement of it is under way, all others see the same commit."""
        async with self._reading:
            self._open_writer()
            idle = self._idle
            connection = idle.pop()
            try:
                yield connection
            finally:
                idle.append(connection)
