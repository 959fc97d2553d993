"""A PostgreSQL server of the tests' own: made in a temporary folder, on a free port, stopped by pid."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import asyncpg

from tests.server import free_port

T = TypeVar("T")

FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "unix_socket_directories": "''",
    "log_min_messages": "warning",
}
SAFE = FAST | {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


def program(name: str) -> str | None:
    """Where a program of PostgreSQL is: Debian keeps them out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3]))
    return str(found[-1]) if found else shutil.which(name)


class Cluster:
    """A server with a superuser `postgres` that needs no password. `settings` go into its configuration."""

    def __init__(self, settings: dict[str, str] = FAST) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gateway-postgres-"))
        self.settings = settings
        self.port = free_port()
        self.log = self.folder / "log"
        self._made = 0
        self._shared = ""
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(self.folder, "postgres", "postgres")
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        lines = [f"{k} = {v}" for k, v in {"listen_addresses": "'127.0.0.1'", "port": self.port, **settings}.items()]
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")
        self.start()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, name: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Returns when the server answers."""
        self._run("pg_ctl", "-D", str(self.data), "-l", str(self.log), "-w", "-t", "60", "start")

    def stop(self, mode: str = "fast") -> None:
        """Ends the server and its connections: `fast` in order, `immediate` as a crash would."""
        self._run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "-t", "60", "stop")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, name: str, *arguments: str) -> None:
        path = program(name)
        assert path is not None, "PostgreSQL is missing: python scripts/install_postgres.py"
        command = [path, *arguments]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"}
        # pg_ctl's server inherits what it is given: without a file of its own it would hold a pipe open for ever
        with (self.folder / "out").open("ab") as out:
            done = subprocess.run(
                command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        assert done.returncode == 0, f"{' '.join(command)}:\n{(self.folder / 'out').read_text()[-3000:]}"

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        self._made += 1
        name = f"gateway_{os.getpid()}_{self._made}"
        with_connection(self.url(), lambda connection: connection.execute(f"create database {name}"))
        return self.url(name)

    def emptied(self) -> str:
        """The URL of one database whose tables are empty: a hundred times quicker than a new one."""
        if not self._shared:
            self._shared = self.new_database()
        empty(self._shared)
        return self._shared


def empty(url: str) -> None:
    """Deletes every row of the gateway's tables, if there are any."""

    async def work(connection: asyncpg.Connection) -> None:
        sql = "select tablename from pg_tables where schemaname = current_schema() and tablename <> 'migrations'"
        deletes = [f"delete from {r['tablename']}" for r in await connection.fetch(sql)]
        if deletes:
            await connection.execute("; ".join(deletes))

    with_connection(url, work)


def with_connection(url: str, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    """Does `work` in a thread of its own: the test that asks may be inside an event loop."""

    async def connected() -> T:
        connection = await asyncpg.connect(url)
        try:
            return await work(connection)
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, connected()).result()
