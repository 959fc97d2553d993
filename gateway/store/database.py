"""What every SQL database keeps besides the ledger: its migrations, the sites, a few values by name."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.resources import files
from typing import TypeVar

import msgspec

from gateway.model import Site
from gateway.store.base import Record, View
from gateway.store.sql import SqlTransaction, site_from

T = TypeVar("T")

SITE_COLUMNS = "site_id, name, api_key, secret_keys, settings, created_at"
MOVED, MOVING = "moved", "moving"
"""Under which names a database says that it was moved into another, or that another is being moved into it."""

NODES = 1024
"""How many numbers of processes an id has room for."""


def migrations(dialect: str) -> list[tuple[str, str]]:
    """The numbered migrations for a database: (name, SQL without comments)."""
    found = []
    for file in sorted(files("gateway.store").joinpath("schema").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            lines = [re.sub(rf"^--{dialect}\b", "", line) for line in file.read_text().splitlines()]
            sql = re.sub(r"--.*", "", "\n".join(lines))
            if dialect == "postgres":
                # The order of texts decides which of two writes at one time is the newer: no locale may change it.
                sql = re.sub(r"\btext\b", 'text collate "C"', sql)
            found.append((file.name.removesuffix(".sql"), sql))
    return found


class Snapshot:
    """One commit. `read` answers from the read transaction of a connection that nobody else uses meanwhile."""

    def __init__(self, read: Callable[..., Awaitable[list[Record]]]) -> None:
        self._read = read

    async def read(self, statement: str, *arguments: object) -> list[Record]:
        """Rows of the commit."""
        return await self._read(statement, *arguments)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[View]:
        """Itself."""
        yield self


class SqlStore(ABC):
    """The part of the contract of `store.base.Store` that is the same SQL everywhere."""

    dialect: str

    @abstractmethod
    async def open(self) -> None:
        """Connects, creates or migrates the schema."""

    @abstractmethod
    async def close(self) -> None:
        """Ends every connection."""

    @abstractmethod
    async def settled(self) -> tuple[int, int]:
        """How far the outbox is complete, and its last position."""

    @abstractmethod
    async def run(self, work: Callable[[SqlTransaction], Awaitable[T]]) -> T:
        """Does `work` in a write transaction."""

    async def forget(self) -> None:  # noqa: B027 - nothing to do on a server
        """Takes what was deleted out of the files; vacuum does that on a server."""

    @abstractmethod
    async def read(self, statement: str, *arguments: object) -> list[Record]:
        """Rows of the last commit."""

    @abstractmethod
    def snapshot(self) -> AbstractAsyncContextManager[View]:
        """The last commit, whatever is committed while it is read."""

    @abstractmethod
    def stream(self, statement: str, *arguments: object) -> AsyncIterator[Record]:
        """Like `read`, row by row."""

    async def sites(self) -> list[Site]:
        """All sites."""
        sql = f"/* sites.all */ select {SITE_COLUMNS} from sites order by site_id"
        return [site_from(list(r.values())) for r in await self.read(sql)]

    async def save_site(self, site: Site) -> None:
        """Creates or changes a site."""
        keys, settings = msgspec.json.encode(site.secret_keys), msgspec.json.encode(site.settings)
        row = (site.site_id, site.name, site.api_key, keys.decode(), settings.decode(), site.created_at)
        tail = "on conflict (site_id) do update set name = excluded.name, api_key = excluded.api_key,"
        tail += " secret_keys = excluded.secret_keys, settings = excluded.settings"
        await self.run(lambda tx: tx.insert("sites", SITE_COLUMNS, [row], tail))

    async def config(self, name: str) -> str | None:
        """A value kept with the database."""
        rows = await self.read("/* config.get */ select value from config where name = $1", name)
        return str(rows[0]["value"]) if rows else None

    async def set_config(self, name: str, value: str, *, only_if_absent: bool = False) -> str:
        """Keeps a value with the database."""
        action = "do nothing" if only_if_absent else "do update set value = excluded.value"

        async def work(tx: SqlTransaction) -> str:
            await tx.insert("config", "name, value", [(name, value)], f"on conflict (name) {action}")
            return str((await tx.fetch("/* config.get */ select value from config where name = $1", name))[0][0])

        return await self.run(work)
