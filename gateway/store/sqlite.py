"""SQLite: one writer, WAL, synchronous=FULL; readers on connections of their own see the last commit."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import aiosqlite
import msgspec

from gateway.errors import Unavailable
from gateway.model import Site
from gateway.store.base import Record
from gateway.store.sql import Rows, SqlTransaction, site_from

BUSY_MS = 5_000
MAX_VARIABLES = 30_000
SITE_COLUMNS = "site_id, name, api_key, secret_keys, settings, created_at"


@lru_cache(maxsize=1024)
def translate(statement: str) -> str:
    """A statement with $1 and `= any($1)` as SQLite takes it: ?1, and the list as one JSON array."""
    statement = re.sub(r"= any\(\$(\d+)\)", r"in (select value from json_each(?\1))", statement)
    return re.sub(r"\$(\d+)", r"?\1", statement)


def _bind(arguments: Sequence[object]) -> list[Any]:
    return [msgspec.json.encode(a).decode() if isinstance(a, (list, tuple, set)) else a for a in arguments]


def migrations(dialect: str) -> list[tuple[str, str]]:
    """The numbered migrations for a database: (name, SQL)."""
    found = []
    for file in sorted(files("gateway.store").joinpath("schema").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            lines = file.read_text().splitlines()
            kept = [re.sub(rf"^--{dialect}", "", line) for line in lines]
            found.append((file.name.removesuffix(".sql"), "\n".join(kept)))
    return found


class SqliteTransaction(SqlTransaction):
    """The write transaction on the one writer connection."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.connection = connection

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


class SqliteStore:
    """A database in one file."""

    dialect = "sqlite"

    def __init__(self, path: str) -> None:
        self.path = path
        self._writer: aiosqlite.Connection | None = None
        self._reader: aiosqlite.Connection | None = None

    async def open(self) -> None:
        """Opens the file, makes or migrates the schema."""
        if self.path != ":memory:":
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._writer = await self._connect()
            await self._writer.execute("pragma journal_mode = wal")
            await self._migrate(self._writer)
            self._reader = await self._connect()
            await self._reader.execute("pragma query_only = 1")
        except sqlite3.Error as error:
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
                    for statement in re.sub(r"--.*", "", sql).split(";"):
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

    async def sites(self) -> list[Site]:
        """All sites."""
        sql = f"/* sites.all */ select {SITE_COLUMNS} from sites order by site_id"
        return [site_from(list(r.values())) for r in await self.read(sql)]

    async def save_site(self, site: Site) -> None:
        """Creates or changes a site."""
        keys, settings = msgspec.json.encode(site.secret_keys), msgspec.json.encode(site.settings)
        row = (site.site_id, site.name, site.api_key, keys.decode(), settings.decode(), site.created_at)
        async with self.transaction() as tx:
            tail = "on conflict (site_id) do update set name = excluded.name, api_key = excluded.api_key,"
            tail += " secret_keys = excluded.secret_keys, settings = excluded.settings"
            await tx.insert("sites", SITE_COLUMNS, [row], tail)

    async def config(self, name: str) -> str | None:
        """A value kept with the database."""
        rows = await self.read("/* config.get */ select value from config where name = $1", name)
        return str(rows[0]["value"]) if rows else None

    async def set_config(self, name: str, value: str, *, only_if_absent: bool = False) -> str:
        """Keeps a value with the database."""
        action = "do nothing" if only_if_absent else "do update set value = excluded.value"
        async with self.transaction() as tx:
            await tx.insert("config", "name, value", [(name, value)], f"on conflict (name) {action}")
            return str((await tx.fetch("/* config.get */ select value from config where name = $1", name))[0][0])

    async def lease_node(self) -> int:
        """The next number, modulo what an id has room for."""
        async with self.transaction() as tx:
            rows = await tx.fetch("/* config.node */ select value from config where name = 'node'")
            node = (int(rows[0][0]) + 1) % 1024 if rows else 0
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
