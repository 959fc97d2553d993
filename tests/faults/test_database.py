"""A database that cannot be written for a while: full disk, a lock held by another process. And several writers."""

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.swarm import UNLIMITED, Swarm, check_all
from tests.server import GatewayServer, wait_for


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(file: Path) -> None:
    """Takes every byte that is left."""
    with file.open("wb", buffering=0) as filler:
        for size in (64 * 1024, 512):
            try:
                while True:
                    filler.write(os.urandom(size))
            except OSError:
                continue


def test_a_full_disk_is_503_and_nothing_is_lost_when_there_is_room_again(tmp_path: Path, small_disk: Path) -> None:
    database = small_disk / "gateway.db"
    environment = UNLIMITED | {"GATEWAY_DATABASE": f"sqlite:///{database}"}
    with GatewayServer(tmp_path, environment=environment) as server:
        with Swarm(server.port, server.site()) as swarm:
            for _ in range(2):
                swarm.wait_for_more()
                fill(small_disk / "filler")
                swarm.wait_for_refusals(number=30)
                assert server.is_ready(), "reading needs no room"
                (small_disk / "filler").unlink()
            swarm.wait_for_more()
        check_all(server, swarm, database)
    assert set(swarm.statuses) == {202, 503}
    assert swarm.retry_after == {5}


def locked(connection: sqlite3.Connection) -> bool:
    """Whether the write lock could be had at this moment. Waiting for it as SQLite does may starve: it sleeps longer
    than a busy gateway leaves it free."""
    try:
        connection.execute("begin immediate")
    except sqlite3.OperationalError:
        return False
    return True


def test_a_database_locked_by_somebody_else_is_503_until_it_is_free(tmp_path: Path) -> None:
    with GatewayServer(tmp_path, environment=UNLIMITED) as server:
        with Swarm(server.port, server.site()) as swarm:
            swarm.wait_for_more()
            other = sqlite3.connect(tmp_path / "gateway.db", timeout=0, isolation_level=None)
            wait_for(lambda: locked(other), 30, "a moment between two commits")
            swarm.wait_for_refusals(number=1)
            other.execute("rollback")
            other.close()
            swarm.wait_for_more()
        check_all(server, swarm)
    assert set(swarm.statuses) == {202, 503}
    assert swarm.retry_after == {5}


class ThreeWorkers(GatewayServer):
    """`gateway serve --workers 3`."""

    arguments = ("serve", "--host", "127.0.0.1", "--workers", "3")


def workers_seen(database: Path) -> int:
    """How many processes have stored events: the ids of each hold a number of its own."""
    connection = sqlite3.connect(database)
    try:
        return len({(row[0] >> 12) & 1023 for row in connection.execute("select event_id from events")})
    finally:
        connection.close()


def test_several_workers_on_one_file_lose_and_double_nothing(tmp_path: Path) -> None:
    with ThreeWorkers(tmp_path, environment=UNLIMITED) as server:
        # Which worker gets a connection is the kernel's choice, and the first one may be ready long before the last.
        with Swarm(server.port, server.site(), browsers=24, reconnecting=True) as swarm:
            wait_for(lambda: workers_seen(tmp_path / "gateway.db") == 3, 60, "events from each of the three workers")
            swarm.wait_for_more(1000)
        check_all(server, swarm)
    assert set(swarm.statuses) == {202}
