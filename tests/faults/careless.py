"""A gateway that does not wait for its disk: `careless.py -m gateway ARGUMENTS`. The tests must find it out."""

import sys
from typing import Any

from gateway.cli import main
from gateway.store.sqlite import SqliteStore

connect = SqliteStore._connect


async def carelessly(self: SqliteStore) -> Any:
    connection = await connect(self)
    await connection.execute("pragma synchronous = off")
    return connection


SqliteStore._connect = carelessly  # type: ignore[method-assign]
sys.argv = sys.argv[2:]
main()
