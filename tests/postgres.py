"""A PostgreSQL server of the tests' own: made in a temporary folder, on a free port, stopped by pid."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import asyncpg

from tests import programs
from tests.server import free_port, wait_for

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
ENVIRONMENT = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"}
SAFE = FAST | {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


def program(name: str) -> str | None:
    """Where a program of PostgreSQL is: Debian keeps them out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3]))
    return str(found[-1]) if found else shutil.which(name)


def required(name: str) -> str:
    """The same, for programs without which nothing goes on."""
    return program(name) or programs.required(name)


def as_postgres(*options: str) -> list[str]:
    """What to put before a command that refuses to run as root."""
    if not shutil.which("setpriv"):
        return []
    user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    return ["setpriv", *user, *options, "--"] if user or options else []


class Cluster:
    """A server with a superuser `postgres` that needs no password. `settings` go into its configuration."""

    def __init__(self, settings: dict[str, str] = FAST) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gateway-postgres-"))
        self.settings = settings
        self.port = free_port()
        self.log = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._shared = ""
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(self.folder, "postgres", "postgres")
        options = ["-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        made = subprocess.run(
            [*as_postgres(), required("initdb"), *options], cwd=self.folder, env=ENVIRONMENT, capture_output=True
        )
        assert made.returncode == 0, made.stderr.decode()
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
        # A test run that is killed takes its server along: nobody else would stop it.
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*as_postgres("--pdeathsig", "QUIT"), required("postgres"), "-D", str(self.data)],
                cwd=self.folder,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, timeout=60, message="PostgreSQL")

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"PostgreSQL did not start:\n{self.log.read_text()[-3000:]}")
        try:
            with_connection(self.url(), lambda connection: connection.fetch("select 1"))
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends the server and its connections: SIGINT in order, SIGQUIT as a crash would."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(how)
            process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

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
