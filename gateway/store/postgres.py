"""PostgreSQL: any number of gateways on one database.

A write runs at READ COMMITTED and is correct because everything it decides from is locked before it is read. What that
is shows only while it is read, so the first attempt may find that it rests on more than it had locked: it writes
nothing and is done again with all of it locked, in the order of ids, so that no two wait for each other in a ring. A
lock is a row of `profiles`, by its primary key; the row with the id of a device stands for the device and its time
line. What can only be found missing (a new identity, a used op id) is told apart by its unique key when it is inserted.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg  # type: ignore[import-untyped]

from gateway.errors import SettingError, Unavailable
from gateway.model import Event, Seen, Stretch, Visitor
from gateway.store.base import Changes, Record, View
from gateway.store.database import NODES, Snapshot, SqlStore, migrations
from gateway.store.sql import KEYS, Rows, SqlTransaction

T = TypeVar("T")

log = logging.getLogger("gateway.store")

ATTEMPTS = 12
POOL_SIZE = 8
MIGRATION_LOCK = 0x7665726F71  # any number that no other program on this database uses
PREPARED = 256
BEGIN = "begin; set local lock_timeout = '5s'; set local statement_timeout = '30s'"

OUTBOX_END = """/* outbox.end */ select s.last, (select count(*) from outbox where position > $1 and position <= s.last)
 as found from (select coalesce(pg_sequence_last_value(pg_get_serial_sequence('outbox', 'position')), 0) as last) s"""

CONFLICTS = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.UniqueViolationError,
)
"""Another gateway was there first: the same work may succeed if it is done again."""

AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    OSError,
    TimeoutError,
)
"""The database cannot be reached or cannot write now."""

PARAMETERS = (asyncpg.UndefinedObjectError, asyncpg.CantChangeRuntimeParamError, asyncpg.InvalidParameterValueError)
"""The address has a parameter that the server does not take."""

UNUSABLE = (
    "GATEWAY_DATABASE is no address of a database",
    "write postgresql://user:password@host:5432/name, with %40 for @ and %2F for / in the password",
)


class Again(Exception):
    """The work rested on rows that were not locked when it read them, or that somebody else made meanwhile."""


Lock = tuple[int, int]
"""(site, profile)"""


class PostgresTransaction(SqlTransaction):
    """One attempt at a group of requests, on a connection that is in a transaction."""

    def __init__(self, connection: Any, types: dict[str, dict[str, str]]) -> None:
        self.connection = connection
        self.types = types
        self.locked: set[Lock] = set()
        self.missing: set[Lock] = set()
        self._read = False

    # --- locks ---------------------------------------------------------------------------------------------------

    async def lock(self, site_id: int, profile_ids: Collection[int]) -> None:
        """Locks at once what is asked for before anything was read; afterwards only notes what was not locked."""
        wanted = {(site_id, i) for i in profile_ids} - self.locked
        if self._read:
            self.missing |= wanted
        elif wanted:
            await self.take(wanted)

    async def take(self, locks: Iterable[Lock]) -> None:
        """Locks rows by primary key, in the order of keys; makes those that do not exist."""
        self.locked |= set(locks)
        ordered = sorted(self.locked)
        sql = (
            "/* profiles.lock */ select site_id, profile_id from profiles"
            " where site_id = $1 and profile_id = $2 for update"
        )
        found = {(r[0], r[1]) for r in await self.connection.fetchmany(sql, ordered)}
        absent = [k for k in ordered if k not in found]
        if not absent:
            return
        sql = (
            "/* profiles.place */ insert into profiles (site_id, profile_id, root, live)"
            " select site_id, profile_id, profile_id, 0"
            " from unnest($1::bigint[], $2::bigint[]) as new(site_id, profile_id)"
            " on conflict (site_id, profile_id) do nothing returning profile_id"
        )
        sites, profiles = [k[0] for k in absent], [k[1] for k in absent]
        if len(await self.connection.fetch(sql, sites, profiles)) < len(absent):
            raise Again  # somebody else made one of them meanwhile

    async def last_seq(self, site_id: int) -> int:
        """Says nothing about what is locked: only that what is written now comes behind it."""
        return await self._aside(super().last_seq(site_id))

    async def births(self, site_id: int, message_ids: Collection[str]) -> dict[str, int]:
        """Needs no lock: two that make the same device are told apart by the key."""
        return await self._aside(super().births(site_id, message_ids))

    async def stretches(self, site_id: int, device_ids: Collection[int], since: int) -> list[Stretch]:
        """What is locked after it does not rest on it."""
        return await self._aside(super().stretches(site_id, device_ids, since))

    async def _aside(self, question: Awaitable[T]) -> T:
        before = self._read
        answer = await question
        self._read = before
        return answer

    def _check(self) -> None:
        if self.missing:
            raise Again

    # --- statements ----------------------------------------------------------------------------------------------

    async def fetch(self, statement: str, *arguments: object) -> Rows:
        self._read = True
        return [tuple(r) for r in await self.connection.fetch(statement, *arguments)]

    async def execute(self, statement: str, *arguments: object) -> None:
        self._check()
        await self.connection.execute(statement, *arguments)

    async def insert(self, table: str, columns: str, rows: Sequence[Sequence[Any]], tail: str) -> Rows:
        self._check()
        names = [c.strip() for c in columns.split(",")]
        types = self.types[table]
        arrays = ", ".join(f"${n}::{types[name]}[]" for n, name in enumerate(names, 1))
        sql = f"/* {table}.insert */ insert into {table} ({columns}) select * from unnest({arrays}) {tail}"
        return [tuple(r) for r in await self.connection.fetch(sql, *map(list, zip(*rows, strict=True)))]

    async def create(self, table: str, site_id: int, columns: str, rows: Iterable[Sequence[Any]]) -> None:
        """Inserts new rows; somebody else's row under the same key means that they were decided on too little."""
        whole = [(site_id, *row) for row in rows]
        if not whole:
            return
        names = ["site_id", *(c.strip() for c in columns.split(","))]
        places = [names.index(c) for c in KEYS[table].split(", ")]
        kept = {tuple(row[p] for p in places): row for row in whole}
        tail = f"on conflict ({KEYS[table]}) do nothing returning 1"
        made = await self.insert(table, ", ".join(names), [kept[k] for k in sorted(kept)], tail)
        if len(made) < len(kept):
            raise Again

    async def seen(self, site_id: int, rows: Sequence[Seen]) -> None:
        sql = (
            "/* visitors.seen */ update visitors set events = visitors.events + s.events,"
            " first_seen = least(visitors.first_seen, s.first), last_seen = greatest(visitors.last_seen, s.last)"
            " from unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])"
            " as s(device_id, visitor_id, events, first, last)"
            " where visitors.site_id = $1 and visitors.device_id = s.device_id and visitors.visitor_id = s.visitor_id"
        )
        ordered = sorted((r.device_id, r.visitor_id, r.events, r.first, r.last) for r in rows)
        await self.execute(sql, site_id, *map(list, zip(*ordered, strict=True)))

    async def add_events(self, site_id: int, events: Sequence[Event]) -> set[int]:
        """An attempt that will be done again goes on without writing, to learn all that it rests on."""
        if self.missing:
            return {e.event_id for e in events}
        ordered = sorted(events, key=lambda e: (e.device_id, e.message_id))
        return await super().add_events(site_id, ordered)

    async def erase(self, site_id: int, visitors: Sequence[Visitor], nodes: Collection[int]) -> None:
        if not self.missing:
            await super().erase(site_id, visitors, nodes)

    async def save(self, site_id: int, changes: Changes) -> None:
        self._check()
        await super().save(site_id, changes)


