"""SQLite: one writer, WAL, synchronous=FULL; readers on connections of their own see the last commit."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import msgspec

from gateway.errors import Unavailable
from gateway.store.base import Record
from gateway.store.database import NODES, SqlStore, migrations
from gateway.store.sql import Rows, SqlTransaction

T = TypeVar("T")

BUSY_MS = 5_000
MAX_VARIABLES = 30_000


@lru_cache(maxsize=1024)
def translate(statement: str) -> str:
    """A statement with $1 and `= any($1)` as SQLite takes it: ?1, and the list as one JSON array."""
    statement = re.sub(r"= any\(\$(\d+)\)", r"in (select value from json_each(?\1))", statement)
    return re.sub(r"\$(\d+)", r"?\1", statement)


def _bind(arguments: Sequence[object]) -> list[Any]:
    return [msgspec.json.encode(a).decode() if isinstance(a, (list, tuple, set)) else a for a in arguments]


class SqliteTransaction(SqlTransaction):
    """The write transaction on the one writer connection."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.connection = connection

    async def lock(self, site_id: int, profile_ids: Collection[int]) -> None:
        """Nothing to do: there is one writer."""

    async def fetch(self, statement: str, *arguments: object) -> Rows:
        return list(await self.connection.execute_fetchall(translate(statement), _bind(arguments)))  # type: ignore[arg-type]

    async def execute(self, statement: str, *arguments: object) -> None:
        await self.connection.execute_fetchall(translate(statement), _bind(arguments))

    async def insert(self, table: str, columns: str, rows: Sequence[Sequence[Any]], tail: str) -> Rows:
        width = columns.count(",") + 1
        per_statement = max(1, MAX_VARIABLES // width)
        found: Rows = []
        for start in range(0, len(rows), per_statement):
            chunk = rows[start : start + per_statement]
            place = f"({', '.join('?' * width)})"
            sql = (
                f"/* {table}.insert */ insert into {table} ({columns}) values {', '.join([place] * len(chunk))} {tail}"
            )
            found += await self.connection.execute_fetchall(sql, [v for row in chunk for v in row])  # type: ignore[arg-type]
        return found


class SqliteStore(SqlStore):
    """A database in one file."""

    dialect = "sqlite"

    def __init__(self, path: str) -> None:
        self.path = path
        self._writer: aiosqlite.Connection | None = None
        self._reader: aiosqlite.Connection | None = None
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Opens the file, makes or migrates the schema."""
        try:
            if self.path != ":memory:":
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            self._writer = await self._connect()
            await self._writer.execute("pragma journal_mode = wal")
            await self._migrate(self._writer)
            self._reader = await self._connect()
            await self._reader.execute("pragma query_only = 1")
        except (sqlite3.Error, OSError) as error:
            await self.close()
            raise Unavailable(f"cannot open the database {self.path}: {error}") from error

    async def _connect(self) -> aiosqlite.Connection:
        connection = await aiosqlite.connect(self.path, isolation_level=None, cached_statements=512)
        for pragma in (f"busy_timeout = {BUSY_MS}", "synchronous = full", "secure_delete = on", "temp_store = memory"):
            await connection.execute(f"pragma {pragma}")
        return connection

    async def _migrate(self, connection: aiosqlite.Connection) -> None:
        await connection.execute("begin immediate")
        try:
            await connection.execute("create table if not exists migrations (name text primary key, applied_at text)")
            done = {row[0] for row in await connection.execute_fetchall("select name from migrations")}
            for name, sql in migrations(self.dialect):
                if name not in done:
                    for statement in sql.split(";"):
                        if statement.strip():
                            await connection.execute(statement)
                    await connection.execute("insert into migrations values (?, datetime('now'))", (name,))
            await connection.execute("commit")
        except BaseException:
            await connection.execute("rollback")
            raise

    async def close(self) -> None:
        """Closes both connections; the last one folds the write-ahead log into the file."""
        for connection in (self._reader, self._writer):
            if connection is not None:
                await connection.close()
        self._reader = self._writer = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqliteTransaction]:
        """The write transaction. Raises Unavailable when the database is locked or its disk is full."""
        writer = self._connection(self._writer)
        async with self._turn:  # groups of commands and, say, a changed site share the one connection
            try:
                await writer.execute("begin immediate")
                try:
                    yield SqliteTransaction(writer)
                    await writer.execute("commit")
                except BaseException:
                    if writer.in_transaction:
                        await writer.execute("rollback")
                    raise
            except sqlite3.OperationalError as error:
                raise Unavailable(f"the database cannot be written now: {error}") from error

    async def run(self, work: Callable[[SqlTransaction], Awaitable[T]]) -> T:
        """Does `work` in the write transaction."""
        async with self.transaction() as tx:
            return await work(tx)

    async def forget(self) -> None:
        """Makes sure that what was deleted is in no file of the database any more."""
        await self._connection(self._writer).execute_fetchall("pragma wal_checkpoint(truncate)")

    async def read(self, statement: str, *arguments: object) -> list[Record]:
        """Rows of the last commit."""
        async with self._connection(self._reader).execute(translate(statement), _bind(arguments)) as cursor:
            rows = await cursor.fetchall()
            names = [d[0] for d in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in rows]

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

    @staticmethod
    def _connection(connection: aiosqlite.Connection | None) -> aiosqlite.Connection:
        if connection is None:
            raise Unavailable("the database is not open")
        return connection
