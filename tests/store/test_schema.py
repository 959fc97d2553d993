"""The schema rules that let the same SQL run on a sharded PostgreSQL, read from the catalog of a real one."""

import re
from importlib.resources import files

import asyncpg
import pytest

from gateway.app import make_store
from gateway.errors import BadRequest, SettingError
from gateway.migrate import DISTRIBUTED, LOCAL, shard, statements
from gateway.settings import load
from gateway.store.base import Store
from gateway.store.database import migrations
from gateway.store.sqlite import SqliteStore

INDEXES = """
    select c.relname as "table", i.relname as "index", array_agg(a.attname::text) as columns
    from pg_index x join pg_class c on c.oid = x.indrelid join pg_class i on i.oid = x.indexrelid
    join pg_attribute a on a.attrelid = c.oid and a.attnum = any(x.indkey)
    where c.relnamespace = current_schema()::regnamespace and (x.indisunique or x.indisprimary)
    group by 1, 2
"""


@pytest.fixture
async def connection(postgres_url):
    store = make_store(load({}, database=postgres_url))
    await store.open()
    await store.close()
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


async def test_every_unique_index_holds_the_distribution_column(connection):
    indexes = await connection.fetch(INDEXES)
    assert {r["table"] for r in indexes} >= set(DISTRIBUTED)
    for row in indexes:
        if row["table"] in DISTRIBUTED:
            assert DISTRIBUTED[row["table"]] in row["columns"], dict(row)


async def test_every_table_has_a_primary_key(connection):
    sql = "select tablename from pg_tables where schemaname = current_schema()"
    tables = {r["tablename"] for r in await connection.fetch(sql)}
    sql = "select conrelid::regclass::text as name from pg_constraint where contype = 'p'"
    assert tables <= {r["name"] for r in await connection.fetch(sql)}


async def test_the_rules_are_those_of_the_design(connection):
    by_device = {"devices", "visitors", "events", "properties"}
    assert {t for t, c in DISTRIBUTED.items() if c == "device_id"} == by_device
    assert {t: c for t, c in DISTRIBUTED.items() if t not in by_device} == {
        "identities": "value",
        "profiles": "profile_id",
    }


async def test_no_foreign_key_crosses_tables(connection):
    assert await connection.fetch("select conname from pg_constraint where contype = 'f'") == []


async def test_texts_are_compared_byte_by_byte(connection):
    sql = (
        "select table_name, column_name from information_schema.columns where table_schema = current_schema()"
        " and data_type = 'text' and collation_name is distinct from 'C' and table_name <> 'migrations'"
    )
    assert await connection.fetch(sql) == []


def test_rows_are_locked_by_primary_key_and_nowhere_else():
    locking = []
    for file in files("gateway.store").iterdir():
        if file.name.endswith(".py"):
            code = file.read_text()
            locking += re.findall(r"([^;]{0,200}) for (?:no key )?update\b|lock table|for share", code)
    assert len(locking) == 1
    assert "site_id = $1 and profile_id = $2" in locking[0]


def test_both_databases_have_the_same_tables_and_columns():
    def shape(dialect: str) -> dict[str, list[str]]:
        tables = {}
        for _, sql in migrations(dialect):
            for name, body in re.findall(r"create table (\w+) \((.*?)\n\)", sql, re.S):
                lines = [line.split() for line in body.strip().splitlines() if line.strip()]
                tables[name] = [words[0] for words in lines if words[0] not in (",", "primary", ")")]
        return tables

    assert shape("sqlite") == shape("postgres")


async def test_opening_twice_applies_each_migration_once(connection, postgres_url):
    before = await connection.fetch("select * from migrations order by name")
    store = make_store(load({}, database=postgres_url))
    await store.open()
    await store.close()
    assert await connection.fetch("select * from migrations order by name") == before
    assert [r["name"] for r in before] == [name for name, _ in migrations("postgres")]


async def test_sharding_needs_citus(postgres_url, tmp_path):
    store: Store = make_store(load({}, database=postgres_url))
    await store.open()
    with pytest.raises(BadRequest, match="Citus"):
        await shard(store)
    await store.close()
    with pytest.raises(SettingError, match="only PostgreSQL"):
        await shard(SqliteStore(str(tmp_path / "gateway.db")))


async def test_sharding_covers_every_table(connection):
    sql = "select tablename from pg_tables where schemaname = current_schema() order by 1"
    tables = [r["tablename"] for r in await connection.fetch(sql)]
    calls = statements(tables, set())
    for table in tables:
        assert sum(f"('{table}'" in call for call in calls) == (table not in LOCAL)
    assert "select create_distributed_table('visitors', 'device_id', colocate_with => 'devices')" in calls
    assert "select create_distributed_table('profiles', 'profile_id', colocate_with => 'none')" in calls
    assert statements(tables, set(tables)) == []