async def _records(connection: Any, statement: str, *arguments: object) -> list[Record]:
    return [dict(r) for r in await connection.fetch(statement, *arguments)]


class PostgresStore(SqlStore):
    """A PostgreSQL database, over a pool of connections.

    The URL may say `pool_size=N`, and `statement_cache_size=0` where a pooler in transaction mode stands between.
    """

    dialect = "postgres"

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise SettingError(*UNUSABLE) from error
        options = dict(parse_qsl(parts.query))
        self._pool_size = _number(options, "pool_size", POOL_SIZE)
        self._prepared = _number(options, "statement_cache_size", PREPARED)
        self._url = urlunsplit(parts._replace(query=urlencode(options)))
        self._pool: Any = None
        self._types: dict[str, dict[str, str]] = {}
        self._settled = 0
        self._fence: tuple[int, int] | None = None

    async def open(self) -> None:
        """Connects, makes or migrates the schema."""
        try:
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=0,
                max_size=max(self._pool_size, 2),
                statement_cache_size=self._prepared,
                timeout=5,
                command_timeout=60,
                reset=_nothing_to_reset,
            )
            async with self._connection() as connection, connection.transaction():
                await self._migrate(connection)
                self._types = await _column_types(connection)
        except AWAY as error:
            await self.close()
            raise Unavailable(f"cannot open the database: {error}") from error
        except asyncpg.InsufficientPrivilegeError as error:
            await self.close()
            hint = "its user makes the tables: grant create, usage on schema public to that user"
            raise SettingError(f"GATEWAY_DATABASE: the database refuses: {error}", hint) from error
        except PARAMETERS as error:
            await self.close()
            raise SettingError(
                f"GATEWAY_DATABASE: the database refuses: {error}", "correct what follows the ?"
            ) from error
        except (ValueError, OverflowError) as error:  # what it says may be a part of the password
            await self.close()
            raise SettingError(*UNUSABLE) from error
        except BaseException:
            await self.close()
            raise

    async def _migrate(self, connection: Any) -> None:
        """Applies what is not applied yet; gateways that start together wait for each other."""
        await connection.execute(f"select pg_advisory_xact_lock({MIGRATION_LOCK})")
        sql = "create table if not exists migrations (name text primary key, applied_at timestamptz not null)"
        await connection.execute(sql)
        done = {r[0] for r in await connection.fetch("select name from migrations")}
        for name, sql in migrations(self.dialect):
            if name not in done:
                await connection.execute(sql)
                await connection.execute("insert into migrations values ($1, now())", name)

    async def close(self) -> None:
        """Ends every connection."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                await asyncio.wait_for(pool.close(), 5)
            except (TimeoutError, *AWAY):
                pool.terminate()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        if self._pool is None:
            raise Unavailable("the database is not open")
        async with self._pool.acquire(timeout=10) as connection:
            yield connection

    # --- writing -------------------------------------------------------------------------------------------------

    async def run(self, work: Callable[[SqlTransaction], Awaitable[T]]) -> T:
        """Does `work` in a transaction, again if it met others, at most `ATTEMPTS` times."""
        locks: set[Lock] = set()
        for attempt in range(ATTEMPTS):
            if attempt > 2:
                await asyncio.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 7)))
            try:
                return await self._attempt(work, locks)
            except Again:
                pass
            except CONFLICTS as error:
                log.debug("done again after %s", type(error).__name__)  # its text may name somebody
            except AWAY as error:
                raise _unavailable("written", error) from error
        raise Unavailable("too many others write about the same people now", "send the same request again")

    async def _attempt(self, work: Callable[[SqlTransaction], Awaitable[T]], locks: set[Lock]) -> T:
        """One attempt; `locks` grows by what it turned out to rest on."""
        async with self._connection() as connection:
            await connection.execute(BEGIN)
            tx = PostgresTransaction(connection, self._types)
            try:
                if locks:
                    await tx.take(locks)
                result = await work(tx)
                await connection.execute("commit")
                return result
            except BaseException as error:
                if not connection.is_closed():
                    await connection.execute("rollback")
                if tx.missing and isinstance(error, Exception) and not isinstance(error, AWAY):
                    raise Again from error  # decided on rows that others were changing, so it says nothing
                raise
            finally:
                locks |= tx.locked | tx.missing

    # --- reading -------------------------------------------------------------------------------------------------

    async def read(self, statement: str, *arguments: object) -> list[Record]:
        """Rows of the last commit. Raises Unavailable if the database cannot be reached."""
        try:
            async with self._connection() as connection:
                return await _records(connection, statement, *arguments)
        except AWAY as error:
            raise _unavailable("read", error) from error

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[View]:
        """The last commit, whatever is committed while it is read."""
        try:
            at_once = {"isolation": "repeatable_read", "readonly": True}
            async with self._connection() as connection, connection.transaction(**at_once):
                yield Snapshot(partial(_records, connection))
        except AWAY as error:
            raise _unavailable("read", error) from error

    async def stream(self, statement: str, *arguments: object) -> AsyncIterator[Record]:
        """Rows of the last commit, a few hundred at a time."""
        try:
            async with self._connection() as connection, connection.transaction(readonly=True):
                async for row in connection.cursor(statement, *arguments, prefetch=500):
                    yield dict(row)
        except AWAY as error:
            raise _unavailable("read", error) from error

    async def settled(self) -> tuple[int, int]:
        """A missing position belongs to a transaction under way, or was never used.

        A transaction has its number (xid) before it takes a position. So what is missing now will never come once every
        transaction with a lower number than one made now is over.
        """
        start = self._settled
        rows = await self.read(OUTBOX_END, start)
        end, found = int(rows[0]["last"]), int(rows[0]["found"])
        if found == end - start:
            self._settled = max(self._settled, end)
        else:
            if self._fence is None:
                number = "/* outbox.fence */ select pg_current_xact_id()::text::bigint"
                self._fence = (end, int((await self.run(lambda tx: tx.fetch(number)))[0][0]))
            await self._pass(self._fence)
        return self._settled, end

    async def _pass(self, fence: tuple[int, int]) -> None:
        """Looks whether everything before a fence is over; it mostly is in a moment."""
        up_to, xid = fence
        sql = "/* outbox.over */ select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as oldest"
        for pause in (0.01, 0.02, 0.04, 0):
            if int((await self.read(sql))[0]["oldest"]) > xid:
                self._settled = max(self._settled, up_to)
                self._fence = None if self._fence == fence else self._fence
                return
            await asyncio.sleep(pause)

    async def lease_node(self) -> int:
        """The next number of a sequence, modulo what an id has room for."""
        rows = await self.run(lambda tx: tx.fetch("/* nodes.next */ select nextval('nodes')"))
        return int(rows[0][0]) % NODES


async def _column_types(connection: Any) -> dict[str, dict[str, str]]:
    sql = (
        "select c.relname, a.attname, format_type(a.atttypid, null) from pg_attribute a"
        " join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = current_schema() and c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped"
    )
    types: dict[str, dict[str, str]] = {}
    for table, column, kind in await connection.fetch(sql):
        types.setdefault(table, {})[column] = kind
    return types


def _unavailable(done: str, error: Exception) -> Unavailable:
    return Unavailable(f"the database cannot be {done} now: {str(error) or type(error).__name__}")


async def _nothing_to_reset(connection: Any) -> None:
    """All settings are local to a transaction: a round trip saved on every use."""


def _number(options: dict[str, str], name: str, default: int) -> int:
    text = options.pop(name, str(default))
    if not text.isdigit():
        raise SettingError(f"GATEWAY_DATABASE: {name} cannot be {text!r}", "write a whole number")
    return int(text)
