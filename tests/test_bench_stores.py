"""The benchmark of both databases runs, and leaves nothing behind on the server."""

import asyncio

import asyncpg

from gateway import bench_stores
from tests.postgres import Cluster


async def test_every_load_is_measured_on_both(postgres: Cluster, monkeypatch) -> None:
    monkeypatch.setattr(bench_stores, "LOADS", dict([*bench_stores.LOADS.items()][-1:]))
    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(bench_stores, "FLEET", 2)
    costs = await asyncio.wait_for(bench_stores.bench(postgres.url(), 0.3, lambda *n: steps.append(n)), 120)
    (cost,) = costs
    assert min(cost.sqlite_rate, cost.sqlite_us, cost.postgres_rate, cost.postgres_us, cost.fleet_rate) > 0
    assert steps == [(1, 3), (2, 3), (3, 3)]
    connection = await asyncpg.connect(postgres.url())
    names = await connection.fetch("select datname from pg_database where datname like 'gateway_bench%'")
    await connection.close()
    assert names == []
