"""`gateway migrate`: brings a database's schema up to date, and shards it where Citus is installed."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from gateway.app import make_store
from gateway.errors import BadRequest, SettingError
from gateway.settings import load
from gateway.store.base import Store

DISTRIBUTED = {
    "devices": "device_id",
    "visitors": "device_id",
    "events": "device_id",
    "properties": "device_id",
    "identities": "value",
    "profiles": "profile_id",
}
"""Tables that grow with the visitors of a site, and the column by which a sharded database spreads their rows."""

LOCAL = ("migrations", "config", "outbox", "receivers", "dead_letters")
"""Tables that are only read and written where the gateway connects to."""


def migrate(
    distribute: Annotated[bool, typer.Option(help="shard the tables with Citus, once, on an empty database")] = False,
    database: Annotated[str | None, typer.Option(help="sqlite:///path or postgresql://…; default: settings")] = None,
) -> None:
    """Bring the database's schema up to date; the gateway also does so whenever it starts."""
    settings = load(database=database)

    async def work() -> None:
        store = make_store(settings)
        await store.open()
        try:
            typer.echo("the schema is up to date")
            if distribute:
                for line in await shard(store):
                    typer.echo(line)
        finally:
            await store.close()

    asyncio.run(work())


async def shard(store: Store) -> list[str]:
    """Distributes the tables that are not distributed yet; says what it did. Raises SettingError without Citus."""
    if getattr(store, "dialect", "") != "postgres":
        raise SettingError("GATEWAY_DATABASE: only PostgreSQL with the Citus extension can be sharded")
    if not await store.read("select 1 as found from pg_extension where extname = 'citus'"):
        hint = "create extension citus; or go without --distribute: nothing else needs it"
        raise BadRequest("this database does not have the Citus extension", hint)
    done = {r["name"] for r in await store.read("select logicalrelid::text as name from pg_dist_partition")}
    said = []
    for statement in statements(await _tables(store), done):
        await store.read(statement)
        said.append(statement)
    return said or ["every table is distributed already"]


async def _tables(store: Store) -> list[str]:
    sql = "select tablename as name from pg_tables where schemaname = current_schema() order by tablename"
    return [r["name"] for r in await store.read(sql)]


def statements(tables: list[str], done: set[str]) -> list[str]:
    """Citus's calls: the growing tables by their columns, those of one column type together; the others everywhere."""
    calls = []
    together: dict[str, str] = {}
    for table, column in DISTRIBUTED.items():
        beside = together.setdefault(column, table)
        if table not in done:
            placed = "'none'" if beside == table else f"'{beside}'"
            calls.append(f"select create_distributed_table('{table}', '{column}', colocate_with => {placed})")
    for table in tables:
        if table not in DISTRIBUTED and table not in LOCAL and table not in done:
            calls.append(f"select create_reference_table('{table}')")
    return calls
