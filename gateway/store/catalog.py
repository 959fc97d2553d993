"""What tables a database has, read from the database itself: columns, unique keys, counters. And rows by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.store.base import Record
from gateway.store.database import SqlStore

Key = tuple[Any, ...]

NOT_DATA = ("migrations",)
"""Tables that each database has of its own."""


@dataclass(slots=True)
class Table:
    """A table: its columns in order, its unique keys with the primary one first, the column that counts by itself."""

    name: str
    columns: list[str] = field(default_factory=list)
    keys: list[tuple[str, ...]] = field(default_factory=list)
    counter: str | None = None


async def tables(store: SqlStore) -> dict[str, Table]:
    """The tables of a database by name."""
    found = await (_sqlite_tables(store) if store.dialect == "sqlite" else _postgres_tables(store))
    return {name: table for name, table in found.items() if name not in NOT_DATA}


async def _sqlite_tables(store: SqlStore) -> dict[str, Table]:
    sql = "select name, sql from sqlite_master where type = 'table' and name not like 'sqlite!_%' escape '!'"
    found = {}
    for row in await store.read(f"/* catalog.tables */ {sql} order by name"):
        table = found[row["name"]] = Table(row["name"])
        sql = f"/* catalog.columns */ select name, pk from pragma_table_info('{table.name}') order by cid"
        columns = await store.read(sql)
        table.columns = [c["name"] for c in columns]
        table.keys = [tuple(c["name"] for c in sorted(columns, key=lambda c: c["pk"]) if c["pk"])]
        table.counter = table.keys[0][0] if "autoincrement" in row["sql"].lower() else None
        sql = f"select name from pragma_index_list('{table.name}') where \"unique\" = 1 and partial = 0 order by seq"
        for index in await store.read(f"/* catalog.indexes */ {sql}"):
            sql = f"/* catalog.index */ select name from pragma_index_info('{index['name']}') order by seqno"
            key = tuple(c["name"] for c in await store.read(sql))
            if key not in table.keys and all(key):
                table.keys.append(key)
    return found


async def _postgres_tables(store: SqlStore) -> dict[str, Table]:
    here = "table_schema = current_schema()"
    sql = f"select table_name, column_name, is_identity from information_schema.columns where {here}"
    found: dict[str, Table] = {}
    for row in await store.read(f"/* catalog.columns */ {sql} order by table_name, ordinal_position"):
        table = found.setdefault(row["table_name"], Table(row["table_name"]))
        table.columns.append(row["column_name"])
        if row["is_identity"] == "YES":
            table.counter = row["column_name"]
    sql = (
        "/* catalog.keys */ select c.relname as name, array(select a.attname::text"
        " from unnest(x.indkey) with ordinality k(number, place)"
        " join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number order by k.place) as key"
        " from pg_index x join pg_class c on c.oid = x.indrelid"
        " where c.relnamespace = current_schema()::regnamespace and x.indisunique"
        " and x.indpred is null and x.indexprs is null order by c.relname, x.indisprimary desc, x.indexrelid"
    )
    for row in await store.read(sql):
        found[row["name"]].keys.append(tuple(row["key"]))
    return found


async def number_of_rows(store: SqlStore, table: Table) -> int:
    """How many rows a table has."""
    return int((await store.read(f"/* catalog.count */ select count(*) as n from {table.name}"))[0]["n"])


async def rows(
    store: SqlStore, table: Table, key: Sequence[str], *, after: Key | None, until: Key | None = None, limit: int = 0
) -> dict[Key, Record]:
    """The rows of a table by a unique key, in its order: behind `after`, up to `until`, at most `limit`."""
    names, width = ", ".join(key), len(key)
    conditions: list[str] = []
    arguments: list[Any] = []
    for sign, edge in ((">", after), ("<=", until)):
        if edge is not None:
            places = ", ".join(f"${len(arguments) + n}" for n in range(1, width + 1))
            conditions.append(f"({names}) {sign} ({places})")
            arguments += edge
    sql = f"/* catalog.rows */ select {', '.join(table.columns)} from {table.name}"
    sql += (f" where {' and '.join(conditions)}" if conditions else "") + f" order by {names}"
    found = await store.read(sql + (f" limit {limit}" if limit else ""), *arguments)
    return {tuple(r[c] for c in key): r for r in found}


async def change(store: SqlStore, table: Table, key: Sequence[str], put: Sequence[Record], gone: Sequence[Key]) -> None:
    """Inserts or replaces rows, and deletes others, in one transaction."""
    rest = [c for c in table.columns if c not in key]
    action = f"do update set {', '.join(f'{c} = excluded.{c}' for c in rest)}" if rest else "do nothing"
    tail = f"on conflict ({', '.join(key)}) {action}"
    where = " and ".join(f"{c} = ${n}" for n, c in enumerate(key, 1))

    async def work(tx: Any) -> None:
        for place in gone:
            await tx.execute(f"/* catalog.delete */ delete from {table.name} where {where}", *place)
        if put:
            values = [tuple(r[c] for c in table.columns) for r in put]
            await tx.insert(table.name, ", ".join(table.columns), values, tail)

    await store.run(work)


async def counted(store: SqlStore, table: Table) -> int:
    """The last number that a table's own counter gave."""
    if store.dialect == "sqlite":
        found = await store.read("/* catalog.counted */ select seq from sqlite_sequence where name = $1", table.name)
        return int(found[0]["seq"]) if found else 0
    sequence = f"pg_get_serial_sequence('{table.name}', '{table.counter}')"
    sql = f"/* catalog.counted */ select coalesce(pg_sequence_last_value({sequence}), 0) as seq"
    return int((await store.read(sql))[0]["seq"])


async def count_from(store: SqlStore, table: Table, number: int) -> None:
    """Makes a table's own counter go on behind a number."""

    async def work(tx: Any) -> None:
        if store.dialect == "sqlite":
            await tx.execute("/* catalog.forget */ delete from sqlite_sequence where name = $1", table.name)
            sql = "/* catalog.count_from */ insert into sqlite_sequence (name, seq) values ($1, $2)"
            await tx.execute(sql, table.name, number)
        elif number:
            await tx.fetch(f"select setval(pg_get_serial_sequence('{table.name}', '{table.counter}'), {number})")

    await store.run(work)
