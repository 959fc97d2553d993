"""Behind the real pgbouncer in transaction mode, where every transaction may get another connection of the server's."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app import make_store
from gateway.settings import load
from tests.driver import driving
from tests.postgres import Cluster, as_postgres
from tests.programs import required
from tests.server import free_port, wait_for

CASES = json.loads((Path(__file__).parent.parent / "data" / "scenarios.json").read_text())
SETTINGS = """
[databases]
* = host=127.0.0.1 port={server_port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
server_reset_query =
logfile = {folder}/log
pidfile = {folder}/pid
"""


@pytest.fixture(scope="module")
def pooler(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a pooler with two connections to the tests' server."""
    folder, port = Path(tempfile.mkdtemp(prefix="pooler-", dir=postgres.folder)), free_port()
    (folder / "ini").write_text(SETTINGS.format(server_port=postgres.port, port=port, folder=folder))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    command = [*as_postgres("--pdeathsig", "INT"), required("pgbouncer"), str(folder / "ini")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for((folder / "pid").exists, message="pgbouncer")
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)


@pytest.fixture
def pooled(pooler: str, postgres: Cluster) -> str:
    name = postgres.emptied().rpartition("/")[2]
    return f"postgresql://postgres@{pooler}/{name}?statement_cache_size=0&pool_size=6"


@pytest.mark.parametrize("case", CASES[::7], ids=[c["id"] for c in CASES[::7]])
async def test_case(case, pooled):
    async with driving(pooled, device_cap=case["device_cap"], token_cap=case["token_cap"]) as driver:
        await driver.run(case["ops"])
        for check in case["checks"]:
            await driver.check(check)
        await driver.check_refold()


async def test_many_readers_and_writers_share_few_connections(pooled):
    """More connections of ours than the pooler has: each statement finds the one it was prepared on."""
    store = make_store(load({}, database=pooled))
    await store.open()
    sql = "select count(*) as n from config where name = any($1)"
    await store.set_config("name-0", "x")
    for n in range(20):
        writes = [store.set_config(f"name-{i}", str(n)) for i in range(5)]
        reads = [store.read(sql, [f"name-{i}"]) for i in (0, 9) * 5]
        found = (await asyncio.gather(*reads, *writes))[: len(reads)]
        assert [rows[0]["n"] for rows in found] == [1, 0] * 5
    await store.close()
